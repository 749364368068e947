"""The fit of a form that is no sum of terms: least squares from its own start and others around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError, LawError
from qscale.laws import diagnose
from qscale.laws.deviations import least_deviations
from qscale.laws.forms import FloatArray, Form
from qscale.laws.law import Draws, Law
from qscale.laws.noise import row_weights
from qscale.laws.objective import Objective
from qscale.laws.table import Table

_STARTS = 16
_SPREAD = 1.0  # of starts, in logarithms
_ALIKE = 1e-6  # relative difference of two optima that are one
_FEW_STARTS = 0.25
_SMALLEST = 1e-200  # bounds below it say that a parameter is positive
_REACH = 0.1  # from least squares to least deviations, in logarithms, at a step
_PROGRAMS = 12  # on that way
_SMALLEST_RESIDUAL = 1e-150  # its square is a number


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Rows, and parameters as they are searched: logarithms of those that must be positive."""

    form: Form
    data: Table
    objective: Objective
    fixed: dict[str, float]
    names: tuple[str, ...]  #: the free parameters
    positive: NDArray[np.bool_]
    low: FloatArray
    high: FloatArray
    weight: FloatArray  #: of each row's loss

    @classmethod
    def make(cls, data: Table, objective: Objective, fixed: dict[str, float]) -> _Problem:
        form = data.form
        names = tuple(name for name in form.names if name not in fixed)
        ends = [form.bounds.get(name, (-np.inf, np.inf)) for name in names]
        positive = np.array([0 < low <= _SMALLEST for low, _ in ends])
        low = np.array([-np.inf if p else e[0] for p, e in zip(positive, ends, strict=True)])
        high = np.array([np.log(e[1]) if p else e[1] for p, e in zip(positive, ends, strict=True)])
        return cls(
            form=form,
            data=data,
            objective=objective,
            fixed=fixed,
            names=names,
            positive=positive,
            low=low,
            high=high,
            weight=row_weights(data.target, data.target_se, data.cell, objective),
        )

    def params(self, theta: FloatArray) -> dict[str, float]:
        """The form's own parameters."""
        values = np.where(self.positive, np.exp(np.where(self.positive, theta, 0.0)), theta)
        found = self.fixed | dict(zip(self.names, values.tolist(), strict=True))
        return {name: found[name] for name in self.form.names}

    def residuals(self, theta: FloatArray) -> FloatArray:
        """Of each row; where the form has no number a very large one."""
        assert self.form.function is not None
        with np.errstate(all="ignore"):
            value = self.form.function(self.params(theta), self.data.variables)
            found = np.log(value) - np.log(self.data.target) if self._in_logs else value - self.data.target
        out: FloatArray = np.where(np.isfinite(found), found, 1e3)
        return out

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """Derivative of :meth:`residuals`."""
        assert self.form.function is not None and self.form.slope is not None
        params = self.params(theta)
        with np.errstate(all="ignore"):
            slope = self.form.slope(params, self.data.variables)
            columns = [
                slope[name] * (params[name] if is_log else 1.0)
                for name, is_log in zip(self.names, self.positive, strict=True)
            ]
            out = np.stack(columns, axis=1)
            if self._in_logs:
                out = out / self.form.function(params, self.data.variables)[:, None]
        clean: FloatArray = np.where(np.isfinite(out), out, 0.0)
        return clean

    def start(self) -> FloatArray:
        """The form's own."""
        own = np.array([self.form.start[name] for name in self.names])
        out: FloatArray = np.where(self.positive, np.log(np.where(self.positive, own, 1.0)), own)
        return out

    def solve(self, start: FloatArray, kept: FloatArray) -> tuple[FloatArray, float, bool]:
        """The optimum from one start, the objective there, and whether it was reached.

        ``kept`` counts each row. Absolute deviations are those near the least squares.
        """
        weight = self.weight * kept
        deviations = self.objective.loss == "lad"
        smooth = replace(self.objective, loss="l2") if deviations else self.objective
        at, reached = self._solve(smooth, start, weight)
        if deviations:
            at = least_deviations(
                self.residuals,
                self.jacobian,
                at,
                weight=weight,
                low=self.low,
                high=self.high,
                free=np.ones(len(at), dtype=bool),
                reach=_REACH,
                programs=_PROGRAMS,
            )
        losses = self.objective.losses(self.residuals(at))
        return at, float(losses @ weight), reached

    def _solve(self, objective: Objective, start: FloatArray, weight: FloatArray) -> tuple[FloatArray, bool]:
        from scipy.optimize import least_squares

        def rho(squares: FloatArray) -> FloatArray:
            """Twice the loss and its derivatives by the squared residual, as scipy takes them."""
            r = np.maximum(np.sqrt(squares), _SMALLEST_RESIDUAL)
            first, second = objective.slopes(r)
            bend = (second - first / r) / (2 * squares + _SMALLEST_RESIDUAL)
            return np.stack([2 * objective.losses(r), first / r, bend]) * weight

        found = least_squares(
            self.residuals,
            np.clip(start, self.low + 1e-12, self.high - 1e-12),
            jac=self.jacobian,
            bounds=(self.low, self.high),
            x_scale="jac",
            loss=rho,
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=500,
        )
        return found.x, found.status > 0

    @property
    def _in_logs(self) -> bool:
        return self.objective.residual == "log"


def fit_function(data: Table, objective: Objective, fixed: dict[str, float], options: dict[str, Any]) -> Law:
    """A law of a form without terms.

    Its interval is of a bootstrap, each draw from the optimum.
    """
    form = data.form
    if not form.start:
        raise LawError(f"law form {form.id!r} has no starting point: it is not fitted")
    if objective.residual == "log" and (data.target <= 0).any():
        raise FitError("a target is not positive: fit raw residuals, such as objective='raw:l2'")
    problem = _Problem.make(data, objective, fixed)
    if len(data) < len(problem.names):
        why = f"{len(data)} rows cannot determine {len(problem.names)} parameters"
        return _law(problem, None, None, [f"not_identified: {why}"], options)
    rng = np.random.default_rng(options["seed"])
    own = problem.start()
    starts = [
        own,
        *(own + _SPREAD * rng.standard_normal((_STARTS - 1, len(own))) * np.maximum(0.3, 0.3 * abs(own))),
    ]
    even = np.ones(len(data))
    found = [problem.solve(start, even) for start in starts]
    best, value, reached = min(found, key=lambda f: f[1])
    share = float(np.mean([cost <= value * (1 + _ALIKE) for _, cost, _ in found]))
    cluster = np.arange(len(data)) if options["resample"] == "case" else data.ladder
    clusters = int(cluster.max()) + 1
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=options["bootstrap"])
    draws = np.array([problem.solve(best, count[cluster].astype(np.float64))[0] for count in counts])
    problems = [] if reached else ["not_converged: the steps ran out before an optimum was reached"]
    return _law(problem, best, draws, problems, options | {"share": share, "value": value})


def _law(
    problem: _Problem,
    theta: FloatArray | None,
    draws: FloatArray | None,
    problems: list[str],
    options: dict[str, Any],
) -> Law:
    form, data = problem.form, problem.data
    share, value = options.pop("share", None), options.pop("value", None)
    weights = "inverse variance of the rows, mean 1" if np.ptp(problem.weight) > 0 else "equal"
    parameters: dict[str, float | None] = dict.fromkeys(form.names)
    diagnostics: dict[str, Any] = {"not_identified": {}, "advice": [], "warnings": []}
    table = None
    if theta is not None and draws is not None:
        parameters = dict(problem.params(theta))
        columns = [problem.params(draw) for draw in draws]
        values = np.array([[float(f"{row[name]:.10g}") for name in form.names] for row in columns])
        table = Draws(method=f"{options['resample']} bootstrap", columns=form.names, values=values)
        diagnostics |= _diagnostics(problem, theta, values, share, value)
    return Law(
        form=form,
        status="; ".join(problems) or "converged",
        parameters=parameters,
        fixed=dict(problem.fixed),
        box={n: (float(x.min()), float(x.max())) for n, x in data.variables.items()},
        conventions=diagnose.conventions(form),
        quantization={
            "mode": data.mode,
            "recipe": data.recipe,
            "dialect": data.dialect,
            "method": data.method,
        },
        data=diagnose.data_block(data),
        fit={"objective": str(problem.objective), "weights": weights, **options},
        diagnostics=diagnose.finite(diagnostics),
        holdout=diagnose.finite(_holdout(problem, theta)) if theta is not None else {},
        draws_table=table,
        checklist=diagnose.items(form, data)
        | {"objective": str(problem.objective), "optimizer": "scipy.optimize.least_squares (trf)"},
        notes=data.notes,
        citation={"text": f"form: {form.citation}", "url": None},
        code_version=diagnose.version(),
    )


def _diagnostics(
    problem: _Problem, theta: FloatArray, draws: FloatArray, share: float, value: float
) -> dict[str, Any]:
    form, data = problem.form, problem.data
    assert form.function is not None
    fitted = form.function(problem.params(theta), data.variables)
    errors = np.abs(fitted / data.target - 1)
    rest = np.log(np.abs(fitted)) - np.log(np.abs(data.target))
    log = np.log(np.abs(data.target))
    freedom = max(1, len(data) - len(theta))
    warnings = []
    for name, at, low, high in zip(problem.names, theta, problem.low, problem.high, strict=True):
        if at <= low + 1e-6 * max(1.0, abs(low)) or at >= high - 1e-6 * max(1.0, abs(high)):
            warnings.append(f"parameter_at_bound: {name} is at an end of its range")
    if share < _FEW_STARTS:
        warnings.append(f"few_starts_at_optimum: {share:.0%} of {_STARTS} starts ended at the lowest value")
    spread = np.quantile(draws, [0.05, 0.95], axis=0)
    for name, (low, high) in zip(form.names, spread.T, strict=True):
        if low < 0 < high and name in problem.names:
            warnings.append(f"weakly_identified_exponent: the interval of {name} includes 0")
    return {
        "rows": len(data),
        "ladders": int(data.ladder.max()) + 1,
        "degrees_of_freedom": len(data) - len(theta),
        "objective_value": value,
        "starts_at_optimum": share,
        "r2": float(1 - np.sum(rest**2) / max(np.sum((log - log.mean()) ** 2), 1e-300)),
        "mean_relative_error": float(errors.mean()),
        "max_relative_error": float(errors.max()),
        "chi2_per_dof": None,
        "seed_sd": None,
        "scatter_sd": float(np.sqrt(np.sum(rest**2) / freedom)),
        "warnings": warnings,
    }


def _holdout(problem: _Problem, theta: FloatArray) -> dict[str, Any]:
    """Mean relative error on the largest values and on each row, left out of the fit."""
    data = problem.data
    folds: dict[str, list[NDArray[np.bool_]]] = {
        f"largest_{name}": [values == values.max()]
        for name, values in data.variables.items()
        if len(np.unique(values)) > 1
    }
    folds["leave_one_out"] = list(np.eye(len(data), dtype=bool))
    out: dict[str, Any] = {}
    counts = {}
    assert problem.form.function is not None
    for name, masks in folds.items():
        out[name] = None
        if any(len(data) - mask.sum() <= len(theta) for mask in masks):
            continue
        errors = []
        for mask in masks:
            found, _, _ = problem.solve(theta, (~mask).astype(np.float64))
            value = problem.form.function(problem.params(found), data.variables)
            errors += list(np.abs(value / data.target - 1)[mask])
        out[name] = float(np.mean(errors))
        counts[name] = len(errors)
    return out | {"rows": counts}
