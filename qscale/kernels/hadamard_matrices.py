"""Hadamard matrices of the orders that are no power of two, by construction; no torch.

Order q + 1 for a prime power q = 3 mod 4 (Paley I), or 2 (q + 1) for q = 1 mod 4 (Paley II); the four orders
up to 172 that these leave out are Williamson's. Larger sizes are the Kronecker product with Sylvester's
matrix, which the transform does by sums and differences: 40 is 20 x 2.

Sources: Paley, "On orthogonal matrices", J. Math. Phys. 12 (1933), 311-320. Williamson, "Hadamard's
determinant theorem and the sum of four squares", Duke Math. J. 11 (1944), 65-81, which has order 172.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Signs = npt.NDArray[np.int8]

#: The orders that no smaller one serves: 1, and four times an odd number.
BASES = (1, *range(12, 173, 8))

# Order 4 t for each t here: the first rows of four symmetric circulant matrices A, B, C, D of order t whose
# squares sum to 4 t I. Written are elements 1 to (t - 1) / 2; element 0 is 1, element -s is element s. The
# tests check the sum. Each t was searched exhaustively: the squares of the four real spectra sum to 4 t at
# every frequency, which leaves few rows. Those of 43 are constant on the cosets of the sixth roots of unity,
# seven free signs a row.
_WILLIAMSON = {
    23: ("--++-++++--", "++-+-+-++-+", "---++-+-+++", "-----+++--+"),
    29: ("+-++++----+--+", "++--+++-+-++-+", "+-+++------+-+", "--++-+-+-++++-"),
    39: ("---+--++++----+-+-+", "---+---+-++-++----+", "+--+++-+--++-+-----", "-++------++--+-+-++"),
    43: ("++---++--+-+-+-++----", "+-+-++++-+--+--+++--+", "++++-++----+-++--++-+", "-++-----++++-+-+++-++"),
}


def decompose(size: int) -> tuple[int, int] | None:
    """``(m, 2**k)`` with ``m * 2**k == size`` and ``m`` in :data:`BASES`; None where there is none.

    >>> decompose(1024), decompose(40), decompose(3584), decompose(130)
    ((1, 1024), (20, 2), (28, 128), None)
    """
    if size < 1:
        return None
    odd = size // (size & -size)
    base = 1 if odd == 1 else 4 * odd
    return (base, size // base) if base in BASES and size % base == 0 else None


def nearest_sizes(size: int) -> tuple[int, ...]:
    """The largest supported size below and the smallest above.

    >>> nearest_sizes(130)
    (128, 132)
    """
    sizes = {base << k for base in BASES for k in range(max(size, 1).bit_length() + 1)}
    below = [s for s in sizes if s < size]
    return (*([max(below)] if below else []), min(s for s in sizes if s > size))


@lru_cache
def base_matrix(order: int) -> Signs:
    """H of one of :data:`BASES`, entries 1 and -1, ``H @ H.T == order * I``. Read-only.

    Paley I where ``order - 1`` is a prime power: the identity and a skew matrix, so not symmetric. Williamson
    for 92, 116, 156 and 172: not symmetric. Paley II otherwise (36, 52, 76, 100, 124, 148): symmetric.
    """
    if order not in BASES:
        raise ValueError(f"there is no base matrix of order {order}; known: {BASES}")
    if order == 1:
        matrix = np.ones((1, 1), np.int8)
    elif order // 4 in _WILLIAMSON:
        matrix = _williamson(_WILLIAMSON[order // 4])
    elif _prime_power(order - 1) is not None:
        matrix = _paley_1(order - 1)
    else:
        matrix = _paley_2(order // 2 - 1)
    matrix.flags.writeable = False
    return matrix


def _paley_1(q: int) -> Signs:
    matrix = np.ones((q + 1, q + 1), np.int8)
    matrix[1:, 0] = -1
    matrix[1:, 1:] = _character_of_differences(q) + np.eye(q, dtype=np.int8)
    return matrix


def _paley_2(q: int) -> Signs:
    conference = np.ones((q + 1, q + 1), np.int8)
    conference[0, 0] = 0
    conference[1:, 1:] = _character_of_differences(q)
    inside = np.array([[1, 1], [1, -1]], np.int8)
    on_diagonal = np.array([[1, -1], [-1, -1]], np.int8)
    return np.kron(conference, inside) + np.kron(np.eye(q + 1, dtype=np.int8), on_diagonal)


def _williamson(halves: tuple[str, ...]) -> Signs:
    a, b, c, d = (_symmetric_circulant(half) for half in halves)
    return np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]])


def _symmetric_circulant(half: str) -> Signs:
    signs = [1 if sign == "+" else -1 for sign in half]
    row = np.array([1, *signs, *reversed(signs)], np.int8)
    places = np.arange(len(row))
    return np.asarray(row[places[:, None] - places[None, :]], np.int8)


def _character_of_differences(q: int) -> Signs:
    """``chi(a - b)`` for all a, b of the field of q elements: 0 for 0, 1 for a square, else -1.

    An element is a polynomial over the integers mod p, numbered by its coefficients read in base p.
    """
    prime, degree = _prime_power(q) or (q, 1)
    weights = prime ** np.arange(degree)
    elements = np.arange(q)[:, None] // weights % prime
    character = np.full(q, -1, np.int8)
    character[_squares(elements, prime) @ weights] = 1
    character[0] = 0
    differences = (elements[:, None] - elements[None, :]) % prime
    return np.asarray(character[differences @ weights], np.int8)


def _squares(elements: npt.NDArray[np.int64], prime: int) -> npt.NDArray[np.int64]:
    """The square of each row, modulo an irreducible polynomial."""
    count, degree = elements.shape
    product = np.zeros((count, 2 * degree - 1), np.int64)
    for power in range(degree):
        product[:, power : power + degree] += elements[:, power, None] * elements
    tail = _tail(prime, degree)
    for power in range(2 * degree - 2, degree - 1, -1):
        product[:, power - degree : power] += product[:, power, None] * tail
    return product[:, :degree] % prime


@lru_cache
def _tail(prime: int, degree: int) -> npt.NDArray[np.int64]:
    """Coefficients t with ``x**degree = t(x)`` in the field: up to degree 3, no root means irreducible."""
    values = np.arange(prime)
    for number in range(prime**degree):
        tail = number // prime ** np.arange(degree) % prime
        powers = values[:, None] ** np.arange(degree)
        if degree == 1 or np.all((values**degree - powers @ tail) % prime):
            return tail
    raise AssertionError(f"no irreducible polynomial of degree {degree} over {prime}")


def _prime_power(q: int) -> tuple[int, int] | None:
    """``(p, k)`` with ``p**k == q`` and p prime."""
    prime = next((p for p in range(2, q + 1) if q % p == 0), None)
    if prime is None:
        return None
    degree = 1
    while prime**degree < q:
        degree += 1
    return (prime, degree) if prime**degree == q else None
