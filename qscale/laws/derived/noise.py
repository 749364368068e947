"""Relative error of rounding random groups: ``E[(x - q)^2] / E[x^2]``, and the same in dB (QSNR).

For plots and starting points: measured tensors are not random, and training adapts them to the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Density = Literal["gaussian", "laplace", "student5"]

#: ln of the values at which densities are integrated: from nothing to far out in the tail of Student's t.
_LOGS: NDArray[np.float64] = np.linspace(-12.0, 12.0, 4801)


def _gaussian(t: float) -> float:
    return math.erfc(t / math.sqrt(2))


def _laplace(t: float) -> float:
    return math.exp(-t)


def _student5(t: float) -> float:
    angle = math.atan2(math.sqrt(5), t)  # from the far end, where the tail is small
    sine, cosine = math.sin(angle), math.cos(angle)
    return max(0.0, (2 / math.pi) * (angle - sine * cosine * (1 + 2 / 3 * sine**2)))


#: P(|x| > t) and E[x^2].
_DENSITIES: dict[str, tuple[Callable[[float], float], float]] = {
    "gaussian": (_gaussian, 1.0),
    "laplace": (_laplace, 2.0),
    "student5": (_student5, 5 / 3),
}


def crest_squared(G: int, density: Density = "gaussian") -> float:
    """``E[max^2] / E[x^2]`` over groups of G independent values: the squared crest factor.

    ``integral of 2 t (1 - P(|x| < t)^G)``; for Gaussian values it grows like ``2 ln G``, which is why a power
    of log2 G describes absmax integers.

    Example:
        >>> round(crest_squared(128), 4), round(crest_squared(128, "laplace"), 4)
        (8.1483, 15.5781)
    """
    tail, energy = _DENSITIES[density]
    beyond = np.array([tail(float(t)) for t in np.exp(_LOGS)])
    some = -np.expm1(G * np.log1p(-np.minimum(beyond, 1 - 1e-16)))  # the chance that one of G is beyond t
    values = 2 * np.exp(2 * _LOGS) * some
    step = float(_LOGS[1] - _LOGS[0])
    return float(step * (values.sum() - (values[0] + values[-1]) / 2)) / energy


def rounding_error(bits: int, G: int, density: Density = "gaussian") -> float:
    """Relative error of symmetric integers of 3 or more bits, scale ``absmax / Q``, ``Q = 2^(bits - 1) - 1``.

    ``crest_squared (G - 1) / (12 Q^2 G)``: the largest value is exact, the error of the others uniform.
    Against exact integration at G of 16 to 1024: Gaussian values 0.04% off at 4 bits and 0.21% at 3, Laplace
    1.3 to 3.9% at 4 bits and 7 to 21% at 3.

    Example:
        >>> print(f"{rounding_error(4, 128):.3e}")
        1.375e-02
    """
    if bits < 3:
        raise ValueError(f"{bits} bits: the error within a cell is far from uniform below 3 bits")
    return integer_error(bits, math.sqrt(crest_squared(G, density)), group=G)


def integer_error(
    bits: int, crest: float, *, overhead: float = 1.0, group: int | None = None, levels: float | None = None
) -> float:
    """Relative error of integers at a crest factor ``max |x| / sigma``: ``(overhead * crest)^2 / (12 Q^2)``.

    Args:
        bits: Of the integers.
        crest: Of a block.
        overhead: How much larger than needed the scale is: 1 to 2 for powers of two rounded up.
        group: Size of the block where its largest value is exact: ``(G - 1) / G`` of the error.
        levels: Q, ``2^(bits - 1) - 1`` if not given. arXiv:2510.25602 puts ``2^(bits - 1)``, which is 1.16 dB
            too good at 4 bits and 2.50 dB at 3.

    Example:
        >>> round(qsnr(integer_error(4, 2.39, group=16, levels=8)), 2)
        21.57

    Source: arXiv:2510.25602.
    """
    q = 2 ** (bits - 1) - 1 if levels is None else levels
    return float((overhead * crest) ** 2 / (12 * q**2)) * (1.0 if group is None else (group - 1) / group)


def float_error(
    exponent_bias: int,
    mantissa: int,
    largest: float,
    crest: float,
    *,
    overhead: float = 1.0,
    group: int | None = None,
) -> float:
    """Relative error of a float format for Gaussian blocks, normal numbers and subnormals.

    ``a_M (w - crest^2 / G) + b (overhead crest)^2 p``, ``a_M = 1 / (24 * 4^M)``, ``b = 4^(1 - bias - M) / (12
    largest^2)``, w the share of energy among normal numbers and p that of values among subnormals. 3 to 9%
    below exact integration; for smooth densities ``a_M = 0.045085 / 4^M`` would be closer.

    Args:
        exponent_bias: 1 for E2M1, 7 for E4M3.
        mantissa: Bits.
        largest: 6 for E2M1, 448 for E4M3.
        crest: Of a block.
        overhead: As in :func:`integer_error`.
        group: Size of the block where its largest value is exact.

    Example:
        >>> round(qsnr(float_error(7, 3, 448, 4.0)), 2)
        31.86

    Source: arXiv:2510.25602.
    """
    edge = 2.0 ** (1 - exponent_bias) * overhead * crest / largest  # smallest normal number, in sigma
    below = math.erf(edge / math.sqrt(2))
    energy = 1 - below + math.sqrt(2 / math.pi) * edge * math.exp(-(edge**2) / 2)
    normal = (energy - (0.0 if group is None else crest**2 / group)) / (24 * 4**mantissa)
    subnormal = 4.0 ** (1 - exponent_bias - mantissa) / (12 * largest**2) * (overhead * crest) ** 2 * below
    return float(normal + subnormal)


def layer_error(weights: float, inputs: float) -> float:
    """Relative error of a linear layer's output when both operands are rounded independently.

    Example:
        >>> print(f"{layer_error(1.3752e-2, 1.3752e-2):.2e}")  # W4A4 at G = 128
        2.77e-02
    """
    return weights + inputs + weights * inputs


def qsnr(error: float) -> float:
    """A relative error in dB: ``-10 log10(error)``.

    Example:
        >>> qsnr(0.01)
        20.0
    """
    return -10 * math.log10(error)
