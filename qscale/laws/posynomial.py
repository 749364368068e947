"""Sums of exponentials of linear predictors, and their fit: many starts or draws at once, to second order.

Row i is ``f_i = sum_k exp(offset_ki + X_ki theta)``; a term that a row lacks has offset -inf there. Every
form with terms is one: ``theta`` holds logarithms of scales, exponents and rates. With ``p_ki`` the share of
term k, and ``g_i = sum_k p_ki x_ki`` the gradient of ln f_i, the Hessian of a sum of losses of residuals is
``sum_i a_i g_i g_i' + sum_ki b_i p_ki x_ki x_ki'``, exactly, for residuals in logarithms and in raw units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qscale.laws.deviations import least_deviations
from qscale.laws.forms import FloatArray
from qscale.laws.objective import Objective

_MOST_STEPS = 200
_LONGEST_STEP = 3.0  # of a parameter, in logarithms or exponents
_ENOUGH = 1e-13  # relative decrease at which an optimum is reached
_LAST, _NEWTONS_OWN = 1e-9, 1e-6  # relative decrease promised, at a damping that changes nothing
_ALIKE = 1e-6  # relative difference of two optima that are one
_LEAST_CURVATURE = 1e-12  # of the largest: flatter directions are damped, not inverted
_FIRST_DAMPING, _MOST_DAMPING = 1e-4, 1e8
_SHORTER = 3  # times a step that leads up is made shorter
_LARGEST_LOG = 700.0  # exp of more is no double
_AT_ONCE = 250  # problems in one batch: what stays in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Posynomial:
    """Rows to fit: designs of each term, and the target."""

    design: FloatArray  #: ``(terms, rows, parameters)``
    offset: FloatArray  #: ``(terms, rows)``; -inf where a row lacks the term
    target: FloatArray  #: ``(rows,)``

    def log_value(self, theta: FloatArray) -> FloatArray:
        """ln f of each row: ``(..., rows)``."""
        return _log_sum(self._exponents(theta))[0]

    def value(self, theta: FloatArray) -> FloatArray:
        """f of each row: ``(..., rows)``."""
        out: FloatArray = np.exp(self.log_value(theta))
        return out

    def shares(self, theta: FloatArray) -> FloatArray:
        """Each term's share of f: ``(..., terms, rows)``."""
        return _log_sum(self._exponents(theta))[1]

    def log_gradient(self, theta: FloatArray) -> FloatArray:
        """Derivative of ln f by the parameters: ``(..., rows, parameters)``."""
        out: FloatArray = np.einsum("...kn,knp->...np", self.shares(theta), self.design)
        return out

    def rows(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Posynomial:
        """Some of the rows."""
        return Posynomial(design=self.design[:, keep], offset=self.offset[:, keep], target=self.target[keep])

    def with_target(self, target: FloatArray) -> Posynomial:
        """The same rows with other targets."""
        return replace(self, target=target)

    def mapped(self, matrix: FloatArray, constant: FloatArray) -> Posynomial:
        """In parameters phi, ``theta = matrix @ phi + constant``: ties are equal rows, held ones zeros."""
        return replace(self, design=self.design @ matrix, offset=self.offset + self.design @ constant)

    def _exponents(self, theta: FloatArray) -> FloatArray:
        terms, rows, parameters = self.design.shape
        flat = theta @ self.design.reshape(terms * rows, parameters).T
        out: FloatArray = flat.reshape(*theta.shape[:-1], terms, rows) + self.offset
        return out


def exp(x: FloatArray) -> FloatArray:
    """exp, held to the positive numbers that a double can hold: a wild fit is told of, not a warning."""
    out: FloatArray = np.exp(np.clip(x, -_LARGEST_LOG, _LARGEST_LOG))
    return out


def in_range(x: FloatArray) -> bool:
    """Whether :func:`exp` holds nothing back."""
    return bool(np.all(np.abs(x) < _LARGEST_LOG))  # False for NaN


def _log_sum(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln of the sum over the last axis but one, and the shares in it."""
    high = z.max(axis=-2, keepdims=True)
    shares = np.exp(z - high)
    total = shares.sum(axis=-2, keepdims=True)
    out: tuple[FloatArray, FloatArray] = ((high + np.log(total))[..., 0, :], shares / total)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """A Gaussian prior: ``(theta - mean)^2 / (2 sd^2)`` is added for each; an infinite sd is none."""

    mean: FloatArray
    sd: FloatArray

    def value(self, theta: FloatArray) -> FloatArray:
        """What is added: ``(...,)``."""
        out: FloatArray = 0.5 * np.sum(((theta - self.mean) / self.sd) ** 2, axis=-1)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Optima:
    """Where each problem of a batch ended."""

    theta: FloatArray  #: ``(batch, parameters)``
    value: FloatArray  #: ``(batch,)``
    converged: NDArray[np.bool_]

    @property
    def best(self) -> int:
        """The number of the lowest."""
        return int(np.argmin(np.where(np.isfinite(self.value), self.value, np.inf)))

    @property
    def share_at_best(self) -> float:
        """The share of starts that reached the lowest value."""
        least = float(self.value[self.best])
        return float(np.mean(self.value <= least + _ALIKE * abs(least) + np.finfo(float).tiny))


def starts(
    problem: Posynomial,
    scales: NDArray[np.intp],
    objective: Objective,
    *,
    count: int = 16,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
) -> FloatArray:
    """Starting points by variable projection: for given exponents, scales are a small least squares problem.

    576 sets of exponents, spread evenly over their logarithms from 0.02 to 2, are tried; scales minimize the
    squared relative residuals and stay positive.

    Args:
        problem: The rows.
        scales: The parameter that is the logarithm of each term's scale in each row, ``(terms, rows)``.
        objective: Ranks the sets.
        count: How many of the best to return.
        low: Lower bounds of the parameters, within which exponents are tried.
        high: Upper bounds.

    Returns:
        ``(count, parameters)``, the best first: half the best, half spread over the better quarter.

    Source: variable projection, Golub and Pereyra 1973; even spreading, Roberts 2018.
    """
    rows, parameters = problem.design.shape[1:]
    names = np.unique(scales[np.isfinite(problem.offset)])
    others = np.setdiff1d(np.arange(parameters), names)
    theta = np.zeros((_SCREENED, parameters))
    theta[:, others] = _spread(_SCREENED, len(others), others, low, high)
    basis = np.exp(np.clip(problem._exponents(theta), -_MOST_LOG, _MOST_LOG)) / np.abs(problem.target)
    basis = np.stack([np.sum(basis * (scales == name), axis=1) for name in names], axis=1)
    size = np.maximum(basis.mean(axis=2, keepdims=True), np.finfo(float).tiny)
    gram = np.einsum("skn,sjn->skj", basis / size, basis / size)
    wanted = np.einsum("skn->sk", basis / size)
    found = np.linalg.solve(gram + 1e-9 * rows * np.eye(len(names)), wanted[:, :, None])[:, :, 0]
    found = np.maximum(found, 1e-2 / len(names))
    for _ in range(_UPDATES):  # multiplicative: positive numbers stay so, and the sum of squares falls
        found *= wanted / np.einsum("skj,sj->sk", gram, found)
    theta[:, names] = np.log(found / size[:, :, 0])
    value = total(problem, theta, objective.smooth, None, None, None)
    order = np.argsort(np.where(np.isfinite(value), value, np.inf))
    best = order[: count // 2]
    rest = order[count // 2 : _SCREENED // 4]
    spread = rest[np.linspace(0, len(rest) - 1, count - len(best)).astype(int)]
    out: FloatArray = theta[np.concatenate([best, spread])]
    return out


def optimize(
    problem: Posynomial,
    begin: FloatArray,
    objective: Objective,
    *,
    weight: FloatArray | None = None,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
    penalty: Penalty | None = None,
) -> Optima:
    """Where each start ends; the better quarter of them have no step left to make.

    Example:
        >>> n = np.geomspace(1e6, 1e9, 7)
        >>> x = np.array([[1 + 0 * n, 0 * n, -np.log(n)], [0 * n, 1 + 0 * n, 0 * n]]).transpose(0, 2, 1)
        >>> rows = Posynomial(design=x, offset=np.zeros((2, 7)), target=9 * n**-0.2 + 1.5)
        >>> found = optimize(rows, starts(rows, np.array([[0] * 7, [1] * 7]), Objective()), Objective())
        >>> scale, limit, exponent = found.theta[found.best]
        >>> [round(float(v), 6) for v in (np.exp(scale), np.exp(limit), exponent)]
        [9.0, 1.5, 0.2]
    """
    smooth = objective.smooth
    options = {"weight": weight, "low": low, "high": high, "penalty": penalty}
    if smooth.loss != "l2":  # where squares are least there are no kinks on the way
        squares = replace(smooth, loss="l2")
        least = minimize(problem, begin[:1], squares, **options)  # type: ignore[arg-type]
        begin = np.concatenate([least.theta, begin[:-1]])
    found = minimize(problem, begin, smooth, steps=_STEPS_FROM_STARTS, **options)  # type: ignore[arg-type]
    first = np.argsort(found.value)[: max(1, len(begin) // 4)]
    first = first[~found.converged[first]]
    if len(first):
        rest = minimize(problem, found.theta[first], smooth, **options)  # type: ignore[arg-type]
        found.theta[first], found.value[first] = rest.theta, rest.value
        found.converged[first] = rest.converged
    if objective.loss != "lad":
        return found
    # What shares the optimum of the Huber loss shares this one.
    shared = found.value <= found.value[found.best] * (1 + _ALIKE)
    best = minimize(problem, found.theta[found.best], objective, **options)  # type: ignore[arg-type]
    theta = np.where(shared[:, None], best.theta[0], found.theta)
    return replace(found, theta=theta, value=total(problem, theta, objective, weight, None, penalty))


_STEPS_FROM_STARTS = 30
#: Sets of exponents that are tried, between these ends; steps of the positive least squares.
_SCREENED, _UPDATES = 576, 30
_EXPONENTS = (0.02, 2.0)
_MOST_LOG = 300.0


def _spread(
    count: int, axes: int, which: NDArray[np.intp], low: FloatArray | None, high: FloatArray | None
) -> FloatArray:
    """Points spread evenly over the logarithms of exponents; over the bounds where these are tighter."""
    if axes == 0:
        return np.zeros((count, 0))
    ratio = 1.0
    for _ in range(60):  # the root of x^(axes + 1) = x + 1
        ratio = (1.0 + ratio) ** (1.0 / (axes + 1))
    even = (0.5 + np.arange(1, count + 1)[:, None] * ratio ** -np.arange(1.0, axes + 1)) % 1.0
    least, most = (float(np.log(end)) for end in _EXPONENTS)
    out: FloatArray = np.exp(least + (most - least) * even)
    if low is not None and high is not None:
        out = np.clip(out, low[which], high[which])
    return out


def minimize(
    problem: Posynomial,
    start: FloatArray,
    objective: Objective,
    *,
    weight: FloatArray | None = None,
    target: FloatArray | None = None,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
    penalty: Penalty | None = None,
    held: NDArray[np.bool_] | None = None,
    steps: int = _MOST_STEPS,
) -> Optima:
    """Damped Newton steps from every start at once.

    Args:
        problem: The rows.
        start: ``(batch, parameters)``.
        objective: ``lad`` is the limit of ``huber`` with narrowing width, each from the optimum before.
        weight: Of the rows' losses, ``(rows,)`` or one row of weights a problem, ``(batch, rows)``.
        target: One row of targets a problem, ``(batch, rows)``, in place of the problem's.
        low: Lower bounds, ``(parameters,)``.
        high: Upper bounds.
        penalty: A prior.
        held: Parameters that stay at their start, ``(parameters,)``.
        steps: The most that are made.

    Returns:
        The optima; ``converged`` is False where the steps ran out.
    """
    if objective.loss == "lad":
        return _lad(problem, start, objective, weight, target, low, high, penalty, held)
    start = np.atleast_2d(np.asarray(start, dtype=np.float64))
    pairs = _pairs(problem.design)
    parts = []
    for first in range(0, len(start), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        parts.append(
            _Newton(
                problem=problem,
                objective=objective,
                weight=_part(weight, part, len(problem.target)),
                target=problem.target if target is None else target[part],
                low=np.full(start.shape[1], -np.inf) if low is None else low,
                high=np.full(start.shape[1], np.inf) if high is None else high,
                penalty=penalty,
                free=np.ones(start.shape[1], dtype=bool) if held is None else ~held,
                pairs=pairs,
            ).run(start[part], steps)
        )
    return Optima(
        theta=np.concatenate([p.theta for p in parts]),
        value=np.concatenate([p.value for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
    )


def _part(weight: FloatArray | None, part: slice, rows: int) -> FloatArray:
    if weight is None:
        return np.ones(rows)
    return weight[part] if weight.ndim == 2 else weight


def _pairs(design: FloatArray) -> FloatArray:
    """x_k x_l' + x_l x_k' of each pair of terms and row, and x_k x_k': ``(pairs * rows, parameters^2)``."""
    terms, _, parameters = design.shape
    blocks = []
    for k in range(terms):
        for m in range(k, terms):
            outer = design[k][:, :, None] * design[m][:, None, :]
            blocks.append(outer if k == m else outer + outer.transpose(0, 2, 1))
    return np.concatenate(blocks).reshape(-1, parameters * parameters)


def _lad(
    problem: Posynomial,
    start: FloatArray,
    objective: Objective,
    weight: FloatArray | None,
    target: FloatArray | None,
    low: FloatArray | None,
    high: FloatArray | None,
    penalty: Penalty | None,
    held: NDArray[np.bool_] | None,
) -> Optima:
    """Huber losses of narrowing width, each from the optimum before; for a lone problem linear programs then.

    A Huber loss is its width times the absolute deviation, and so is the prior beside it.
    """
    found = None
    for huber in objective.narrowing:
        prior = None if penalty is None else replace(penalty, sd=penalty.sd / np.sqrt(huber.width))
        options = {"weight": weight, "target": target, "low": low, "high": high, "held": held}
        found = minimize(problem, start, huber, penalty=prior, **options)  # type: ignore[arg-type]
        start = found.theta
    assert found is not None
    theta = found.theta
    alone = len(theta) == 1 and penalty is None and target is None
    if alone and (weight is None or weight.ndim == 1):
        theta = _corner(problem, theta, objective, weight, low, high, held)
    return replace(found, theta=theta, value=total(problem, theta, objective, weight, target, penalty))


def _corner(
    problem: Posynomial,
    theta: FloatArray,
    objective: Objective,
    weight: FloatArray | None,
    low: FloatArray | None,
    high: FloatArray | None,
    held: NDArray[np.bool_] | None,
) -> FloatArray:
    """The optimum of absolute deviations near a point, in full precision: ``(1, parameters)``."""
    rows, parameters = problem.design.shape[1:]

    def slopes(at: FloatArray) -> FloatArray:
        scale = 1.0 if objective.residual == "log" else problem.value(at)[:, None]
        out: FloatArray = problem.log_gradient(at) * scale
        return out

    return least_deviations(
        lambda at: residuals(problem, at, objective),
        slopes,
        theta[0],
        weight=np.ones(rows) if weight is None else weight,
        low=np.full(parameters, -np.inf) if low is None else low,
        high=np.full(parameters, np.inf) if high is None else high,
        free=np.ones(parameters, dtype=bool) if held is None else ~held,
        over=objective.over,
    )[None]


def total(
    problem: Posynomial,
    theta: FloatArray,
    objective: Objective,
    weight: FloatArray | None,
    target: FloatArray | None,
    penalty: Penalty | None,
) -> FloatArray:
    """The objective of each problem of a batch."""
    residual = _residuals(
        problem.log_value(theta), problem.target if target is None else target, objective.residual
    )
    losses = objective.losses(residual)
    out: FloatArray = np.sum(losses if weight is None else losses * weight, axis=-1)
    return out if penalty is None else out + penalty.value(theta)


def residuals(problem: Posynomial, theta: FloatArray, objective: Objective) -> FloatArray:
    """Of each row, in the units of the objective: ``(..., rows)``."""
    return _residuals(problem.log_value(theta), problem.target, objective.residual)


def curvature(
    problem: Posynomial, theta: FloatArray, objective: Objective, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The slope of each row's loss, ``(rows, parameters)``, and the Hessian of their sum, at a point.

    Absolute deviations are taken as a Huber loss of the objective's width, over that width.
    """
    smooth = objective.smooth
    newton = _Newton(
        problem=problem,
        objective=smooth,
        weight=weight,
        target=problem.target,
        low=np.full(len(theta), -np.inf),
        high=np.full(len(theta), np.inf),
        penalty=None,
        free=np.ones(len(theta), dtype=bool),
        pairs=_pairs(problem.design),
    )
    alone = np.zeros(1, dtype=np.intp)
    point = newton._point(theta[None], alone)
    _, hessian = newton._derivatives(theta[None], point, alone)
    first, _ = smooth.slopes(point.residual[0])
    slope = problem.log_gradient(theta) * (first * weight)[:, None]
    if objective.residual == "raw":
        slope = slope * np.exp(point.log_value[0])[:, None]
    scale = objective.width if objective.loss == "lad" else 1.0
    return slope / scale, hessian[0] / scale


def _residuals(log_value: FloatArray, target: FloatArray, kind: str) -> FloatArray:
    out: FloatArray = log_value - np.log(target) if kind == "log" else np.exp(log_value) - target
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A batch of parameters as far as both the objective and its derivatives need it."""

    log_value: FloatArray  #: ``(batch, rows)``
    shares: FloatArray  #: ``(batch, terms, rows)``
    residual: FloatArray  #: ``(batch, rows)``
    value: FloatArray  #: ``(batch,)``

    def where(self, taken: NDArray[np.bool_], other: _Point) -> _Point:
        """The other's problems where they are taken."""
        if taken.all():
            return other
        return _Point(
            log_value=np.where(taken[:, None], other.log_value, self.log_value),
            shares=np.where(taken[:, None, None], other.shares, self.shares),
            residual=np.where(taken[:, None], other.residual, self.residual),
            value=np.where(taken, other.value, self.value),
        )

    def put(self, which: NDArray[np.intp], other: _Point) -> _Point:
        """Some problems of the batch in place of what was there."""
        self.log_value[which], self.shares[which] = other.log_value, other.shares
        self.residual[which], self.value[which] = other.residual, other.value
        return self

    def only(self, kept: NDArray[np.bool_]) -> _Point:
        """Some problems of the batch."""
        if kept.all():
            return self
        return _Point(
            log_value=self.log_value[kept],
            shares=self.shares[kept],
            residual=self.residual[kept],
            value=self.value[kept],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newton:
    """One batch on its way down."""

    problem: Posynomial
    objective: Objective
    weight: FloatArray
    target: FloatArray
    low: FloatArray
    high: FloatArray
    penalty: Penalty | None
    free: NDArray[np.bool_]
    pairs: FloatArray  #: ``(pairs * rows, parameters^2)``

    def run(self, start: FloatArray, steps: int) -> Optima:
        theta = np.clip(start, self.low, self.high)
        active = np.arange(len(theta))
        point = self._point(theta, active)
        value = point.value.copy()
        damping = np.full(len(theta), 1e-6)
        converged = np.zeros(len(theta), dtype=bool)
        for _ in range(steps):
            here = theta[active]
            slope, curve = self._derivatives(here, point, active)
            step = self._step(here, slope, curve, damping[active])
            there, reached, better = self._search(here, step, value[active], active)
            gained = value[active] - reached.value
            # A step of Newton's own that promises so little is the last: the next promises its square.
            promised = np.abs(np.sum(slope * step, axis=1))
            last = better & (damping[active] <= _NEWTONS_OWN) & (promised <= _LAST * np.abs(value[active]))
            small = np.abs(gained) <= _ENOUGH * np.abs(value[active])
            raised = np.maximum(damping[active] * 5, _FIRST_DAMPING)
            damping[active] = np.where(better, damping[active] / 20, raised)
            theta[active[better]] = there[better]
            value[active[better]] = reached.value[better]
            done = small | last | (~better & (damping[active] > _MOST_DAMPING))
            converged[active[done]] = True
            point = point.where(better, reached).only(~done)
            active = active[~done]
            if not len(active):
                break
        return Optima(theta=theta, value=value, converged=converged & np.isfinite(value))

    def _search(
        self, here: FloatArray, step: FloatArray, value: FloatArray, which: NDArray[np.intp]
    ) -> tuple[FloatArray, _Point, NDArray[np.bool_]]:
        """As much of each step as leads down: a loss with kinks turns the best of directions too far."""
        there = np.clip(here + step, self.low, self.high)
        reached = self._point(there, which)
        better = reached.value < value  # False for NaN
        length = 1.0
        for _ in range(_SHORTER):
            again = np.flatnonzero(~better & (np.abs(reached.value - value) > _ENOUGH * np.abs(value)))
            if not len(again):
                break
            length *= 0.25
            nearer = np.clip(here[again] + length * step[again], self.low, self.high)
            found = self._point(nearer, which[again])
            there[again] = nearer
            reached = reached.put(again, found)
            better[again] = found.value < value[again]
        return there, reached, better

    def _rows(self, array: FloatArray, which: NDArray[np.intp]) -> FloatArray:
        return array[which] if array.ndim == 2 else array

    def _point(self, theta: FloatArray, which: NDArray[np.intp]) -> _Point:
        with np.errstate(over="ignore", invalid="ignore"):
            log_value, shares = _log_sum(self.problem._exponents(theta))
            residual = _residuals(log_value, self._rows(self.target, which), self.objective.residual)
            value = np.sum(self.objective.losses(residual) * self._rows(self.weight, which), axis=-1)
        if self.penalty is not None:
            value = value + self.penalty.value(theta)
        return _Point(log_value=log_value, shares=shares, residual=residual, value=value)

    def _derivatives(
        self, theta: FloatArray, point: _Point, which: NDArray[np.intp]
    ) -> tuple[FloatArray, FloatArray]:
        weight = self._rows(self.weight, which)
        first, second = self.objective.slopes(point.residual)
        first, second = first * weight, second * weight
        if self.objective.residual == "log":
            of_outer = second - first
        else:
            value = np.exp(point.log_value)
            first, of_outer = first * value, second * value**2
        terms, rows, parameters = self.problem.design.shape
        spread = point.shares * first[:, None, :]
        slope = spread.reshape(-1, terms * rows) @ self.problem.design.reshape(terms * rows, parameters)
        outer = point.shares * of_outer[:, None, :]
        by_pair = np.stack(
            [
                outer[:, k] * point.shares[:, m] + (spread[:, k] if k == m else 0.0)
                for k in range(terms)
                for m in range(k, terms)
            ],
            axis=1,
        )
        curve = (by_pair.reshape(len(theta), -1) @ self.pairs).reshape(-1, parameters, parameters)
        if self.penalty is not None:
            slope = slope + (theta - self.penalty.mean) / self.penalty.sd**2
            curve = curve + np.diag(1 / self.penalty.sd**2)
        return slope, curve

    def _step(
        self, theta: FloatArray, slope: FloatArray, curve: FloatArray, damping: FloatArray
    ) -> FloatArray:
        """Newton's step with negative curvature turned over and flat directions damped."""
        stuck = ~self.free | ((theta <= self.low) & (slope > 0)) | ((theta >= self.high) & (slope < 0))
        size = np.sqrt(np.maximum(np.abs(np.diagonal(curve, axis1=1, axis2=2)), 1e-300))
        curve = curve / (size[:, :, None] * size[:, None, :])
        slope = np.where(stuck, 0.0, slope / size)
        curve = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, curve)
        curve += np.eye(slope.shape[1]) * stuck[:, None, :]
        values, vectors = np.linalg.eigh(np.nan_to_num(curve))
        values = np.maximum(np.abs(values), _LEAST_CURVATURE) + damping[:, None]
        along = np.einsum("bij,bi->bj", vectors, np.nan_to_num(slope)) / values
        step = -np.einsum("bij,bj->bi", vectors, along) / size
        longest = np.abs(step).max(axis=1, keepdims=True)
        out: FloatArray = step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))
        return out
