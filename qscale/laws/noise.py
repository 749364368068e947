"""The noise of rows, and weighted least squares under it: relative residuals of a product of powers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError
from qscale.laws.forms import FloatArray
from qscale.laws.objective import Objective
from qscale.laws.posynomial import Optima, Posynomial, exp, minimize

_MOST_REWEIGHTS = 50
_SMALLEST_SHARE = 1e-4  # no row weighs more than 10,000 mean rows: so small a standard error is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyRows:
    """Rows of a form of one term, ``target = exp(offset + X theta)``, with their standard errors."""

    problem: Posynomial  #: of one term; X has a column of ones first
    target_se: FloatArray

    @property
    def target(self) -> FloatArray:
        """What is fitted: ``(rows,)``."""
        return self.problem.target

    @property
    def design(self) -> FloatArray:
        """X: ``(rows, parameters)``."""
        design: FloatArray = self.problem.design[0]
        return design

    def predict(self, theta: FloatArray) -> FloatArray:
        """The fitted target of each row: ``(..., rows)``."""
        return exp(self.problem.log_value(theta))

    @property
    def in_logs(self) -> bool:
        """Whether every target has a logarithm."""
        return bool((self.target > 0).all())

    def residuals(self, theta: FloatArray) -> FloatArray:
        """Relative residuals: of ln target, or ``target / fitted - 1`` where some target is not positive."""
        if self.in_logs:
            out: FloatArray = np.log(self.target) - self.problem.log_value(theta)
            return out
        relative: FloatArray = self.target / self.predict(theta) - 1
        return relative


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The estimate, and the relative variance that weighted each row."""

    theta: FloatArray
    variance: FloatArray  #: of each row's relative noise; its scale is meaningful unless noise_known is False
    seed_sd: float  #: relative s.d. from run to run
    noise_known: bool  #: False: no row had any noise to weigh by


def solve(rows: NoisyRows, seed_sd: float | None) -> Solution:
    """Fit with weights ``1 / ((se / fitted)^2 + seed_sd^2)``, repeated until the weights agree with the fit.

    The fitted and not the observed target scales the standard errors: a row that came out small by chance
    would otherwise count as noisier, and every fit would lean upward.

    Args:
        rows: More of them than parameters, full column rank.
        seed_sd: The relative s.d. from run to run, or None to take the one that explains the residual
            scatter.

    Raises:
        FitError: Too few rows have a positive target to start from, or there is no optimum in raw units.
    """
    theta = _start(rows)
    previous = np.inf
    for _ in range(_MOST_REWEIGHTS):
        known = (rows.target_se / rows.predict(theta)) ** 2
        residuals = rows.residuals(theta)
        spread = _scatter(residuals, known, len(theta)) if seed_sd is None else seed_sd
        variance, noise_known = _floor(known + spread**2)
        found = refit(rows, variance, theta)
        if not found.converged[0]:
            raise FitError("the fit in raw units has no optimum: is a row's error out of all proportion?")
        theta = found.theta[0]
        loss = float(np.sum(rows.residuals(theta) ** 2 / variance))
        if abs(previous - loss) <= 1e-12 * loss or loss < 1e-20 * len(residuals):
            break
        previous = loss
    return Solution(theta=theta, variance=variance, seed_sd=float(spread), noise_known=noise_known)


def _start(rows: NoisyRows) -> FloatArray:
    positive, rank = rows.target > 0, rows.design.shape[1]
    if positive.sum() <= rank or np.linalg.matrix_rank(rows.design[positive]) < rank:
        raise FitError(
            f"{int(positive.sum())} of {len(positive)} rows have a positive target: too few to "
            f"start a fit of {rank} parameters from"
        )
    y = np.log(rows.target[positive]) - rows.problem.offset[0, positive]
    theta: FloatArray = np.linalg.lstsq(rows.design[positive], y, rcond=None)[0]
    return theta


def refit(
    rows: NoisyRows, variance: FloatArray, start: FloatArray, kept: NDArray[np.bool_] | None = None
) -> Optima:
    """The optimum under given relative variances; of some of the rows for each row of ``kept``.

    Where some target is not positive, residuals are in the target's own unit, and a row's s.d. is its
    relative one times what ``start`` predicts.
    """
    sd = np.sqrt(variance) if rows.in_logs else np.sqrt(variance) * rows.predict(start)
    weight = np.atleast_2d((sd.min() / sd) ** 2 if kept is None else kept * (sd.min() / sd) ** 2)
    objective = Objective(residual="log" if rows.in_logs else "raw", loss="l2")
    return minimize(rows.problem, np.repeat(start[None], len(weight), axis=0), objective, weight=weight)


def _floor(variance: FloatArray) -> tuple[FloatArray, bool]:
    mean = float(variance.mean())
    if mean < 1e-24:  # noise-free rows: all alike
        return np.ones_like(variance), False
    return np.maximum(variance, _SMALLEST_SHARE * mean), True


def _scatter(residuals: FloatArray, known: FloatArray, parameters: int) -> float:
    """The extra s.d. with which chi-square equals its degrees of freedom; 0 if none is needed."""
    freedom = len(residuals) - parameters

    def excess(extra: float) -> float:
        return float(np.sum(residuals**2 / (known + extra))) - freedom

    high = float(np.sum(residuals**2)) / freedom
    if high == 0 or ((known > 0).all() and excess(0.0) <= 0):
        return 0.0
    low = high * 1e-12
    for _ in range(60):  # bisection in the logarithm: excess falls with the extra variance
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return float(np.sqrt(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """What cells with several runs tell about the noise from run to run."""

    sd: float  #: relative
    cells: int  #: with several runs
    freedom: int  #: degrees of freedom of sd


def replicate_sd(target: FloatArray, cell: NDArray[np.intp]) -> Replicates | None:
    """Relative s.d. from run to run, pooled over cells with several runs.

    ``sum over cells of (t_i / mean - 1)^2 / (degrees of freedom)``. None where no cell has two runs, or their
    mean is not positive.

    The evaluation variance is not subtracted. The seeds of a study are evaluated on the same sequences: part
    of that noise is common to all of them, never shows between seeds, and cannot be taken out of what does.
    So ``se^2 + sd^2`` counts the other part twice and is slightly too large, the safe side.
    """
    squares, freedom, cells = 0.0, 0, 0
    for number in np.unique(cell):
        rows = cell == number
        mean = float(target[rows].mean())
        if rows.sum() < 2 or mean <= 0:
            continue
        squares += float(np.sum((target[rows] / mean - 1) ** 2))
        freedom += int(rows.sum()) - 1
        cells += 1
    if freedom == 0:
        return None
    return Replicates(sd=float(np.sqrt(squares / freedom)), cells=cells, freedom=freedom)


def row_weights(
    target: FloatArray, target_se: FloatArray, cell: NDArray[np.intp], objective: Objective
) -> FloatArray:
    """In inverse proportion to the known variance of a residual, mean 1; all 1 where no row has an error."""
    if not (target_se > 0).any():
        return np.ones(len(target))
    sd = target_se / np.abs(target) if objective.residual == "log" else target_se
    replicates = replicate_sd(target, cell)
    extra = 0.0 if replicates is None else replicates.sd
    if objective.residual == "raw":
        extra = extra * float(np.mean(np.abs(target)))
    weight = 1 / (sd**2 + extra**2)
    out: FloatArray = weight / weight.mean()
    return out
