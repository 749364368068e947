"""What a law form is: formula, parameters and variables with units, source, value, gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError

FloatArray = NDArray[np.float64]
Params = Mapping[str, float]
Inputs = Mapping[str, FloatArray]

#: The level at which a term with levels is absent: the unquantized runs of a joint fit.
ABSENT = "none"
_LEVEL = re.compile(r"[^\s,;=\[\]]+")


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
    most: float = math.inf  #: the domain's upper end
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

    Several terms may share an exponent, which ties them; a term without axes is a constant. With ``by``, each
    level of that variable has a scale of its own, ``k[4]``: see :meth:`Form.with_levels`.
    """

    scale: str
    axes: tuple[LogAxis, ...] = ()
    by: str | None = None  #: a variable whose levels each have their own scale
    levels: tuple[str, ...] = ()  #: those levels, in the order of their numbers

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The names of its scales: one, or one a level."""
        if self.by is None:
            return (self.scale,)
        return tuple(f"{self.scale}[{name}]" for name in self.levels if name != ABSENT)

    def scales(self, x: Inputs) -> dict[str, NDArray[np.bool_]]:
        """The name of each scale of the term, and where in the inputs it stands."""
        if self.by is None:
            return {self.scale: np.ones(next(iter(x.values())).shape, dtype=bool)}
        numbered = enumerate(self.levels, start=1)
        return {f"{self.scale}[{name}]": x[self.by] == i for i, name in numbered if name != ABSENT}

    def value(self, params: Params, x: Inputs) -> FloatArray:
        """The summand at checked inputs."""
        out = np.zeros(next(iter(x.values())).shape)
        for name, here in self.scales(x).items():
            out = np.where(here, float(params[name]), out)
        return self.times_powers(out, params, x)

    def times_powers(self, out: FloatArray, params: Params, x: Inputs) -> FloatArray:
        """The product of ``out`` and the powers, without the scale."""
        for axis in self.axes:
            out = out * axis.base(x[axis.variable]) ** (axis.sign * params[axis.parameter])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One law form.

    A form with ``terms`` is their sum: a sum of exponentials of linear predictors once logs are taken, which
    is what :func:`qscale.laws.fit` uses. Other forms give ``function``, ``slope`` and a point to ``start``
    least squares from.
    """

    id: str
    formula: str
    target: str  #: what it gives: ``delta``, ``loss``, ...
    parameters: tuple[Parameter, ...]
    variables: tuple[Variable, ...]
    citation: str
    terms: tuple[Term, ...] = ()
    function: Callable[[Params, Inputs], FloatArray] | None = None
    slope: Callable[[Params, Inputs], dict[str, FloatArray]] | None = None
    unit: str = "nats per token"  #: of the target
    #: where least squares begins, for forms without terms, and the range it keeps to
    start: Mapping[str, float] = field(default_factory=dict, hash=False)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()  #: what is open, unverified or easily misread

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def scale(self) -> str | None:
        """The factor before the product, for forms of one term and one scale."""
        return self.terms[0].scale if len(self.terms) == 1 and not self.by else None

    @property
    def axes(self) -> tuple[LogAxis, ...]:
        """The factors of the product, for forms of one term and one scale."""
        return self.terms[0].axes if len(self.terms) == 1 and not self.by else ()

    @property
    def by(self) -> tuple[str, ...]:
        """The variables whose levels have scales of their own."""
        return tuple(dict.fromkeys(term.by for term in self.terms if term.by is not None))

    @property
    def reference_scale(self) -> str:
        """Name of the value at a reference point: ``delta0``."""
        return f"{self.target}0"

    def with_levels(self, levels: Mapping[str, Sequence[Any]]) -> Form:
        """This form for these levels of the variables that :attr:`by` names.

        Its id tells the levels, so that :func:`qscale.laws.forms.get` finds it again. At the level ``none``
        the terms with levels are absent: the unquantized runs of a joint fit.

        Raises:
            LawError: Other variables than those of ``by``, levels that repeat or are no names, or a form that
                has its levels.

        Example:
            >>> from qscale.laws import forms
            >>> form = forms.get("additive-table").with_levels({"P": [3, 4, "none"]})
            >>> form.id, form.names
            ('additive-table[P=3,4,none]', ('A', 'B', 'E', 'alpha', 'beta', 'k[3]', 'k[4]', 'gN', 'gD'))
        """
        names = {variable: tuple(level_name(level) for level in given) for variable, given in levels.items()}
        if not self.by or set(names) != set(self.by):
            wanted = f"those of {', '.join(self.by)}" if self.by else "none"
            raise LawError(
                f"law form {self.id!r}: levels of {', '.join(names) or 'nothing'}; it has {wanted}"
            )
        if any(variable.levels for variable in self.variables):
            raise LawError(f"law form {self.id!r} has its levels; take them of {self.id.partition('[')[0]!r}")
        for variable, found in names.items():
            if not found or len(set(found)) < len(found) or not all(map(_LEVEL.fullmatch, found)):
                raise LawError(
                    f"law form {self.id!r}: levels of {variable} are {', '.join(map(repr, found)) or 'none'}"
                    "; wanted different names without space, comma, semicolon, equals sign or brackets"
                )
        scales = {term.scale: names[term.by] for term in self.terms if term.by is not None}
        parameters: list[Parameter] = []
        for parameter in self.parameters:
            own = [level for level in scales.get(parameter.name, ()) if level != ABSENT]
            parameters += [replace(parameter, name=f"{parameter.name}[{level}]") for level in own]
            parameters += [parameter] if parameter.name not in scales else []
        listed = ";".join(f"{variable}={','.join(names[variable])}" for variable in self.by)
        return replace(
            self,
            id=f"{self.id}[{listed}]",
            parameters=tuple(parameters),
            variables=tuple(replace(v, levels=names.get(v.name, ())) for v in self.variables),
            terms=tuple(replace(t, levels=names[t.by]) if t.by is not None else t for t in self.terms),
        )

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
            check = _numbered if variable.name in self.by else _checked
            arrays.append(check(self.id, variable, given[variable.name]))
        try:
            return dict(zip(names, np.broadcast_arrays(*arrays), strict=True))
        except ValueError as err:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
            raise LawError(f"law form {self.id!r}: shapes do not broadcast: {shapes}") from err

    def value(self, params: Params, given: Mapping[str, Any]) -> FloatArray:
        """The target at the given variables, in :attr:`unit`.

        Example:
            >>> published = {"k": 0.1582, "gN": 0.2186, "gD": 0.0745, "gG": 0.7779}
            >>> from qscale.laws import forms
            >>> round(float(forms.get("qat-unified").value(published, {"N": 595e6, "D": 100e9, "G": 128})), 6)
            0.057279
        """
        x = self.inputs(given)
        if self.function is not None:
            try:
                return self.function(params, x)
            except ArithmeticError as err:  # constants that nobody would print, such as an exponent of 0
                raise LawError(
                    f"law form {self.id!r} has no value with the constants {params}: {err}"
                ) from err
        return sum((term.value(params, x) for term in self.terms[1:]), start=self.terms[0].value(params, x))

    def gradient(self, params: Params, given: Mapping[str, Any]) -> dict[str, FloatArray]:
        """Derivative of :meth:`value` by each parameter: an array for each, in the order of :attr:`names`."""
        x = self.inputs(given)
        if self.slope is not None:
            slope = self.slope(params, x)
            return {name: slope[name] for name in self.names}
        out = {name: np.zeros(next(iter(x.values())).shape) for name in self.names}
        for term in self.terms:
            value = term.value(params, x)
            for name, here in term.scales(x).items():
                out[name] = out[name] + term.times_powers(here.astype(np.float64), params, x)
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


def level_name(level: Any) -> str:
    """The name of a level: that of a number does not depend on how it is written.

    >>> level_name(4), level_name("4.0"), level_name("w4a16")
    ('4', '4', 'w4a16')
    """
    try:
        return f"{float(level):g}"
    except (TypeError, ValueError):
        return str(level).strip()


def _numbered(form: str, variable: Variable, value: Any) -> FloatArray:
    """The numbers of levels: 1, 2, ... in the order of ``variable.levels``."""
    if not variable.levels:
        raise LawError(
            f"law form {form!r} has a scale for each level of {variable.name}: name them first, "
            f"with_levels({{{variable.name!r}: [...]}})"
        )
    given = np.asarray(value)
    out = np.empty(given.shape)
    for at, level in np.ndenumerate(given):
        if (name := level_name(level)) not in variable.levels:
            raise LawError(f"law form {form!r}: {variable.name}={name}; known: {', '.join(variable.levels)}")
        out[at] = 1 + variable.levels.index(name)
    return out


def _checked(form: str, variable: Variable, value: Any) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise LawError(f"law form {form!r}: {variable.name}={value!r} is not a number") from err
    low = array < variable.least if variable.least_allowed else array <= variable.least
    bad = low | (array > variable.most) | ~np.isfinite(array)
    if bad.any():
        sign = "at least" if variable.least_allowed else "more than"
        top = "" if math.isinf(variable.most) else f", at most {variable.most:g}"
        raise LawError(
            f"law form {form!r}: {variable.name}={array[bad].flat[0]:g}; "
            f"{variable.name} ({variable.unit}) is finite and {sign} {variable.least:g}{top}"
        )
    return array


#: Variables of most forms; those of a few are in :mod:`qscale.laws.forms.common`.
N = Variable(name="N", unit="non-embedding parameters, raw count", least=0.0, least_allowed=False)
D = Variable(name="D", unit="training tokens, raw count", least=0.0, least_allowed=False)
G = Variable(name="G", unit="elements that share one scale", least=1.0, least_allowed=True)
