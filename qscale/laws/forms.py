"""The registry of law forms: formula, parameters and variables with units, source, value, gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError

FloatArray = NDArray[np.float64]
Params = Mapping[str, float]
Inputs = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One constant of a form."""

    name: str
    meaning: str
    unit: str = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One input of a form, in raw counts."""

    name: str
    unit: str
    least: float  #: the domain's lower end
    least_allowed: bool  #: whether the form may be evaluated there
    #: whether a row there can enter a fit; log2 G = 0 says nothing about the exponents
    least_fits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAxis:
    """One factor of a form that is a product of powers: ``transform(variable)**(sign * exponent)``."""

    parameter: str  #: the exponent
    variable: str
    sign: int
    transform: Literal["identity", "log2"] = "identity"

    def base(self, x: FloatArray) -> FloatArray:
        """The number that is raised to the exponent."""
        return np.log2(x) if self.transform == "log2" else x

    def invert(self, base: float) -> float:
        """The variable at which :meth:`base` has this value."""
        return float(np.exp2(base)) if self.transform == "log2" else float(base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One law form.

    A form with ``axes`` is ``scale * prod_j base_j(variable_j)**(sign_j * exponent_j)``: linear in its
    parameters once logs are taken, which is what :func:`qscale.laws.fit` uses. Other forms give ``function``
    and ``slope``: they can be evaluated, not fitted.
    """

    id: str
    formula: str
    target: str  #: ``delta`` or ``loss``, both in nats per token
    parameters: tuple[Parameter, ...]
    variables: tuple[Variable, ...]
    citation: str
    scale: str | None = None  #: the factor before the product, for forms with axes
    axes: tuple[LogAxis, ...] = ()
    function: Callable[[Params, Inputs], FloatArray] | None = None
    slope: Callable[[Params, Inputs], dict[str, FloatArray]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def reference_scale(self) -> str:
        """Name of the value at a reference point: ``delta0``."""
        return f"{self.target}0"

    def inputs(self, given: Mapping[str, Any]) -> dict[str, FloatArray]:
        """The variables as float64 arrays, checked against the domain and broadcast against each other.

        Raises:
            LawError: A variable is missing, unknown, not a number or outside the domain.
        """
        names = [v.name for v in self.variables]
        for name in given:
            if name not in names:
                raise LawError(f"law form {self.id!r} has no variable {name!r}; it takes {', '.join(names)}")
        arrays = []
        for variable in self.variables:
            if variable.name not in given:
                raise LawError(f"law form {self.id!r} needs {variable.name} ({variable.unit})")
            arrays.append(_checked(self.id, variable, given[variable.name]))
        try:
            return dict(zip(names, np.broadcast_arrays(*arrays), strict=True))
        except ValueError as err:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
            raise LawError(f"law form {self.id!r}: shapes do not broadcast: {shapes}") from err

    def value(self, params: Params, given: Mapping[str, Any]) -> FloatArray:
        """The target at the given variables, in nats per token.

        Example:
            >>> published = {"k": 0.1582, "gN": 0.2186, "gD": 0.0745, "gG": 0.7779}
            >>> round(float(FORMS["qat-unified"].value(published, {"N": 595e6, "D": 100e9, "G": 128})), 6)
            0.057279
        """
        x = self.inputs(given)
        if self.function is not None:
            return self.function(params, x)
        assert self.scale is not None
        out = np.full(x[self.variables[0].name].shape, float(params[self.scale]))
        for axis in self.axes:
            out = out * axis.base(x[axis.variable]) ** (axis.sign * params[axis.parameter])
        return out

    def gradient(self, params: Params, given: Mapping[str, Any]) -> dict[str, FloatArray]:
        """Derivative of :meth:`value` by each parameter, one array a parameter."""
        x = self.inputs(given)
        if self.slope is not None:
            return self.slope(params, x)
        assert self.scale is not None
        value = self.value(params, given)
        out = {self.scale: value / params[self.scale]}
        for axis in self.axes:
            base = axis.base(x[axis.variable])
            # The limit of value * ln(base) as base goes to 0 is 0 for a positive exponent.
            log = np.log(base, out=np.zeros_like(base), where=base > 0)
            out[axis.parameter] = axis.sign * value * log
        return out

    def log_design(self, given: Mapping[str, Any], center: Mapping[str, float]) -> FloatArray:
        """Columns ``sign * ln(base / base at the center)``, one an axis: ``(rows, axes)``."""
        x = self.inputs(given)
        columns = []
        for axis in self.axes:
            at = float(axis.base(np.asarray(center[axis.variable], dtype=np.float64)))
            columns.append(axis.sign * np.log(np.atleast_1d(axis.base(x[axis.variable])) / at))
        return np.stack(columns, axis=-1)

    def raw_scale(self, at_center: float, exponents: Params, center: Mapping[str, float]) -> float:
        """The factor before the product, from the value at a reference point: ``k`` from ``delta0``."""
        return float(np.exp(self.log_raw_scale(float(np.log(at_center)), exponents, center)))

    def log_raw_scale(self, log_at_center: float, exponents: Params, center: Mapping[str, float]) -> float:
        """:meth:`raw_scale` in logarithms: finite also where the factor itself is no double."""
        log = float(log_at_center)
        for axis in self.axes:
            base = float(axis.base(np.asarray(center[axis.variable], dtype=np.float64)))
            log -= axis.sign * exponents[axis.parameter] * float(np.log(base))
        return log


def _checked(form: str, variable: Variable, value: Any) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise LawError(f"law form {form!r}: {variable.name}={value!r} is not a number") from err
    low = array < variable.least if variable.least_allowed else array <= variable.least
    bad = low | ~np.isfinite(array)
    if bad.any():
        sign = "at least" if variable.least_allowed else "more than"
        raise LawError(
            f"law form {form!r}: {variable.name}={array[bad].flat[0]:g}; "
            f"{variable.name} ({variable.unit}) is finite and {sign} {variable.least:g}"
        )
    return array


def _chinchilla(p: Params, x: Inputs) -> FloatArray:
    out: FloatArray = p["A"] / x["N"] ** p["alpha"] + p["B"] / x["D"] ** p["beta"] + p["E"]
    return out


def _chinchilla_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    by_a, by_b = x["N"] ** -p["alpha"], x["D"] ** -p["beta"]
    return {
        "A": by_a,
        "B": by_b,
        "E": np.ones_like(by_a),
        "alpha": -p["A"] * by_a * np.log(x["N"]),
        "beta": -p["B"] * by_b * np.log(x["D"]),
    }


_N = Variable(name="N", unit="non-embedding parameters, raw count", least=0.0, least_allowed=False)
_D = Variable(name="D", unit="training tokens, raw count", least=0.0, least_allowed=False)
_G = Variable(name="G", unit="elements that share one scale", least=1.0, least_allowed=True)

#: Every form by id. A new form is one entry here.
FORMS: dict[str, Form] = {
    form.id: form
    for form in (
        Form(
            id="qat-unified",
            formula="delta = k * D^gD * (log2 G)^gG / N^gN",
            target="delta",
            parameters=(
                Parameter(
                    name="k",
                    meaning="scale; means nothing without its exponents",
                    unit="nats/token * N^gN / D^gD",
                ),
                Parameter(name="gN", meaning="how fast delta falls with model size"),
                Parameter(name="gD", meaning="how fast delta grows with training tokens"),
                Parameter(name="gG", meaning="how fast delta grows with log2 of the group size"),
            ),
            variables=(_N, _D, _G),
            citation="Chen et al. 2025, arXiv:2505.14302",
            scale="k",
            axes=(
                LogAxis(parameter="gN", variable="N", sign=-1),
                LogAxis(parameter="gD", variable="D", sign=1),
                LogAxis(parameter="gG", variable="G", sign=1, transform="log2"),
            ),
        ),
        Form(
            id="chinchilla",
            formula="L = A / N^alpha + B / D^beta + E",
            target="loss",
            parameters=(
                Parameter(name="A", meaning="scale of the size term", unit="nats/token * N^alpha"),
                Parameter(name="B", meaning="scale of the data term", unit="nats/token * D^beta"),
                Parameter(name="E", meaning="loss that neither size nor data removes", unit="nats/token"),
                Parameter(name="alpha", meaning="how fast the size term falls"),
                Parameter(name="beta", meaning="how fast the data term falls"),
            ),
            variables=(_N, _D),
            citation="Hoffmann et al. 2022, arXiv:2203.15556",
            function=_chinchilla,
            slope=_chinchilla_slope,
        ),
    )
}


def get(form: str) -> Form:
    """The form of an id.

    Raises:
        LawError: No such form; the nearest id and all ids are named.

    Example:
        >>> get("qat-unified").formula
        'delta = k * D^gD * (log2 G)^gG / N^gN'
    """
    if form in FORMS:
        return FORMS[form]
    nearest = get_close_matches(str(form), FORMS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise LawError(f"unknown law form {form!r}; {hint}known: {', '.join(FORMS)}")


def fittable() -> list[str]:
    """The ids of the forms that :func:`qscale.laws.fit` can fit."""
    return [form.id for form in FORMS.values() if form.axes]
