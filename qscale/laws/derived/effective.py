"""Quantization as a smaller model: effective parameter multipliers (eff, EPM), and errors that add."""

from __future__ import annotations

from collections.abc import Mapping

#: ``delta of W4A4 ~= ADDITIVITY * (delta of W4A16 + delta of W16A4)``, as measured by arXiv:2505.14302. The
#: paper's own fitted laws give 0.931 to 0.941.
ADDITIVITY = 0.906

#: Multipliers as their sources print them, by scheme. Methods, formats and models differ: never pool them.
#: ``frantar2025`` prints no baseline, so it is no law of its own: use it with a Chinchilla law of your data.
#: Unverified: its w2a16, w1a16, w8a8 and w2a2.
PUBLISHED_EFF: dict[str, dict[str, float]] = {
    "frantar2025": {
        "w4a16": 0.923,
        "w2a16": 0.702,
        "w1a16": 0.466,
        "w8a8": 0.857,
        "w4a4": 0.747,
        "w2a2": 0.289,
        "w1a1": 0.067,
        "sparse50": 0.871,
    },
    "panferov2025/quest": {"w1a1": 0.02, "w2a2": 0.16, "w3a3": 0.43, "w4a4": 0.70, "w8a8": 1.02},
    "panferov2025/lsq": {"w1a1": 0.02, "w2a2": 0.12, "w3a3": 0.32, "w4a4": 0.56, "w8a8": 0.87},
}


def eff_of_delta(delta: float, N: float, *, A: float, alpha: float) -> float:
    """The multiplier that explains a delta: ``A / (N * eff)^alpha = A / N^alpha + delta``.

    ``eff = (A / (A + delta * N^alpha))^(1 / alpha)``. With delta the excess loss at P bits it is also the
    empirical f(P) of arXiv:2411.04330.

    Example:
        >>> from qscale import laws
        >>> base = laws.load("chen2025/baseline").parameters
        >>> delta = laws.load("chen2025/w4a4").predict(N=595e6, D=100e9, G=128)
        >>> round(eff_of_delta(delta, 595e6, A=base["A"], alpha=base["alpha"]), 6)
        0.712117

    Source: arXiv:2502.16440; in terms of delta, arXiv:2505.14302.
    """
    return float((A / (A + delta * N**alpha)) ** (1 / alpha))


def delta_of_eff(eff: float, N: float, *, A: float, alpha: float) -> float:
    """The inverse of :func:`eff_of_delta`: ``A / (N * eff)^alpha - A / N^alpha``.

    Example:
        >>> round(delta_of_eff(eff_of_delta(0.05, 1e9, A=400.0, alpha=0.34), 1e9, A=400.0, alpha=0.34), 12)
        0.05
    """
    return float(A / (N * eff) ** alpha - A / N**alpha)


def scales_of_eff(eff: Mapping[str, float], *, A: float, alpha: float) -> dict[str, float]:
    """The scales ``A[P] = A * eff[P]^-alpha`` of the form ``eff-table``, by parameter name.

    Example:
        >>> scales_of_eff({"4": 0.5, "16": 1.0}, A=400.0, alpha=0.5)["A[4]"]
        565.685424949238
    """
    return {f"A[{level}]": float(A * value**-alpha) for level, value in eff.items()}


def eff_of_scales(parameters: Mapping[str, float], baseline: str) -> dict[str, float]:
    """The multipliers of a law of the form ``eff-table``, against the level that is not quantized.

    Example:
        >>> from qscale import laws
        >>> round(eff_of_scales(laws.load("panferov2025/quest").parameters, baseline="16")["4"], 4)
        0.6918
    """
    whole, alpha = parameters[f"A[{baseline}]"], parameters["alpha"]
    scales = {name[2:-1]: value for name, value in parameters.items() if name.startswith("A[")}
    return {level: float((whole / scale) ** (1 / alpha)) for level, scale in scales.items()}


def additivity(both: float, weights: float, inputs: float) -> float:
    """The delta of quantizing weights and inputs, over the sum of the deltas of one alone.

    Example:
        >>> from qscale import laws
        >>> point = {"N": 595e6, "D": 100e9, "G": 128}
        >>> names = ("chen2025/w4a4", "chen2025/w4a16", "chen2025/w16a4")
        >>> round(additivity(*(laws.load(name).predict(**point) for name in names)), 3)
        0.94
    """
    return both / (weights + inputs)


def combined_delta(weights: float, inputs: float, factor: float = ADDITIVITY) -> float:
    """The delta of quantizing weights and inputs, guessed from the deltas of one alone.

    Example:
        >>> round(combined_delta(0.02, 0.04), 5)
        0.05436

    Source: arXiv:2505.14302, for W4A4.
    """
    return factor * (weights + inputs)


def layer_error(weights: float, inputs: float) -> float:
    """Relative error of a linear layer's output when both operands are rounded independently.

    Example:
        >>> print(f"{layer_error(1.3752e-2, 1.3752e-2):.2e}")  # W4A4 at G = 128
        2.77e-02
    """
    return weights + inputs + weights * inputs
