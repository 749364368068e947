"""The solver behind ``fit``: weighted least squares in relative residuals, and the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError
from qscale.laws.forms import FloatArray

_MOST_REWEIGHTS = 50
_SMALLEST_SHARE = 1e-4  # no row weighs more than 10,000 mean rows: so small a standard error is a mistake
_MOST_LOG = 700.0  # exp of more is no double


def exp(x: FloatArray) -> FloatArray:
    """exp, held to the positive numbers that a double can hold: a wild fit is told of, not a warning."""
    out: FloatArray = np.exp(np.clip(x, -_MOST_LOG, _MOST_LOG))
    return out


def in_range(x: FloatArray) -> bool:
    """Whether :func:`exp` holds nothing back."""
    return bool(np.all(np.abs(x) < _MOST_LOG))  # False for NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Rows of ``target = exp(offset + X theta)``; X has a column of ones first."""

    design: FloatArray  #: ``(rows, parameters)``
    offset: FloatArray  #: the part of ln target that fixed exponents give
    target: FloatArray
    target_se: FloatArray

    def rows(self, keep: NDArray[np.bool_]) -> Problem:
        """The problem of some of the rows."""
        return Problem(
            design=self.design[keep],
            offset=self.offset[keep],
            target=self.target[keep],
            target_se=self.target_se[keep],
        )

    def predict(self, theta: FloatArray) -> FloatArray:
        """The fitted target of each row."""
        return exp(self.offset + self.design @ theta)

    @property
    def in_logs(self) -> bool:
        """Whether every target has a logarithm."""
        return bool((self.target > 0).all())

    def residuals(self, theta: FloatArray) -> FloatArray:
        """Relative residuals: of ln target, or ``target / fitted - 1`` where some target is not positive."""
        if self.in_logs:
            out: FloatArray = np.log(self.target) - self.offset - self.design @ theta
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


def solve(problem: Problem, seed_sd: float | None) -> Solution:
    """Fit with weights ``1 / ((se / fitted)^2 + seed_sd^2)``, repeated until the weights agree with the fit.

    The fitted and not the observed target scales the standard errors: a row that came out small by chance
    would otherwise count as noisier, and every fit would lean upward.

    Args:
        problem: More rows than parameters, full column rank.
        seed_sd: The relative s.d. from run to run, or None to take the one that explains the residual
            scatter.

    Raises:
        FitError: Too few rows have a positive target to start from.
    """
    theta = _start(problem)
    previous = np.inf
    for _ in range(_MOST_REWEIGHTS):
        known = (problem.target_se / problem.predict(theta)) ** 2
        residuals = problem.residuals(theta)
        spread = _scatter(residuals, known, problem.design.shape[1]) if seed_sd is None else seed_sd
        variance, noise_known = _floor(known + spread**2)
        theta = refit(problem, variance, theta)
        loss = float(np.sum(problem.residuals(theta) ** 2 / variance))
        if abs(previous - loss) <= 1e-12 * loss or loss < 1e-20 * len(residuals):
            break
        previous = loss
    return Solution(theta=theta, variance=variance, seed_sd=float(spread), noise_known=noise_known)


def _start(problem: Problem) -> FloatArray:
    positive = problem.target > 0
    rank = problem.design.shape[1]
    if positive.sum() <= rank or np.linalg.matrix_rank(problem.design[positive]) < rank:
        raise FitError(
            f"{int(positive.sum())} of {len(positive)} rows have a positive target: too few to "
            f"start a fit of {rank} parameters from"
        )
    y = np.log(problem.target[positive]) - problem.offset[positive]
    return _least_squares(problem.design[positive], y, np.ones(int(positive.sum())))


def refit(problem: Problem, variance: FloatArray, start: FloatArray) -> FloatArray:
    """The estimate under given relative variances; ``start`` matters where some target is not positive."""
    if problem.in_logs:
        return _least_squares(problem.design, np.log(problem.target) - problem.offset, variance)
    return _nonlinear(problem, variance, start)


def _least_squares(design: FloatArray, y: FloatArray, variance: FloatArray) -> FloatArray:
    root = 1 / np.sqrt(variance)
    theta = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    return np.asarray(theta, dtype=np.float64)


def _nonlinear(problem: Problem, variance: FloatArray, start: FloatArray) -> FloatArray:
    """Least squares in the target itself; a row's s.d. is its relative s.d. times the start's prediction."""
    from scipy.optimize import least_squares

    sd = np.sqrt(variance) * problem.predict(start)
    sd_mean = float(sd.mean())

    def residuals(theta: FloatArray) -> FloatArray:
        out: FloatArray = (problem.target - problem.predict(theta)) / sd * sd_mean
        return out

    def jacobian(theta: FloatArray) -> FloatArray:
        out: FloatArray = -(problem.predict(theta) / sd * sd_mean)[:, None] * problem.design
        return out

    if not np.all(np.isfinite(residuals(start))):
        raise FitError(
            "the fit in raw units cannot start: a row's error is out of all proportion to its target"
        )
    found = least_squares(residuals, start, jac=jacobian, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    if not np.all(np.isfinite(found.x)) or found.status <= 0:
        raise FitError(f"the fit in raw units did not converge: {found.message}")
    theta: FloatArray = found.x
    return theta


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
