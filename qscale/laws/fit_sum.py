"""The fit of a sum of terms: an objective from many starts, draws by resampling, refits without some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError
from qscale.laws import diagnose
from qscale.laws.design import Design, reference_names
from qscale.laws.estimate import Estimate, Restriction, TooFewRowsError
from qscale.laws.forms import FloatArray, Form
from qscale.laws.law import Draws, Law, Reference
from qscale.laws.noise import Replicates, replicate_sd, row_weights
from qscale.laws.objective import Objective
from qscale.laws.posynomial import exp
from qscale.laws.table import Table

_FEW_STARTS = 0.25  # of the starts at the lowest optimum: fewer, and there may be a lower one
_NO_SHARE = 1e-6  # of every row's value: a constant so small is none
_ILL = 1e8  # condition number of the scaled slopes
_RARE = 0.01  # a trend this improbable under independent residuals is one
_CLOSE = 0.98  # correlation of the logarithms of two variables
_FEW_LEVELS = 3
_MOST_FOLDS = 256  # of rows, cells or ladders left out: more of them are left out together


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Restrictions by name: see :func:`qscale.laws.fit`."""

    fix: dict[str, float] = field(default_factory=dict)
    tie: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    prior: dict[str, tuple[float, float]] = field(default_factory=dict)
    cell_effects: bool = False


def fit_sum(data: Table, objective: Objective, wanted: Wanted, options: dict[str, Any]) -> Law:
    """A law of a form with terms."""
    form = data.form
    reasons = _one_level(form, data, wanted)
    if reasons:
        return _unidentified(form, data, reasons, objective, options)
    try:
        estimate = estimate_of(data, objective, wanted)
        if wanted.cell_effects:
            estimate = estimate.with_effects(_twins(data))
    except TooFewRowsError as err:
        why = dict.fromkeys(reference_names(form), str(err))
        return _unidentified(form, data, why, objective, options)
    draws = estimate.bootstrap(options["resample"], data.ladder, options["bootstrap"], options["seed"])
    return _law(estimate, data, estimate.restriction.theta(draws), wanted, options)


def estimate_of(data: Table, objective: Objective, wanted: Wanted) -> Estimate:
    """The optimum over checked rows.

    Raises:
        LawError: A restriction is none of the form's.
        FitError: A variable does not vary, or a logarithm is asked of a target that is not positive.
        TooFewRowsError: There are fewer rows than free parameters.
    """
    form = data.form
    if objective.residual == "log" and (low := int((data.target <= 0).sum())):
        raise FitError(
            f"{form.target} is not positive in {low} rows: their logarithm is no number; fit raw residuals, "
            "such as objective='raw:l2'"
        )
    if reasons := _one_level(form, data, wanted):
        raise FitError(f"{form.id!r} is not identified: {'; '.join(dict.fromkeys(reasons.values()))}")
    design = Design.make(form, data.variables, data.target)
    restriction = Restriction.make(
        design, fix=wanted.fix, tie=wanted.tie, bounds=wanted.bounds, prior=wanted.prior
    )
    return Estimate.make(
        design, objective, restriction, row_weights(data.target, data.target_se, data.cell, objective)
    )


def _twins(data: Table) -> NDArray[np.intp]:
    """A number for rows of one ladder and D: runs that differ in how they were quantized alone."""
    both = np.column_stack([data.ladder, data.variables["N"], data.variables["D"]])
    out: NDArray[np.intp] = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    return out


def _one_level(form: Form, data: Table, wanted: Wanted) -> dict[str, str]:
    """Exponents of variables that do not vary."""
    held = set(wanted.fix) | set(wanted.tie) | set(wanted.prior)
    reasons = {}
    for term in form.terms:
        for axis in term.axes:
            values = data.variables[axis.variable]
            if values.min() == values.max() and axis.parameter not in held:
                reasons[axis.parameter] = f"{axis.variable} has one value ({values[0]:g})"
    return reasons


def _law(estimate: Estimate, data: Table, thetas: FloatArray, wanted: Wanted, options: dict[str, Any]) -> Law:
    design, form = estimate.design, estimate.design.form
    names = reference_names(form)
    draws = _round(_at_reference(design, thetas))
    values = _at_reference(design, estimate.theta[None])[0]
    low, high = np.quantile(draws, [(1 - options["level"]) / 2, (1 + options["level"]) / 2], axis=0)
    intervals = {
        name: (float(a), float(b))
        for name, inner, a, b in zip(names, design.names, low, high, strict=True)
        if inner not in wanted.fix
    }
    problem = "" if estimate.converged else "not_converged: the steps ran out before an optimum was reached"
    return Law(
        form=form,
        status=problem or "converged",
        parameters={name: float(value) for name, value in design.raw(estimate.theta).items()},
        reference=Reference(
            at=design.center,
            parameters=dict(zip(names, (float(v) for v in values), strict=True)),
            intervals=intervals,
            level=options["level"],
        ),
        fixed={name: float(value) for name, value in wanted.fix.items()},
        box=_box(form, data),
        conventions=diagnose.conventions(form),
        quantization={
            "mode": data.mode,
            "recipe": data.recipe,
            "dialect": data.dialect,
            "method": data.method,
        },
        data=diagnose.data_block(data),
        fit=_fit_block(estimate, wanted, options),
        diagnostics=diagnose.finite(_diagnostics(estimate, data, intervals, wanted)),
        holdout=diagnose.finite(_holdout(estimate, data)),
        draws_table=Draws(method=f"{options['resample']} bootstrap", columns=names, values=draws),
        checklist=_checklist(estimate, data, options),
        notes=data.notes,
        citation={"text": f"form: {form.citation}", "url": None},
        code_version=diagnose.version(),
    )


def _unidentified(
    form: Form, data: Table, reasons: dict[str, str], objective: Objective, options: dict[str, Any]
) -> Law:
    names = reference_names(form)
    center = {v.name: float(np.median(data.variables[v.name])) for v in form.variables if not v.levels}
    return Law(
        form=form,
        status=f"not_identified: {'; '.join(dict.fromkeys(reasons.values()))}",
        parameters=dict.fromkeys(form.names),
        reference=Reference(at=center, parameters=dict.fromkeys(names), intervals={}, level=options["level"]),
        box=_box(form, data),
        data=diagnose.data_block(data),
        fit={"objective": str(objective), **options},
        diagnostics={"not_identified": reasons, "advice": diagnose.advice(form, reasons)},
        notes=data.notes,
        code_version=diagnose.version(),
    )


def _box(form: Form, data: Table) -> dict[str, tuple[float, float]]:
    numeric = [v.name for v in form.variables if not v.levels]
    return {n: (float(data.variables[n].min()), float(data.variables[n].max())) for n in numeric}


def _at_reference(design: Design, thetas: FloatArray) -> FloatArray:
    """Logarithms of scales as scales."""
    places = np.isin(np.arange(thetas.shape[-1]), design.scales[design.scales >= 0])
    out: FloatArray = np.where(places, exp(np.where(places, thetas, 0.0)), thetas)
    return out


def _round(values: FloatArray) -> FloatArray:
    return np.array([[float(f"{x:.10g}") for x in row] for row in values])


def _fit_block(estimate: Estimate, wanted: Wanted, options: dict[str, Any]) -> dict[str, Any]:
    weighed = bool(np.ptp(estimate.weight) > 0)
    return {
        "objective": str(estimate.objective),
        "huber_delta": estimate.objective.width if estimate.objective.loss == "huber" else None,
        "weights": "inverse variance of the rows, mean 1" if weighed else "equal",
        "tie": wanted.tie,
        "bounds": {name: list(ends) for name, ends in wanted.bounds.items()},
        "prior": {name: list(pair) for name, pair in wanted.prior.items()},
        "cell_effects": wanted.cell_effects,
        **options,
    }


def _relative(estimate: Estimate, phi: FloatArray) -> FloatArray:
    """|law / observed - 1| of each row: ``(..., rows)``."""
    out: FloatArray = np.abs(estimate.law_value(phi) / estimate.problem.target - 1)
    return out


def _diagnostics(
    estimate: Estimate, data: Table, intervals: Mapping[str, tuple[float, float]], wanted: Wanted
) -> dict[str, Any]:
    rows, free = len(data), estimate.restriction.free
    errors = _relative(estimate, estimate.phi)
    log = np.log(np.abs(data.target))
    rest = np.log(estimate.problem.value(estimate.phi)) - log
    off = np.log(estimate.law_value(estimate.phi)) - log
    slopes = estimate.problem.log_gradient(estimate.phi)[:, :free]
    norms = np.linalg.norm(slopes, axis=0)
    condition = float(np.linalg.cond(slopes / np.where(norms > 0, norms, 1.0)))
    replicates = replicate_sd(data.target, data.cell)
    freedom = max(1.0, estimate.freedom)
    scatter = float(np.sqrt(np.sum(rest**2) / freedom))
    chi2 = None if replicates is None or replicates.sd == 0 else (scatter / replicates.sd) ** 2
    return {
        "rows": rows,
        "ladders": int(data.ladder.max()) + 1,
        "degrees_of_freedom": rows - free,
        "objective_value": estimate.value,
        "starts_at_optimum": estimate.share_at_best,
        "r2": float(1 - np.sum(off**2) / np.sum((log - log.mean()) ** 2)),
        "mean_relative_error": float(errors.mean()),
        "max_relative_error": float(errors.max()),
        "chi2_per_dof": chi2,
        "seed_sd": None if replicates is None else replicates.sd,
        "seed_cells": 0 if replicates is None else replicates.cells,
        "seed_degrees_of_freedom": 0 if replicates is None else replicates.freedom,
        "scatter_sd": scatter,
        "cell_sd": None if estimate.effects is None else estimate.effects.ratio * scatter,
        "condition_number": condition,
        "not_identified": {},
        "advice": [],
        "warnings": [
            *_bound_warnings(estimate, wanted),
            *_start_warnings(estimate, condition),
            *_design_warnings(estimate.design.form, data),
            *_trend_warnings(estimate, data),
            *[
                f"weakly_identified_exponent: the interval of {name} includes 0"
                for name, (low, high) in intervals.items()
                if low <= 0 <= high
            ],
            *_noise_warnings(chi2, replicates, freedom),
        ],
    }


def _bound_warnings(estimate: Estimate, wanted: Wanted) -> list[str]:
    """Parameters at a bound, and constants that no row needs."""
    design = estimate.design
    shares = design.problem.shares(estimate.theta)
    found = []
    for place in np.unique(design.scales[design.scales >= 0]):
        name = design.names[place]
        if float(shares[design.scales == place].max()) < _NO_SHARE and name not in wanted.fix:
            found.append(f"{name}_at_zero: the term of {name} is no part of any row's value")
    names = [name for name in design.names if name not in wanted.fix and name not in wanted.tie]
    for name, stuck in zip(names, estimate.at_bound[: len(names)], strict=True):
        if stuck and name in wanted.bounds:
            found.append(f"parameter_at_bound: {name} is at an end of its range")
    return found


def _start_warnings(estimate: Estimate, condition: float) -> list[str]:
    found = []
    if estimate.share_at_best < _FEW_STARTS:
        found.append(
            f"few_starts_at_optimum: {estimate.share_at_best:.0%} of 16 starts ended at the lowest value"
        )
    if condition > _ILL:
        found.append(f"ill_conditioned_fit: condition number {condition:.1g}; parameters trade off")
    return found


def _design_warnings(form: Form, data: Table) -> list[str]:
    found = []
    used = _used(form)
    for name in used:
        levels = len(np.unique(data.variables[name]))
        if levels < _FEW_LEVELS:
            found.append(f"too_few_levels: {name} has {levels} values; a power beside a constant needs three")
    logs = {name: np.log(data.variables[name]) for name in used if (data.variables[name] > 0).all()}
    names = [name for name, values in logs.items() if np.ptp(values) > 0]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            r = float(np.corrcoef(logs[one], logs[other])[0, 1])
            if abs(r) > _CLOSE:
                found.append(f"collinear_predictors: {one} and {other} vary together (correlation {r:.3f})")
    return found


def _used(form: Form) -> list[str]:
    """The variables of the powers."""
    return list(dict.fromkeys(axis.variable for term in form.terms for axis in term.axes))


def _trend_warnings(estimate: Estimate, data: Table) -> list[str]:
    """Curvature of the residuals along the logarithm of a variable, and along that of D / N."""
    from scipy.special import fdtrc

    rest = estimate.residuals
    axes = {
        name: np.log(values)
        for name, values in data.variables.items()
        if name in _used(data.form) and (values > 0).all() and len(np.unique(values)) > _FEW_LEVELS
    }
    if {"N", "D"} <= set(data.variables):
        ratio = data.variables["D"] / data.variables["N"]
        if len(np.unique(ratio)) > _FEW_LEVELS:
            axes["D/N"] = np.log(ratio)
    slopes = estimate.problem.log_gradient(estimate.phi)
    free = len(rest) - slopes.shape[1] - 1
    if free < _FEW_LEVELS:
        return []
    basis = np.linalg.qr(slopes)[0]
    base = rest - basis @ (basis.T @ rest)
    found = []
    for name, log in axes.items():
        bend = (log - log.mean()) ** 2
        bend = bend - basis @ (basis.T @ bend)
        size = float(bend @ bend)
        if size < 1e-12:
            continue
        explained = float(bend @ base) ** 2 / size
        left = float(base @ base) - explained
        ratio_f = explained / max(left, 1e-300) * free
        if float(fdtrc(1, free, ratio_f)) < _RARE:
            way = "up" if bend @ base > 0 else "down"
            found.append(f"residual_trend: residuals bend {way} along {name}")
    return found


def _noise_warnings(chi2: float | None, replicates: Replicates | None, freedom: float) -> list[str]:
    if chi2 is None or replicates is None:
        return []
    from scipy.special import fdtrc

    if float(fdtrc(freedom, replicates.freedom, chi2)) >= _RARE:
        return []
    return [f"lack_of_fit: the scatter is {np.sqrt(chi2):.2g} times that of replicate runs"]


def _holdout(estimate: Estimate, data: Table) -> dict[str, Any]:
    """Mean relative error on rows left out of the fit: each, each cell, ladder and format, largest values."""
    rows, free = len(data), estimate.restriction.free
    masks = {
        f"largest_{name}": (values == values.max())[None]
        for name, values in data.variables.items()
        if name in _used(data.form) and len(np.unique(values)) > 1
    }
    if "largest_N" in masks and "largest_D" in masks:
        masks["largest_N_or_D"] = masks["largest_N"] | masks["largest_D"]
    groups = {"leave_one_out": np.arange(rows), "leave_one_cell": data.cell, "leave_one_ladder": data.ladder}
    if data.format.max() > 0:
        groups["leave_one_format"] = data.format
    masks |= {name: _folds(number) for name, number in groups.items()}
    out: dict[str, Any] = dict.fromkeys(masks)
    counts: dict[str, int] = {}
    known: dict[bytes, float] = {}  # rows that are cells and ladders of their own are left out once
    for name, left_out in masks.items():
        if (left_out.sum(axis=1) > rows - free - 1).any():
            continue
        key = np.packbits(left_out).tobytes()
        if key not in known:
            found = estimate.refit(~left_out * estimate.weight)
            known[key] = float(_relative(estimate, found.theta)[left_out].mean())
        out[name] = known[key]
        counts[name] = int(left_out.sum())
    return out | {"rows": counts}


def _folds(number: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Rows of one number left out together, ``(folds, rows)``; sorted, so that equal partitions are equal."""
    first = np.unique(number, return_index=True)[1]
    fold = np.argsort(np.argsort(first))[np.unique(number, return_inverse=True)[1]] % _MOST_FOLDS
    out: NDArray[np.bool_] = fold[None, :] == np.arange(fold.max() + 1)[:, None]
    return out


def _checklist(estimate: Estimate, data: Table, options: dict[str, Any]) -> dict[str, Any]:
    form = estimate.design.form
    known = diagnose.items(form, data)
    return known | {
        "metric_modified": "natural logarithm" if estimate.objective.residual == "log" else "no",
        "objective": str(estimate.objective),
        "optimizer": "damped Newton with the exact Hessian",
        "optimizer_settings": "relative decrease 1e-13, at most 200 steps",
        "initialization": "16 starts by variable projection over 576 sets of exponents; "
        f"{estimate.share_at_best:.0%} ended at the optimum",
        "validity": "rows, cells, ladders and largest values held out; "
        f"{options['bootstrap']} draws of a {options['resample']} bootstrap",
    }
