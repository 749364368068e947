"""Farseer: the data term has a coefficient and an exponent that depend on size (Li et al.).

``L = exp(p3(N)) + exp(p2(N)) * D^-exp(p1(N))``. The paper's lines are ``p = a * N^g + b``. Their constants
trade off: values far apart fit alike, and three printed digits are too few. ``farseer-centred`` writes the
same lines as value and slope at N0, ``p = c + s * (u^g - 1) / g`` with ``u = N / N0``: a power law at g = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qscale.laws.forms.form import D, FloatArray, Form, Inputs, N, Parameter, Params

CENTER = 1e9  #: N0 of ``farseer-centred``
_SMALL = 1e-4  # |g ln u| below which (u^g - 1) / g is summed as a series

#: The constants of each line: slope, exponent, offset, as the paper calls them.
_LINES = (("a3", "g", "b3"), ("a2", "b", "b2"), ("a1", "a", "b1"))
_CENTRED = (("s3", "g3", "c3"), ("s2", "g2", "c2"), ("s1", "g1", "c1"))

Line = Callable[[Params, tuple[str, str, str], FloatArray], FloatArray]
LineSlope = Callable[[Params, tuple[str, str, str], FloatArray], dict[str, FloatArray]]


def _line(p: Params, names: tuple[str, str, str], size: FloatArray) -> FloatArray:
    slope, exponent, offset = names
    return np.asarray(p[slope] * size ** p[exponent] + p[offset])


def _line_slope(p: Params, names: tuple[str, str, str], size: FloatArray) -> dict[str, FloatArray]:
    slope, exponent, offset = names
    power = size ** p[exponent]
    return {slope: power, exponent: p[slope] * power * np.log(size), offset: np.ones_like(size)}


def _box_cox(g: float, log: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(u^g - 1) / g`` at ``ln u``, and its derivative by g."""
    z = g * log
    if np.all(np.abs(z) < _SMALL):
        return log * (1 + z / 2 + z**2 / 6), log**2 * (0.5 + z / 3 + z**2 / 8)
    return np.expm1(z) / g, (z * np.exp(z) - np.expm1(z)) / g**2


def _centred(p: Params, names: tuple[str, str, str], size: FloatArray) -> FloatArray:
    slope, exponent, offset = names
    return np.asarray(p[offset] + p[slope] * _box_cox(p[exponent], np.log(size / CENTER))[0])


def _centred_slope(p: Params, names: tuple[str, str, str], size: FloatArray) -> dict[str, FloatArray]:
    slope, exponent, offset = names
    value, by_exponent = _box_cox(p[exponent], np.log(size / CENTER))
    return {slope: value, exponent: p[slope] * by_exponent, offset: np.ones_like(size)}


def _farseer(line: Line, names: tuple[tuple[str, str, str], ...]) -> Callable[[Params, Inputs], FloatArray]:
    def value(p: Params, x: Inputs) -> FloatArray:
        p3, p2, p1 = (line(p, name, x["N"]) for name in names)
        return np.asarray(np.exp(p3) + np.exp(p2 - np.exp(p1) * np.log(x["D"])))

    return value


def _farseer_slope(
    line: Line, line_slope: LineSlope, names: tuple[tuple[str, str, str], ...]
) -> Callable[[Params, Inputs], dict[str, FloatArray]]:
    def slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
        p3, p2, p1 = (line(p, name, x["N"]) for name in names)
        falling = np.exp(p1) * np.log(x["D"])
        data = np.exp(p2 - falling)
        out: dict[str, FloatArray] = {}
        for name, outer in zip(names, (np.exp(p3), data, -data * falling), strict=True):
            out |= {key: outer * inner for key, inner in line_slope(p, name, x["N"]).items()}
        return out

    return slope


def centred(parameters: Mapping[str, float]) -> dict[str, float]:
    """Constants of ``farseer`` as those of ``farseer-centred``: the same law.

    Example:
        >>> from qscale import laws
        >>> p = centred(laws.load("li2025/farseer").parameters)
        >>> round(float(laws.forms.get("farseer-centred").value(p, {"N": 1e9, "D": 2e10})), 6)
        0.539409
    """
    out: dict[str, float] = {}
    for (a, g, b), (s, g0, c) in zip(_LINES, _CENTRED, strict=True):
        at_center = parameters[a] * CENTER ** parameters[g]
        out |= {c: at_center + parameters[b], s: at_center * parameters[g], g0: parameters[g]}
    return out


def raw(parameters: Mapping[str, float]) -> dict[str, float]:
    """The inverse of :func:`centred`.

    Example:
        >>> from qscale import laws
        >>> p = laws.load("li2025/farseer").parameters
        >>> round(raw(centred(p))["a2"], 6) == round(p["a2"], 6)
        True
    """
    out: dict[str, float] = {}
    for (a, g, b), (s, g0, c) in zip(_LINES, _CENTRED, strict=True):
        at_center = parameters[s] / parameters[g0]
        out |= {a: at_center * CENTER ** -parameters[g0], g: parameters[g0], b: parameters[c] - at_center}
    return out


def _parameters(names: tuple[tuple[str, str, str], ...], slope: str, offset: str) -> tuple[Parameter, ...]:
    lines = ("the loss of endless data", "the data term's coefficient", "the data term's exponent")
    return tuple(
        Parameter(name=name, meaning=f"{what} of the line of {line}")
        for line, (s, g, c) in zip(lines, names, strict=True)
        for name, what in ((s, slope), (g, "exponent"), (c, offset))
    )


_NOTES = (
    "the losses of the paper are bits per character of its validation set, not nats per token",
    "never read its constants one by one: they trade off; fit farseer-centred",
)
CITATION = "Li et al. 2025, Farseer, arXiv:2506.10972"

FORMS = (
    Form(
        id="farseer",
        formula="L = exp(a3 * N^g + b3) + exp(a2 * N^b + b2) / D^exp(a1 * N^a + b1)",
        target="loss",
        unit="bits per character",
        parameters=_parameters(_LINES, "slope", "offset"),
        variables=(N, D),
        citation=CITATION,
        function=_farseer(_line, _LINES),
        slope=_farseer_slope(_line, _line_slope, _LINES),
        start={"a3": -0.1, "g": 0.12, "b3": 0.3, "a2": 200.0, "b": -0.17, "b2": -1.5}
        | {"a1": -1.7, "a": 0.045, "b1": 3.2},
        notes=_NOTES,
    ),
    Form(
        id="farseer-centred",
        formula="L = exp(c3 + s3 * (u^g3 - 1) / g3) + exp(c2 + s2 * (u^g2 - 1) / g2) "
        "/ D^exp(c1 + s1 * (u^g1 - 1) / g1), u = N / 1e9",
        target="loss",
        unit="bits per character",
        parameters=_parameters(_CENTRED, "slope at N = 1e9", "value at N = 1e9"),
        variables=(N, D),
        citation=CITATION,
        function=_farseer(_centred, _CENTRED),
        slope=_farseer_slope(_centred, _centred_slope, _CENTRED),
        start={"s3": -0.1, "g3": 0.1, "c3": -0.8, "s2": -1.0, "g2": -0.1, "c2": 5.0}
        | {"s1": -0.2, "g1": 0.05, "c1": -1.2},
        notes=_NOTES,
    ),
)
