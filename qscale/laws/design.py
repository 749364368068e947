"""A form with terms and its rows as a posynomial, around a point inside the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qscale.laws.forms import FloatArray, Form, LogAxis
from qscale.laws.posynomial import Posynomial


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The parameters that are fitted: logarithms of the terms at the center, then exponents.

    At the center scales and exponents are nearly uncorrelated; raw scales, at variables of 1, are not.
    """

    form: Form
    center: dict[str, float]  #: N0, D0, ...
    scales: NDArray[np.intp]  #: the place of each term's scale for each row, ``(terms, rows)``; -1: no term
    problem: Posynomial

    @classmethod
    def make(cls, form: Form, variables: Mapping[str, FloatArray], target: FloatArray) -> Design:
        """The rows of a form with terms; the variables are checked and within its domain."""
        axes = [axis for term in form.terms for axis in term.axes]
        center = {axis.variable: middle(axis, variables[axis.variable]) for axis in axes}
        center |= {v.name: 1.0 for v in form.variables if v.name not in center and not v.levels}
        names = fitted_names(form)
        design = np.zeros((len(form.terms), len(target), len(names)))
        offset = np.full(design.shape[:2], -np.inf)
        scales = np.full(design.shape[:2], -1)
        for k, term in enumerate(form.terms):
            for name, here in term.scales(variables).items():
                design[k, here, names.index(name)] = 1.0
                scales[k, here] = names.index(name)
                offset[k, here] = 0.0
            for axis in term.axes:
                column = axis.sign * np.log(axis.base(variables[axis.variable]) / _base(axis, center))
                design[k, :, names.index(axis.parameter)] += column
        problem = Posynomial(design=design, offset=offset, target=target)
        return cls(form=form, center=center, scales=scales, problem=problem)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order of the design."""
        return fitted_names(self.form)

    def raw(self, theta: FloatArray) -> dict[str, FloatArray]:
        """The form's own parameters, in the order of the form: each ``(...,)``."""
        at = dict(zip(self.names, np.moveaxis(theta, -1, 0), strict=True))
        out = dict(at)
        for term in self.form.terms:
            moved = sum(self._moved(axis) * at[axis.parameter] for axis in term.axes)
            out |= {name: np.exp(at[name] - moved) for name in term.scale_names}
        return {name: out[name] for name in self.form.names}

    def fitted(self, raw: Mapping[str, float]) -> FloatArray:
        """The inverse of :meth:`raw`; a scale of 0 is the least that there is."""
        out = dict(raw)
        for term in self.form.terms:
            moved = sum(self._moved(axis) * raw[axis.parameter] for axis in term.axes)
            for name in term.scale_names:
                out[name] = float(np.log(max(float(raw[name]), np.finfo(float).tiny)) + moved)
        return np.array([out[name] for name in self.names])

    def _moved(self, axis: LogAxis) -> float:
        """What a unit of an exponent adds to the logarithm of a scale at the center."""
        return axis.sign * float(np.log(_base(axis, self.center)))


def fitted_names(form: Form) -> tuple[str, ...]:
    """Scales first, then exponents, each once."""
    scales = [name for term in form.terms for name in term.scale_names]
    exponents = [axis.parameter for term in form.terms for axis in term.axes]
    return tuple(dict.fromkeys([*scales, *exponents]))


def reference_names(form: Form) -> tuple[str, ...]:
    """Of the fitted parameters at the center.

    ``delta0`` for the scale of a lone term, ``A0`` of one of several, exponents and constants as they are.
    """
    scales = {name for term in form.terms if term.axes for name in term.scale_names}

    def name(fitted: str) -> str:
        if fitted not in scales:
            return fitted
        if fitted == form.scale:
            return form.reference_scale
        head, bracket, level = fitted.partition("[")
        return f"{head}0{bracket}{level}"

    return tuple(name(fitted) for fitted in fitted_names(form))


def middle(axis: LogAxis, values: FloatArray) -> float:
    """The geometric mean of the axis, to three digits; exactly the value where there is only one."""
    if values.min() == values.max():
        return float(values[0])
    return float(f"{axis.invert(float(np.exp(np.mean(np.log(axis.base(values)))))):.3g}")


def _base(axis: LogAxis, center: Mapping[str, float]) -> float:
    return float(axis.base(np.asarray(center[axis.variable], dtype=np.float64)))
