"""How many bits, and how to lay them out: Kumar et al. (integers) and Sun et al. (floating point).

The functions named ``fp_`` take the constants of a law of form ``fp-quant``, such as
``laws.load("sun2025/fp").parameters``. Their printed exponents were garbled in the text at hand: they are
re-derived here from the first-order conditions, and tests compare them with numeric minimisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

_COST = 6 / 16  # FLOP a bit, a parameter and a token: 6 at 16 bits
_HALVINGS = 200  # of a bisection in the logarithm: to the last bit


class Layout(NamedTuple):
    """Exponent and mantissa bits beside a sign."""

    E: float
    M: float


class FpOptimum(NamedTuple):
    """Bits, size and data of least loss at a cost."""

    P: float
    N: float
    D: float


def share_of_bits(P: float, *gammas: float) -> float:
    """The share of the parameters that P bits leave: the product of ``1 - exp(-P / gamma)``.

    Example:
        >>> round(share_of_bits(8, 2.6745, 2.2102, 0.9578), 6)  # weights, inputs, KV cache
        0.924107

    Source: arXiv:2411.04330.
    """
    return math.prod(-math.expm1(-P / gamma) for gamma in gammas)


def optimal_bits(*gammas: float) -> float:
    """The bits of least loss when a cost ``~ N * D * P`` is spread freely: the same at every cost.

    The root of ``sum_x (P / g_x) exp(-P / g_x) / (1 - exp(-P / g_x)) = 1``: with three equal gammas 1.9038 g.
    Re-derived: the two conditions that arXiv:2411.04330 prints disagree. Its 7 to 8 bits do not follow from
    its printed gammas, which give 3.47 without the biases of its exponents.

    Example:
        >>> round(optimal_bits(1.0, 1.0, 1.0), 7), round(optimal_bits(2.6745, 2.2102, 0.9578), 3)
        (1.9038137, 3.469)
    """

    def rest(P: float) -> float:  # falls from len(gammas) - 1 to -1
        return sum(P / g / math.expm1(P / g) for g in gammas) - 1

    if len(gammas) < 2:
        raise ValueError(f"{len(gammas)} gammas: one quantized tensor alone is best at no bits at all")
    return _root(rest, 1e-6 * min(gammas), 500 * max(gammas))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


def optimal_layout(P: float, *, delta: float = 3.1926, nu: float = 2.9543) -> Layout:
    """The unrounded split of P bits, sign included: ``E = delta P / (delta + nu) - 1/2``, M alike with nu.

    Example:
        >>> layout = optimal_layout(4)
        >>> round(layout.E, 3), round(layout.M, 3)
        (1.578, 1.422)

    Source: arXiv:2501.02423.
    """
    return Layout(E=delta * P / (delta + nu) - 0.5, M=nu * P / (delta + nu) - 0.5)


def rounded_layout(P: int, *, delta: float = 3.1926, nu: float = 2.9543) -> tuple[int, int]:
    """The whole numbers of bits next to :func:`optimal_layout`: ``(E, M)`` with ``E + M + 1 = P``.

    Example:
        >>> [rounded_layout(bits) for bits in (4, 8, 16)]
        [(2, 1), (4, 3), (8, 7)]
    """
    exponent = round(optimal_layout(P, delta=delta, nu=nu).E)
    return exponent, P - 1 - exponent


def fp_constant(p: Mapping[str, float]) -> float:
    """gamma_rho: the best layout of P bits costs ``D^beta / N^alpha * log2 B / (gamma_rho P^s)``.

    ``gamma_rho = gamma * delta^delta * nu^nu / s^s``, ``s = delta + nu``.

    Example:
        >>> from qscale import laws
        >>> round(fp_constant(laws.load("sun2025/fp").parameters), 3)
        160.697
    """
    s = p["delta"] + p["nu"]
    logs = p["delta"] * math.log(p["delta"]) + p["nu"] * math.log(p["nu"]) - s * math.log(s)
    return p["gamma"] * math.exp(logs)


def fp_effective_size(N: float, D: float, P: float, B: float, p: Mapping[str, float]) -> float:
    """The size that has the same loss without quantization, at the optimal layout of P bits.

    ``N (1 + D^beta log2 B / (gamma_n P^s))^(-1 / alpha)``, ``gamma_n = n * gamma_rho``.

    Example:
        >>> from qscale import laws
        >>> p = laws.load("sun2025/fp").parameters
        >>> round(fp_effective_size(1e9, 1e11, 4, 128, p) / 1e9, 3)
        0.783
    """
    s = p["delta"] + p["nu"]
    excess = D ** p["beta"] * math.log2(B) / (p["n"] * fp_constant(p) * P**s)
    return float(N * (1 + excess) ** (-1 / p["alpha"]))


def fp_critical_tokens(N: float, layout: tuple[float, float], B: float, p: Mapping[str, float]) -> float:
    """The data from which on training in this format raises the loss.

    ``(d gamma N^alpha (E + 1/2)^delta (M + 1/2)^nu / log2 B)^(1 / (2 beta))``.

    Example:
        >>> from qscale import laws
        >>> print(f"{fp_critical_tokens(1e9, (2, 1), 128, laws.load('sun2025/fp').parameters):.4e}")
        3.9285e+11

    Source: arXiv:2501.02423 (a copy of it with ``d^gamma`` is wrong).
    """
    E, M = layout
    room = p["d"] * p["gamma"] * N ** p["alpha"] * (E + 0.5) ** p["delta"] * (M + 0.5) ** p["nu"]
    return float((room / math.log2(B)) ** (1 / (2 * p["beta"])))


def fp_optimal_bits_at_tokens(D: float, B: float, p: Mapping[str, float]) -> float:
    """Bits of least loss for given data, size falling as bits grow at one cost ``6 / 16 * P N D``.

    ``P^s = (s - alpha) / (n alpha gamma_rho) * D^beta log2 B``: the same at every cost.

    Example:
        >>> from qscale import laws
        >>> round(fp_optimal_bits_at_tokens(1e12, 128, laws.load("sun2025/fp").parameters), 3)
        5.179
    """
    s = p["delta"] + p["nu"]
    return float((_by_data(p) * D ** p["beta"] * math.log2(B)) ** (1 / s))


def _by_data(p: Mapping[str, float]) -> float:
    s = p["delta"] + p["nu"]
    return (s - p["alpha"]) / (p["n"] * p["alpha"] * fp_constant(p))


def fp_optimal_bits_at_size(N: float, compute: float, B: float, p: Mapping[str, float]) -> float:
    """Bits of least loss for a given size, data falling as bits grow at one cost.

    ``P^(s + 2 beta) = (s + beta) / (d beta gamma_rho) * (16 C / 6)^(2 beta) N^-(alpha + 2 beta) log2 B``,
    where the size term's ``N^-alpha`` comes with the format's.

    Example:
        >>> from qscale import laws
        >>> round(fp_optimal_bits_at_size(1e9, 1e23, 128, laws.load("sun2025/fp").parameters), 3)
        11.717
    """
    s, twice = p["delta"] + p["nu"], 2 * p["beta"]
    scale = (s + p["beta"]) / (p["d"] * p["beta"] * fp_constant(p))
    power = scale * (compute / _COST) ** twice * N ** -(p["alpha"] + twice) * math.log2(B)
    return float(power ** (1 / (s + twice)))


def fp_optimum(compute: float, B: float, p: Mapping[str, float]) -> FpOptimum:
    """Bits, size and data of least loss at a cost ``6 / 16 * P N D``, layout included.

    ``D^beta = lambda N^alpha`` with ``lambda = d beta / (n alpha) * (s - alpha) / (s + beta)``.

    Example:
        >>> from qscale import laws
        >>> best = fp_optimum(1e21, 128, laws.load("sun2025/fp").parameters)
        >>> print(f"{best.P:.3f} {best.N:.3e} {best.D:.3e}")
        4.190 7.930e+09 8.025e+10
    """
    alpha, beta, s = p["alpha"], p["beta"], p["delta"] + p["nu"]
    ratio = p["d"] * beta / (p["n"] * alpha) * (s - alpha) / (s + beta)
    power = (alpha + beta) / beta
    bits = ratio * (_by_data(p) * math.log2(B)) ** power * (compute / _COST) ** alpha
    P = float(bits ** (1 / (s * power + alpha)))
    size = float((compute / (_COST * P) * ratio ** (-1 / beta)) ** (beta / (alpha + beta)))
    return FpOptimum(P=P, N=size, D=compute / (_COST * P * size))
