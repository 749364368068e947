"""Whether to believe a fit: errors in and out of sample, scatter against noise, the reporting checklist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.laws.forms import FloatArray, Form
from qscale.laws.noise import NoisyRows, Replicates, Solution, refit
from qscale.laws.table import Table, name_rows

_RARE = 0.01  # a scatter this improbable under the replicate noise is lack of fit
_FEW_LADDERS = 8
_MOST_LISTED = 64  # values of one axis listed in the file


def diagnostics(
    rows: NoisyRows, data: Table, solution: Solution, replicates: Replicates | None
) -> dict[str, Any]:
    """Figures of the fit and coded warnings; relative errors are ``|fitted - observed| / observed``.

    With repeated seeds: ``seed_sd`` (relative), the ``seed_cells`` and ``seed_degrees_of_freedom`` it rests
    on, and ``chi2_per_dof``. Without: ``scatter_sd``, what the residuals ask for; chi-square is then its
    degrees of freedom by construction and is left out (None).
    """
    count, parameters = rows.design.shape
    residuals = rows.residuals(solution.theta)
    chi2 = float(np.sum(residuals**2 / solution.variance)) / (count - parameters)
    errors = _relative_errors(rows, solution.theta)
    scaled = rows.design / np.linalg.norm(rows.design, axis=0)
    return {
        "rows": count,
        "ladders": int(data.ladder.max()) + 1,
        "degrees_of_freedom": count - parameters,
        "r2": _r2(rows, solution),
        "mean_relative_error": float(np.nanmean(errors)),
        "max_relative_error": float(np.nanmax(errors)),
        "chi2_per_dof": chi2 if replicates is not None and solution.noise_known else None,
        "seed_sd": None if replicates is None else replicates.sd,
        "seed_cells": 0 if replicates is None else replicates.cells,
        "seed_degrees_of_freedom": 0 if replicates is None else replicates.freedom,
        "scatter_sd": solution.seed_sd if replicates is None else None,
        "condition_number": float(np.linalg.cond(scaled)),
        "gradient": _gradient(rows, solution, residuals),
        "warnings": _warnings(rows, data, chi2, replicates),
    }


def _r2(rows: NoisyRows, solution: Solution) -> float:
    """Weighted share of the variance that the law explains, in the units of the residuals."""
    if rows.in_logs:
        y, fitted, variance = (
            np.log(rows.target),
            np.log(rows.predict(solution.theta)),
            solution.variance,
        )
    else:
        y, fitted = rows.target, rows.predict(solution.theta)
        variance = solution.variance * fitted**2
    total = float(np.sum((y - np.average(y, weights=1 / variance)) ** 2 / variance))
    rest = float(np.sum((y - fitted) ** 2 / variance))
    return 1 - rest / total if total > 0 else 0.0


def _gradient(rows: NoisyRows, solution: Solution, residuals: FloatArray) -> float:
    """Largest correlation between residuals and a column of the design: 0 at the optimum."""
    root = 1 / np.sqrt(solution.variance)
    columns, rest = rows.design * root[:, None], residuals * root
    norm = float(np.linalg.norm(rest))
    if norm < 1e-10 * float(np.linalg.norm(root)):
        return 0.0
    return float(np.max(np.abs(columns.T @ rest) / np.linalg.norm(columns, axis=0)) / norm)


def _warnings(rows: NoisyRows, data: Table, chi2: float, replicates: Replicates | None) -> list[str]:
    found = []
    ladders = int(data.ladder.max()) + 1
    if ladders < _FEW_LADDERS:
        found.append(f"few_ladders: {ladders} ladders; intervals rest on the assumed spread between ladders")
    if not rows.in_logs:
        low = sorted(r for r, t in zip(data.rows, rows.target, strict=True) if t <= 0)
        found.append(f"non_positive_rows: {name_rows(low)}; fitted in nats, not in logs")
    if replicates is not None:
        from scipy.special import fdtrc

        freedom = rows.design.shape[0] - rows.design.shape[1]
        if float(fdtrc(freedom, replicates.freedom, chi2)) < _RARE:
            found.append(
                f"lack_of_fit: scatter is {chi2:.2g} times what replicate runs and standard errors explain"
            )
    return found


def _relative_errors(rows: NoisyRows, theta: FloatArray) -> FloatArray:
    """|fitted / observed - 1|, NaN where the target is not positive: ``(..., rows)``."""
    observed = np.where(rows.target > 0, rows.target, np.nan)
    out: FloatArray = np.abs(rows.predict(theta) / observed - 1)
    return out


def holdout(rows: NoisyRows, data: Table, solution: Solution) -> dict[str, Any]:
    """Mean relative error on rows left out of the fit; None where the rest does not determine the law.

    ``rows`` says how many rows each figure is the mean over: those left out that have a relative error.
    """
    positive = rows.target > 0
    folds = {"leave_one_out": np.eye(len(data), dtype=bool)[positive]}
    folds |= {f"largest_{name}": (x == x.max())[None] for name, x in data.variables.items()}
    if data.format.max() > 0:
        folds["leave_one_format"] = data.format == np.unique(data.format)[:, None]
    out: dict[str, Any] = {name: _error_without(rows, solution, left) for name, left in folds.items()}
    return out | {"rows": {name: int((left & positive).sum()) for name, left in folds.items()}}


def _error_without(rows: NoisyRows, solution: Solution, left_out: NDArray[np.bool_]) -> float | None:
    """The mean over all rows left out, ``(folds, rows)``, each predicted by the fit of its fold."""
    rank = rows.design.shape[1]
    for left in left_out:
        if np.linalg.matrix_rank(rows.design[~left], tol=1e-6) < rank:
            return None
    found = refit(rows, solution.variance, solution.theta, kept=~left_out)
    errors = _relative_errors(rows, found.theta)[left_out]
    errors = errors[~np.isnan(errors)]
    return float(errors.mean()) if len(errors) and found.converged.all() else None


def advice(form: Form, reasons: Mapping[str, str]) -> list[str]:
    """What to do about each parameter that the rows do not determine."""
    return [
        f"for {axis.parameter}, add rows of another {axis.variable}, or hold it with "
        f"fix={{'{axis.parameter}': VALUE}} (command line: --fix {axis.parameter}=VALUE)"
        for axis in form.axes
        if axis.parameter in reasons
    ]


def finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with null for numbers that a law file cannot hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in figures.items()}


def data_block(data: Table) -> dict[str, Any]:
    """What the law was fitted on."""
    return {
        "rows": len(data),
        "ladders": int(data.ladder.max()) + 1,
        "hash": f"sha256:{data.hash}",
        "levels": {name: _levels(values) for name, values in data.variables.items()},
        **data.about,
    }


def fit_block(rows: NoisyRows, options: dict[str, Any]) -> dict[str, Any]:
    """How the law was fitted."""
    unit = "ln target" if rows.in_logs else "target / fitted"
    return {
        "objective": f"weighted least squares on residuals of {unit}",
        "weights": "1 / ((standard error / fitted)^2 + seed_sd^2), seed_sd from repeated seeds, "
        "or, where none repeat, scatter_sd from the residuals",
        "huber_delta": None,
        **options,
    }


def checklist(form: Form, rows: NoisyRows, data: Table) -> dict[str, Any]:
    """The items of the reporting checklist that a fit of a product knows; the rest stay null."""
    return items(form, data) | {
        "metric_modified": "natural logarithm" if rows.in_logs else "no",
        "objective": "weighted least squares",
        "optimizer": "damped Newton with the exact Hessian",
        "initialization": "none needed" if rows.in_logs else "fit of the positive rows in logarithms",
        "validity": "leave-one-out and largest value of each variable held out; bootstrap over ladders",
    }


def items(form: Form, data: Table) -> dict[str, Any]:
    """The items of the reporting checklist that a table of observations can answer."""
    return {
        "form": form.formula,
        "variables": [f"{v.name}: {v.unit}" for v in form.variables],
        "parameters_to_fit": list(form.names),
        "number_of_models": int(data.ladder.max()) + 1,
        "model_sizes": _levels(data.variables.get("N", np.array([]))),
        "counting_of_N_and_D": "; ".join(f"{v.name}: {v.unit}" for v in form.variables),
        "points_used": f"{len(data)} rows" + "".join(f"; {note}" for note in data.notes),
    }


#: How N, D and G are counted in every table that qscale writes.
_CONVENTIONS = {
    "N": "all weights except token and position embeddings and the LM head",
    "D": "training tokens seen, raw count",
    "G": "elements that share one scale along the reduction axis; for channel or token scales in_features, "
    "as the parameter-weighted mean over the quantized layers",
}


def conventions(form: Form) -> dict[str, str]:
    """How the variables of a form are counted."""
    return {v.name: _CONVENTIONS[v.name] for v in form.variables if v.name in _CONVENTIONS}


def version() -> str | None:
    """Of qscale, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("qscale")
    except PackageNotFoundError:
        return None


def _levels(values: FloatArray) -> list[float] | None:
    levels = np.unique(values).tolist()
    return levels if 0 < len(levels) <= _MOST_LISTED else None
