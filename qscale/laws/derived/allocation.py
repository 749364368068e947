"""How to spend compute: size against data, data against repetition, full precision against QAT."""

from __future__ import annotations

import math
from typing import NamedTuple


class Allocation(NamedTuple):
    """A model and its data, raw counts."""

    N: float
    D: float


def compute_optimal(
    compute: float,
    *,
    A: float,
    B: float,
    alpha: float,
    beta: float,
    cost: float = 6.0,
    share: float = 1.0,
) -> Allocation:
    """The size and data of least loss ``A / (share * N)^alpha + B / D^beta`` for ``cost * N * D = compute``.

    ``share * N = g * (share * compute / cost)^(beta / (alpha + beta))``, ``g = (alpha A / (beta B))^(1 /
    (alpha + beta))``. ``cost`` is 6 in FLOP; ``share`` counts precision as a smaller model: with ``cost = 6 /
    16 * P`` and ``share = share_of_bits(P, ...)`` it is the optimum at P bits (arXiv:2411.04330; its two
    printed exponents differ from each other, these are re-derived).

    Example:
        >>> from qscale import laws
        >>> p = laws.load("hoffmann2022/chinchilla").parameters
        >>> best = compute_optimal(5.76e23, **{name: p[name] for name in ("A", "B", "alpha", "beta")})
        >>> print(f"{best.N:.4g} {best.D:.4g}")
        4.036e+10 2.379e+12

    Source: arXiv:2203.15556, approach 3.
    """
    budget = compute / cost
    g = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    size = g * (share * budget) ** (beta / (alpha + beta)) / share
    return Allocation(N=size, D=budget / size)


def optimal_exponents(alpha: float, beta: float) -> tuple[float, float]:
    """a and b of ``N ~ C^a`` and ``D ~ C^b`` along the optimum: ``beta / (alpha + beta)`` and the rest to 1.

    Example:
        >>> round(optimal_exponents(0.3473105, 0.3671724)[0], 4)
        0.5139
    """
    return beta / (alpha + beta), alpha / (alpha + beta)


def contour_slope(gN: float, gD: float) -> float:
    """Slope in (log N, log D) of the lines of equal delta: doubling N lets D grow by ``2^slope``.

    Example:
        >>> round(contour_slope(gN=0.2186, gD=0.0745), 3)  # chen2025/w4a4
        2.934

    Source: arXiv:2505.14302.
    """
    return gN / gD


def critical_tokens(*, B: float, beta: float, delta: float, gD: float) -> float:
    """The data from which on more training raises the quantized loss.

    ``B / D^beta + delta * D^gD`` is least at ``D = (beta B / (gD delta))^(1 / (gD + beta))``. ``delta`` is
    what the law of the delta gives at D = 1 and the size, bits and groups in question.

    Example:
        >>> from qscale import laws
        >>> base, ptq = laws.load("kumar2025/baseline").parameters, laws.load("kumar2025/ptq")
        >>> at_one = ptq.predict(N=1e9, D=1, P=4)
        >>> gD = ptq.parameters["gD"]
        >>> print(f"{critical_tokens(B=base['B'], beta=base['alpha'], delta=at_one, gD=gD):.3e}")
        2.946e+11

    Source: arXiv:2411.04330, section on PTQ; the same holds for every delta that is a power of D.
    """
    return float((beta * B / (gD * delta)) ** (1 / (gD + beta)))


def optimal_qat_fraction(*, N: float, D: float, bits: float, a: float = 6.7297) -> float:
    """The share of D tokens that QAT should have: ``exp(-a / ln S)``, ``S = 8 D / (N * bits)``; 0 if S <= 1.

    Mean absolute error as printed 0.091. The natural logarithm is assumed.

    Example:
        >>> round(optimal_qat_fraction(N=1e9, D=50e9, bits=4), 6)  # S = 100
        0.231926

    Source: arXiv:2509.22935.
    """
    s = 8 * D / (N * bits)
    return math.exp(-a / math.log(s)) if s > 1 else 0.0


def effective_tokens(D: float, U: float, R_D: float = 15.387756) -> float:
    """What D tokens are worth when only U of them are different: ``U + U R_D (1 - exp(-(D / U - 1) / R_D))``.

    Example:
        >>> [round(effective_tokens(epochs, 1), 2) for epochs in (1, 4, 16, 64)]
        [1, 3.73, 10.58, 16.13]

    Source: arXiv:2305.16264; of its fit, not refitted.
    """
    return U * (1 - R_D * math.expm1(-(D / U - 1) / R_D)) if D > U else D


def worth_of_a_token(D: float, U: float, R_D: float = 15.387756) -> float:
    """What one more token adds to :func:`effective_tokens`, from 1 at the first repeat down to 0.

    Example:
        >>> round(worth_of_a_token(4e9, 1e9), 2)
        0.82
    """
    return math.exp(-(D / U - 1) / R_D) if D > U else 1.0


def critical_batch(loss: float, scale: float = 2e8, exponent: float = 0.21) -> float:
    """Tokens of a batch above which more parallel work saves few steps: ``scale / loss^(1 / exponent)``.

    Example:
        >>> round(critical_batch(3.0))
        1069114

    Source: arXiv:2001.08361 (its table prints 2.1e8 for the scale).
    """
    return float(scale / loss ** (1 / exponent))


def least_steps(steps: float, batch: float, critical: float) -> float:
    """Steps that a batch far above the critical one would need: ``S / (1 + critical / batch)``.

    Example:
        >>> least_steps(1e5, batch=5e5, critical=5e5)
        50000.0

    Source: arXiv:2001.08361.
    """
    return steps / (1 + critical / batch)


def least_tokens(N: float) -> float:
    """Data that keep a model of N parameters from over-fitting, ``5e3 N^0.74``.

    Example:
        >>> print(f"{least_tokens(1e9):.4e}")
        2.2854e+10

    Source: arXiv:2001.08361.
    """
    return float(5e3 * N**0.74)


def kaplan_allocation(compute: float) -> dict[str, float]:
    """Size N, batch B in tokens, steps S and data D of the optimum of Kaplan et al. at compute in PF-days.

    The exponents 0.73, 0.24, 0.03 and 0.27 come of warm-ups too long for small models, the head's FLOP left
    out and rates not tuned by size (arXiv:2406.19146): for comparison, not for planning.

    Example:
        >>> kaplan_allocation(1.0)
        {'N': 1300000000.0, 'B': 2000000.0, 'S': 5400.0, 'D': 20000000000.0}

    Source: arXiv:2001.08361.
    """
    at_one = {"N": (1.3e9, 0.73), "B": (2.0e6, 0.24), "S": (5.4e3, 0.03), "D": (2e10, 0.27)}
    return {name: value * compute**power for name, (value, power) in at_one.items()}
