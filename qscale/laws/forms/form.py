"""What a law form is: formula, parameters and variables with units, source, value, gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    #: the values of a variable that names things: its numbers in :data:`Inputs` are 1, 2, ... in this order
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAxis:
    """One factor of a term: ``transform(variable)**(sign * exponent)``."""

    parameter: str  #: the exponent
    variable: str
    sign: int
    #: ``exp`` makes the exponent a rate: ``exp(sign * rate * variable)``
    transform: Literal["identity", "log2", "exp"] = "identity"

    def base(self, x: FloatArray) -> FloatArray:
        """The number that is raised to the exponent."""
        if self.transform == "exp":
            return np.exp(x)
        return np.log2(x) if self.transform == "log2" else x

    def invert(self, base: float) -> float:
        """The variable at which :meth:`base` has this value."""
        if self.transform == "exp":
            return float(np.log(base))
        return float(np.exp2(base)) if self.transform == "log2" else float(base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of a form: ``scale * prod_j base_j(variable_j)**(sign_j * exponent_j)``, above zero.

    Several terms may share an exponent, which ties them; a term without axes is a constant.
    """

    scale: str
    axes: tuple[LogAxis, ...] = ()

    def value(self, params: Params, x: Inputs) -> FloatArray:
        """The summand at checked inputs."""
        out = np.full(next(iter(x.values())).shape, float(params[self.scale]))
        for axis in self.axes:
            out = out * axis.base(x[axis.variable]) ** (axis.sign * params[axis.parameter])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One law form.

    A form with ``terms`` is their sum: a sum of exponentials of linear predictors once logs are taken, which
    is what :func:`qscale.laws.fit` uses. Other forms give ``function`` and ``slope``.
    """

    id: str
    formula: str
    target: str  #: ``delta`` or ``loss``, both in nats per token
    parameters: tuple[Parameter, ...]
    variables: tuple[Variable, ...]
    citation: str
    terms: tuple[Term, ...] = ()
    function: Callable[[Params, Inputs], FloatArray] | None = None
    slope: Callable[[Params, Inputs], dict[str, FloatArray]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def scale(self) -> str | None:
        """The factor before the product, for forms of one term."""
        return self.terms[0].scale if len(self.terms) == 1 else None

    @property
    def axes(self) -> tuple[LogAxis, ...]:
        """The factors of the product, for forms of one term."""
        return self.terms[0].axes if len(self.terms) == 1 else ()

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
            >>> from qscale.laws import forms
            >>> round(float(forms.get("qat-unified").value(published, {"N": 595e6, "D": 100e9, "G": 128})), 6)
            0.057279
        """
        x = self.inputs(given)
        if self.function is not None:
            return self.function(params, x)
        return sum((term.value(params, x) for term in self.terms[1:]), start=self.terms[0].value(params, x))

    def gradient(self, params: Params, given: Mapping[str, Any]) -> dict[str, FloatArray]:
        """Derivative of :meth:`value` by each parameter, one array a parameter."""
        x = self.inputs(given)
        if self.slope is not None:
            return self.slope(params, x)
        out = {name: np.zeros(next(iter(x.values())).shape) for name in self.names}
        for term in self.terms:
            value = term.value(params, x)
            out[term.scale] = out[term.scale] + value / params[term.scale]
            for axis in term.axes:
                base = axis.base(x[axis.variable])
                # The limit of value * ln(base) as base goes to 0 is 0 for a positive exponent.
                log = np.log(base, out=np.zeros_like(base), where=base > 0)
                out[axis.parameter] = out[axis.parameter] + axis.sign * value * log
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


#: Variables that several forms take.
N = Variable(name="N", unit="non-embedding parameters, raw count", least=0.0, least_allowed=False)
D = Variable(name="D", unit="training tokens, raw count", least=0.0, least_allowed=False)
G = Variable(name="G", unit="elements that share one scale", least=1.0, least_allowed=True)
