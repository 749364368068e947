"""The fit of a product of powers to deltas: weighted least squares in logarithms, noise by ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qscale.errors import FitError
from qscale.laws import diagnose, uncertainty
from qscale.laws.design import middle
from qscale.laws.forms import FloatArray, Form, LogAxis
from qscale.laws.law import Draws, Law, Reference
from qscale.laws.noise import NoisyRows, Replicates, Solution, replicate_sd, solve
from qscale.laws.posynomial import Posynomial, exp, in_range
from qscale.laws.table import Table, name_rows

_MOST_COLLINEAR = 1e-4  # smallest over largest singular value of the scaled axes: below, they are one axis
_WIDEST = 0.5  # half-width of an exponent's 90% interval beyond which, if its sign is open too, it is unknown
_DIGITS = 10  # of a stored draw


def fit_product(law_form: Form, data: Table, fixed: dict[str, float], options: dict[str, Any]) -> Law:
    """A law of a form with one term."""
    setup = _Setup.make(law_form, data, fixed)
    if not setup.enough_rows:
        return _law(setup, setup.reasons | setup.too_few_rows(), None, options)
    _check_signs(setup)
    replicates = replicate_sd(data.target, data.cell)
    solution = solve(setup.rows, None if replicates is None else replicates.sd)
    residuals = setup.rows.residuals(solution.theta)
    offsets = uncertainty.ladder_draws(
        setup.rows.design, residuals, solution.variance, data.ladder, options["bootstrap"], options["seed"]
    )
    thetas = solution.theta - offsets
    fitted = _Fitted(solution=solution, draws=_round(setup.to_named(thetas)), replicates=replicates)
    return _law(setup, setup.reasons | _weak(setup, fitted) | _wild(setup, fitted, thetas), fitted, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """The rows as a problem, around a reference point, with the axes that the rows cannot tell left out."""

    form: Form
    data: Table
    fixed: dict[str, float]
    center: dict[str, float]
    free: tuple[LogAxis, ...]  #: the axes that have a column of the design
    reasons: dict[str, str]  #: parameter -> why the rows do not determine it
    rows: NoisyRows

    @classmethod
    def make(cls, form: Form, data: Table, fixed: dict[str, float]) -> _Setup:
        center = {axis.variable: middle(axis, data.variables[axis.variable]) for axis in form.axes}
        columns = form.log_design(data.variables, center)
        offset = np.zeros(len(data))
        open_axes = []
        for i, axis in enumerate(form.axes):
            if axis.parameter in fixed:
                offset = offset + fixed[axis.parameter] * columns[:, i]
            else:
                open_axes.append(i)
        reasons, kept = _tell_apart(form, data, columns, open_axes)
        return cls(
            form=form,
            data=data,
            fixed=fixed,
            center=center,
            free=tuple(form.axes[i] for i in kept),
            reasons=reasons,
            rows=NoisyRows(
                problem=Posynomial(
                    design=np.column_stack([np.ones(len(data)), columns[:, kept]])[None],
                    offset=offset[None],
                    target=data.target,
                ),
                target_se=data.target_se,
            ),
        )

    @property
    def enough_rows(self) -> bool:
        """Whether a residual is left to judge the noise by."""
        return bool(len(self.data) > self.rows.design.shape[1])

    def too_few_rows(self) -> dict[str, str]:
        """The reason, for every parameter."""
        parameters = self.rows.design.shape[1]
        why = f"{len(self.data)} rows for {parameters} parameters leave nothing to judge them by"
        return dict.fromkeys((self.form.reference_scale, *(a.parameter for a in self.free)), why)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the parameters at the reference point, fixed and unknown ones included."""
        return (self.form.reference_scale, *(axis.parameter for axis in self.form.axes))

    def to_named(self, theta: FloatArray) -> FloatArray:
        """Internal parameters as those at the reference point: ``(..., columns)``."""
        values = {self.form.reference_scale: exp(theta[..., 0])}
        values |= {axis.parameter: theta[..., i + 1] for i, axis in enumerate(self.free)}
        blank = np.zeros_like(theta[..., 0])
        return np.stack([values.get(n, blank + self.fixed.get(n, 0.0)) for n in self.columns], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    solution: Solution
    draws: FloatArray  #: ``(draws, columns)`` at the reference point
    replicates: Replicates | None


def _tell_apart(
    form: Form, data: Table, columns: FloatArray, open_axes: list[int]
) -> tuple[dict[str, str], list[int]]:
    """The exponents that the design cannot determine, with reasons, and the axes to fit with."""
    reasons: dict[str, str] = {}
    kept = []
    for i in open_axes:
        axis = form.axes[i]
        values = data.variables[axis.variable]
        if values.min() == values.max():
            reasons[axis.parameter] = f"{axis.variable} has one value ({values[0]:g})"
        else:
            kept.append(i)
    while len(kept) > 1:
        scaled = columns[:, kept] - columns[:, kept].mean(axis=0)
        scaled = scaled / np.linalg.norm(scaled, axis=0)
        _, singular, right = np.linalg.svd(scaled, full_matrices=False)
        if len(scaled) > len(kept) and singular[-1] > _MOST_COLLINEAR * singular[0]:
            break
        involved = [i for i, share in zip(kept, np.abs(right[-1]), strict=True) if share > 0.1]
        names = " and ".join(form.axes[i].variable for i in involved)
        for i in involved:
            reasons[form.axes[i].parameter] = f"{names} vary together in every row and cannot be told apart"
        kept.remove(involved[-1])
    return reasons, kept


def _check_signs(setup: _Setup) -> None:
    """Few rows at or below zero are noise around a small delta; many mean that the form does not apply."""
    low = setup.data.target <= 0
    if 2 * low.sum() > len(low):
        named = name_rows(sorted(row for row, bad in zip(setup.data.rows, low, strict=True) if bad))
        where = "" if setup.data.source is None else f"{setup.data.source}: "
        raise FitError(
            f"{where}{setup.form.target} is not positive in {int(low.sum())} of {len(low)} rows ({named}): "
            f"the form {setup.form.formula!r} is positive everywhere and cannot describe them"
        )


def _weak(setup: _Setup, fitted: _Fitted) -> dict[str, str]:
    """Exponents whose sign is open and whose 90% interval is wider than any that has been measured."""
    reasons = {}
    for name, draws in zip(setup.columns, fitted.draws.T, strict=True):
        if name in setup.fixed or name in setup.reasons or name == setup.form.reference_scale:
            continue
        low, high = np.quantile(draws, [0.05, 0.95])
        if low < 0 < high and (high - low) / 2 > _WIDEST:
            reasons[name] = f"{name} may be anything from {low:.2g} to {high:.2g}"
    return reasons


def _wild(setup: _Setup, fitted: _Fitted, thetas: FloatArray) -> dict[str, str]:
    """Why the constants cannot be written down: they, or some draws, are beyond what a number can hold."""
    theta = fitted.solution.theta
    named = dict(zip(setup.columns, setup.to_named(theta).tolist(), strict=True))
    scale = setup.form.log_raw_scale(theta[0], named, setup.center)
    if in_range(np.append(thetas[:, 0], (theta[0], scale))) and np.all(np.isfinite(thetas)):
        return {}
    found = ", ".join(f"{name} {named[name]:.3g}" for name in setup.columns[1:])
    why = f"the constants are beyond what a number can hold ({found}): is a value wrong?"
    unknown = setup.columns if not np.all(np.isfinite(thetas)) else setup.columns[:1]
    return dict.fromkeys(unknown, why)


def _law(setup: _Setup, reasons: dict[str, str], fitted: _Fitted | None, options: dict[str, Any]) -> Law:
    form, data = setup.form, setup.data
    at_center: dict[str, float | None] = dict.fromkeys(setup.columns)
    intervals, table = {}, None
    if fitted is not None:
        values = setup.to_named(fitted.solution.theta)
        at_center = {n: float(v) for n, v in zip(setup.columns, values, strict=True) if n not in reasons}
        at_center |= dict.fromkeys(n for n in setup.columns if n in reasons)
        intervals = _intervals(setup, fitted, options["level"])
        if not reasons:
            table = Draws(method=uncertainty.METHOD, columns=setup.columns, values=fitted.draws)
    raw = dict.fromkeys(form.names, None) | {a.parameter: at_center[a.parameter] for a in form.axes}
    known = {name: value for name, value in at_center.items() if value is not None}
    if len(known) == len(setup.columns):
        assert form.scale is not None
        raw[form.scale] = form.raw_scale(known[form.reference_scale], known, setup.center)
    diagnostics: dict[str, Any] = {"not_identified": reasons, "advice": diagnose.advice(form, reasons)}
    holdout: dict[str, Any] = {}
    if fitted is not None:
        diagnostics |= diagnose.diagnostics(setup.rows, data, fitted.solution, fitted.replicates)
        diagnostics["warnings"] += _sign_warnings(intervals, setup)
        holdout = diagnose.holdout(setup.rows, data, fitted.solution)
    return Law(
        form=form,
        status=_status(reasons),
        parameters=raw,
        reference=Reference(
            at=setup.center, parameters=at_center, intervals=intervals, level=options["level"]
        ),
        fixed={name: float(value) for name, value in setup.fixed.items()},
        box={n: (float(x.min()), float(x.max())) for n, x in data.variables.items()},
        conventions=diagnose.conventions(form),
        quantization={
            "mode": data.mode,
            "recipe": data.recipe,
            "dialect": data.dialect,
            "method": data.method,
        },
        data=diagnose.data_block(data),
        fit=diagnose.fit_block(setup.rows, options),
        diagnostics=diagnose.finite(diagnostics),
        holdout=diagnose.finite(holdout),
        draws_table=table,
        checklist=diagnose.checklist(form, setup.rows, data),
        notes=data.notes,
        citation={"text": f"form: {form.citation}", "url": None},
        code_version=diagnose.version(),
    )


def _status(reasons: Mapping[str, str]) -> str:
    return f"not_identified: {'; '.join(dict.fromkeys(reasons.values()))}" if reasons else "converged"


def _intervals(setup: _Setup, fitted: _Fitted, level: float) -> dict[str, tuple[float, float]]:
    skip = setup.fixed.keys() | setup.reasons.keys()
    low, high = np.quantile(fitted.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        n: (float(a), float(b))
        for n, a, b in zip(setup.columns, low, high, strict=True)
        if n not in skip and np.isfinite(b - a)
    }


def _sign_warnings(intervals: Mapping[str, tuple[float, float]], setup: _Setup) -> list[str]:
    return [
        f"weakly_identified_exponent: the interval of {name} includes 0"
        for name, (low, high) in intervals.items()
        if low <= 0 <= high and name != setup.form.reference_scale
    ]


def _round(values: FloatArray) -> FloatArray:
    """Fewer digits in the file; rounded before any interval is taken, so that a stored law gives the same."""
    return np.array([[float(f"{x:.{_DIGITS}g}") for x in row] for row in values])
