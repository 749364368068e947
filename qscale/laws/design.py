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
    problem: Posynomial

    @classmethod
    def make(cls, form: Form, variables: Mapping[str, FloatArray], target: FloatArray) -> Design:
        """The rows of a form with terms; the variables are checked and within its domain."""
        axes = [axis for term in form.terms for axis in term.axes]
        center = {axis.variable: middle(axis, variables[axis.variable]) for axis in axes}
        center |= {v.name: 1.0 for v in form.variables if v.name not in center}
        names = fitted_names(form)
        design = np.zeros((len(form.terms), len(target), len(names)))
        for k, term in enumerate(form.terms):
            design[k, :, names.index(term.scale)] = 1.0
            for axis in term.axes:
                column = axis.sign * np.log(axis.base(variables[axis.variable]) / _base(axis, center))
                design[k, :, names.index(axis.parameter)] += column
        offset = np.zeros(design.shape[:2])
        return cls(form=form, center=center, problem=Posynomial(design=design, offset=offset, target=target))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the order of the design."""
        return fitted_names(self.form)

    @property
    def scales(self) -> NDArray[np.intp]:
        """The place of each term's scale among the parameters, for each row: ``(terms, rows)``."""
        rows = len(self.problem.target)
        return np.array([[self.names.index(term.scale)] * rows for term in self.form.terms])

    def raw(self, theta: FloatArray) -> dict[str, FloatArray]:
        """The form's own parameters, in the order of the form: each ``(...,)``."""
        at = dict(zip(self.names, np.moveaxis(theta, -1, 0), strict=True))
        out = dict(at)
        for term in self.form.terms:
            log = at[term.scale]
            for axis in term.axes:
                log = log - axis.sign * at[axis.parameter] * np.log(_base(axis, self.center))
            out[term.scale] = np.exp(log)
        return {name: out[name] for name in self.form.names}

    def fitted(self, raw: Mapping[str, float]) -> FloatArray:
        """The inverse of :meth:`raw`; a scale of 0 is the least that there is."""
        out = dict(raw)
        for term in self.form.terms:
            log = np.log(max(float(raw[term.scale]), np.finfo(float).tiny))
            for axis in term.axes:
                log += axis.sign * raw[axis.parameter] * np.log(_base(axis, self.center))
            out[term.scale] = float(log)
        return np.array([out[name] for name in self.names])


def fitted_names(form: Form) -> tuple[str, ...]:
    """Scales first, then exponents, each once."""
    scales = [term.scale for term in form.terms]
    exponents = [axis.parameter for term in form.terms for axis in term.axes]
    return tuple(dict.fromkeys([*scales, *exponents]))


def reference_names(form: Form) -> tuple[str, ...]:
    """Of the fitted parameters at the center.

    ``delta0`` for the scale of a lone term, ``A0`` of one of several, exponents and constants as they are.
    """
    scales = {term.scale for term in form.terms if term.axes}

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
