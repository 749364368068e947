"""An estimate of a form with terms: the optimum under restrictions, draws, covariance, profiles, refits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError
from qscale.laws.design import Design
from qscale.laws.effects import Effects, shared_terms
from qscale.laws.forms import FloatArray
from qscale.laws.objective import Objective
from qscale.laws.posynomial import (
    Optima,
    Penalty,
    Posynomial,
    curvature,
    minimize,
    optimize,
    residuals,
    starts,
)

Resampling = Literal["cluster", "case", "wild"]

_SMALLEST_TERM = 1e-12  # of the smallest target: a term so small is none
_POINTS = 20  # of a profile, on either side
_MOST_WIDENED = 14  # times that a profile's range is doubled
_ROUNDS_OF_FEW = 5
_ROUNDS_OF_EFFECTS = 20  # at most, until their size agrees with the fit
_SAME_RATIO = 1e-3  # of their logarithms
_NARROW = 0.01  # where there is no standard error to begin with


class TooFewRowsError(LawError):
    """Fewer rows than free parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """The free parameters phi, ``theta = matrix @ phi + constant``, within bounds and under a prior."""

    matrix: FloatArray
    constant: FloatArray
    low: FloatArray
    high: FloatArray
    penalty: Penalty | None

    @classmethod
    def make(
        cls,
        design: Design,
        *,
        fix: Mapping[str, float],
        tie: Mapping[str, str],
        bounds: Mapping[str, tuple[float, float]],
        prior: Mapping[str, tuple[float, float]],
    ) -> Restriction:
        """From names and values of exponents, and of scales that are constants: in the form's own units.

        Raises:
            LawError: A name is none of the form's, a scale stands beside exponents, or an option contradicts
                another.
        """
        names = design.names
        for option, given in (("fix", fix), ("tie", tie), ("bounds", bounds), ("prior", prior)):
            for name in given:
                _check_name(design, option, name)
        for name, other in tie.items():
            _check_name(design, "tie", other)
            if other in tie or other == name or name in fix:
                raise LawError(
                    f"tie: {name!r} is tied to {other!r}, which is tied itself, or {name!r} is fixed"
                )
        free = [name for name in names if name not in fix and name not in tie]
        matrix, constant = np.zeros((len(names), len(free))), np.zeros(len(names))
        for i, name in enumerate(names):
            leader = tie.get(name, name)
            if leader in fix:
                constant[i] = _inner(design, leader, fix[leader])
            else:
                matrix[i, free.index(leader)] = 1.0
        low, high = np.full(len(free), -np.inf), np.full(len(free), np.inf)
        least = float(np.log(_SMALLEST_TERM * np.abs(design.problem.target).min()))
        for scale in np.unique(design.scales[design.scales >= 0]):
            if names[scale] in free:
                low[free.index(names[scale])] = least
        mean, sd = np.zeros(len(free)), np.full(len(free), np.inf)
        for name, (from_, to) in bounds.items():
            if not from_ < to:
                raise LawError(f"bounds: {name} from {from_:g} to {to:g} is empty")
            if name in free:
                low[free.index(name)] = _inner(design, name, from_)
                high[free.index(name)] = _inner(design, name, to)
        for name, (middle, spread) in prior.items():
            if not spread > 0:
                raise LawError(f"prior: the standard deviation of {name} is {spread:g}; wanted more than 0")
            if name in free:
                mean[free.index(name)], sd[free.index(name)] = _inner(design, name, middle), spread
        penalty = Penalty(mean=mean, sd=sd) if prior else None
        return cls(matrix=matrix, constant=constant, low=low, high=high, penalty=penalty)

    @property
    def free(self) -> int:
        """How many of the form's parameters are free; effects follow them in phi."""
        return int(self.matrix.any(axis=0).sum())

    def with_effects(self, effects: Effects) -> Restriction:
        """With a parameter more for each effect, under a prior as wide as the effects are.

        Residuals and priors are in units of a row's noise, and so is the width.
        """
        count = effects.count
        width = np.full(count, effects.ratio)
        prior = self.penalty or Penalty(mean=np.zeros(self.free), sd=np.full(self.free, np.inf))
        return replace(
            self,
            matrix=np.concatenate([self.matrix, np.zeros((len(self.matrix), count))], axis=1),
            low=np.concatenate([self.low, np.full(count, -np.inf)]),
            high=np.concatenate([self.high, np.full(count, np.inf)]),
            penalty=Penalty(
                mean=np.concatenate([prior.mean, np.zeros(count)]), sd=np.concatenate([prior.sd, width])
            ),
        )

    def theta(self, phi: FloatArray) -> FloatArray:
        """All parameters from the free ones: ``(..., parameters)``."""
        out: FloatArray = phi @ self.matrix.T + self.constant
        return out

    def phi(self, theta: FloatArray) -> FloatArray:
        """The free parameters nearest to these."""
        inverse = np.linalg.pinv(self.matrix)
        out: FloatArray = np.clip((theta - self.constant) @ inverse.T, self.low, self.high)
        return out


def _check_name(design: Design, option: str, name: str) -> None:
    constants = {name for term in design.form.terms if not term.axes for name in term.scale_names}
    scales = {name for term in design.form.terms for name in term.scale_names}
    allowed = [n for n in design.names if n not in scales or n in constants]
    if name not in allowed:
        raise LawError(
            f"{option}: {name!r} is not an exponent or a constant of {design.form.id!r}; "
            f"these are: {', '.join(allowed)}"
        )


def _inner(design: Design, name: str, value: float) -> float:
    """A constant as the logarithm that is fitted, an exponent as it is."""
    if name not in {scale for term in design.form.terms for scale in term.scale_names}:
        return float(value)
    return float(np.log(max(value, np.finfo(float).tiny)))


def _dispersion(problem: Posynomial, found: Optima, objective: Objective, weight: FloatArray) -> float:
    """What a degree of freedom has the variance of normal noise of, or the scale of Laplace's."""
    losses = objective.losses(residuals(problem, found.theta[found.best], objective)) @ weight
    return max(float(losses) * (1 if objective.loss == "lad" else 2), np.finfo(float).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The optimum of an objective over rows, and what can be asked of it."""

    design: Design
    objective: Objective
    restriction: Restriction
    weight: FloatArray  #: of each row's loss
    problem: Posynomial  #: in the free parameters
    phi: FloatArray  #: the free parameters at the optimum
    value: float  #: of the objective
    converged: bool
    share_at_best: float  #: of the starts that ended at the optimum
    effects: Effects | None = None  #: the last of phi are theirs

    @classmethod
    def make(
        cls, design: Design, objective: Objective, restriction: Restriction, weight: FloatArray | None = None
    ) -> Estimate:
        """From 16 starts by variable projection to the lowest optimum.

        Raises:
            TooFewRowsError: There are fewer rows than free parameters.
        """
        problem = design.problem.mapped(restriction.matrix, restriction.constant)
        rows, parameters = problem.design.shape[1:]
        if rows < parameters:
            raise TooFewRowsError(f"{rows} rows cannot determine {parameters} parameters")
        weight = np.ones(rows) if weight is None else weight
        begin = restriction.phi(starts(design.problem, design.scales, objective))
        freedom = max(1, rows - parameters)
        prior = restriction.penalty
        penalty: Penalty | None = None
        found: Optima | None = None
        # What a prior counts depends on the noise of the rows, which a fit without it tells; few rows are
        # fitted too closely for that, and the fit with it tells more.
        rounds = 1 if prior is None else 2 if rows >= 2 * parameters else _ROUNDS_OF_FEW
        for _ in range(rounds):
            if prior is not None and found is not None:
                noise = _dispersion(problem, found, objective, weight) / freedom
                penalty = replace(prior, sd=prior.sd / np.sqrt(noise))
            restriction = replace(restriction, penalty=penalty)
            found = optimize(
                problem,
                begin,
                objective,
                weight=weight,
                low=restriction.low,
                high=restriction.high,
                penalty=penalty,
            )
        assert found is not None
        best = found.best
        return cls(
            design=design,
            objective=objective,
            restriction=restriction,
            weight=weight,
            problem=problem,
            phi=found.theta[best],
            value=float(found.value[best]),
            converged=bool(found.converged[best]),
            share_at_best=found.share_at_best,
        )

    def with_effects(self, group: NDArray[np.intp]) -> Estimate:
        """The fit with an effect for each group of rows: see :mod:`qscale.laws.effects`.

        The size of the effects is that of greatest restricted likelihood, found in turns with the fit.

        Raises:
            LawError: The form has no terms that an effect would be of.
            FitError: Too many rows and groups.
        """
        shared = shared_terms(self.design.form)
        free, plain = len(self.phi), self.problem
        effects, phi = Effects(group=group), self.phi
        for _ in range(_ROUNDS_OF_EFFECTS):
            before = effects.ratio
            rest = np.log(plain.target) - plain.log_value(phi[:free])
            effects = effects.with_ratio(plain.log_gradient(phi[:free]), rest, 1 / self.weight)
            restriction = self.restriction.with_effects(effects)
            out = replace(
                self,
                problem=effects.added_to(plain, shared),
                restriction=restriction,
                phi=np.concatenate([phi[:free], np.zeros(effects.count)]),
                effects=effects,
            )
            found = out.refit(self.weight[None])
            phi = found.theta[0]
            if abs(np.log(effects.ratio / before)) < _SAME_RATIO:
                break
        return replace(
            out, phi=phi, value=float(found.value[0]), converged=self.converged and bool(found.converged[0])
        )

    def law_value(self, phi: FloatArray) -> FloatArray:
        """What the law says of each row, without effects: ``(..., rows)``."""
        own = np.arange(phi.shape[-1]) < self.restriction.free
        return self.problem.value(np.where(own, phi, 0.0))

    @property
    def freedom(self) -> float:
        """Rows without the parameters and effects that were fitted to them."""
        taken = self.restriction.free + (0.0 if self.effects is None else self.effects.freedom)
        return len(self.weight) - taken

    @property
    def theta(self) -> FloatArray:
        """All parameters, at the center."""
        return self.restriction.theta(self.phi)

    @property
    def residuals(self) -> FloatArray:
        """Of each row, in the units of the objective."""
        return residuals(self.problem, self.phi, self.objective)

    def refit(self, weight: FloatArray, target: FloatArray | None = None) -> Optima:
        """The optimum under other weights, ``(batch, rows)``, and targets, in free parameters."""
        start = np.repeat(self.phi[None], len(weight), axis=0)
        return minimize(
            self.problem,
            start,
            self.objective,
            weight=weight,
            target=target,
            low=self.restriction.low,
            high=self.restriction.high,
            penalty=self.restriction.penalty,
        )

    def bootstrap(self, kind: Resampling, cluster: NDArray[np.intp], draws: int, seed: int) -> FloatArray:
        """Draws of the free parameters: ``(draws, free)``.

        Args:
            kind: ``cluster`` draws whole clusters with replacement, ``case`` rows; ``wild`` keeps the rows
                and turns the residuals of each cluster over with probability 1/2.
            cluster: A number for each row.
            draws: How many.
            seed: Of the random numbers.

        Source: Efron 1979; Wu 1986 (wild); Cameron, Gelbach and Miller 2008 (clusters).
        """
        rng = np.random.default_rng(seed)
        if kind == "case":
            cluster = np.arange(len(self.weight))
        clusters = int(cluster.max()) + 1
        if kind == "wild":
            turned = rng.choice([-1.0, 1.0], size=(draws, clusters))[:, cluster]
            fitted, r = self.problem.value(self.phi), self.residuals
            target = fitted * np.exp(-r * turned) if self.objective.residual == "log" else fitted - r * turned
            return self.refit(np.repeat(self.weight[None], draws, axis=0), target).theta
        counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
        return self.refit(counts[:, cluster] * self.weight).theta

    def covariance(self, cluster: NDArray[np.intp] | None = None) -> FloatArray:
        """Sandwich covariance of the free parameters, scores added up over clusters (default: rows).

        With the small-sample factor ``c / (c - 1)`` for c clusters. Parameters at a bound have no variance.
        Where few rows are within the width of a Huber loss, its Hessian is that of these few: prefer draws.

        Source: Huber 1967; White 1980; Liang and Zeger 1986.
        """
        slopes, hessian = curvature(self.problem, self.phi, self.objective, self.weight)
        if self.restriction.penalty is not None:
            hessian = hessian + np.diag(1 / self.restriction.penalty.sd**2)
        cluster = np.arange(len(slopes)) if cluster is None else cluster
        clusters = int(cluster.max()) + 1
        sums = np.stack([np.bincount(cluster, weights=s, minlength=clusters) for s in slopes.T], axis=1)
        free = ~self.at_bound
        bread = np.linalg.pinv(hessian[np.ix_(free, free)])
        out = np.zeros_like(hessian)
        middle = sums[:, free].T @ sums[:, free]
        out[np.ix_(free, free)] = bread @ middle @ bread * clusters / max(1, clusters - 1)
        return out

    @property
    def at_bound(self) -> NDArray[np.bool_]:
        """Which free parameters are at an end of their range."""
        low, high = self.restriction.low, self.restriction.high
        out: NDArray[np.bool_] = (self.phi <= low + 1e-9) | (self.phi >= high - 1e-9)
        return out

    def profile(self, place: int) -> Profile:
        """The objective with one free parameter held at values around its own, the others at their optimum.

        On either side 20 values reach as far as it takes to leave the 99% region, or a bound. The ratio is
        ``n ln(f / f*)``, twice that for absolute deviations: the likelihood ratio of normal and of Laplace
        noise of unknown scale, and for other losses in place of one.
        """
        sides = [self._side(place, sign) for sign in (-1.0, 1.0)]
        (below, low), (above, high) = sides
        own = self.phi[place]
        return Profile(
            fitted=np.concatenate([below[::-1], [own], above]),
            ratio=np.concatenate([low[::-1], [0.0], high]),
            best=float(own),
        )

    def _side(self, place: int, sign: float) -> tuple[FloatArray, FloatArray]:
        """Values outward from the optimum, and their ratios."""
        own = float(self.phi[place])
        end = float(self.restriction.low[place] if sign < 0 else self.restriction.high[place])
        width = 4 * float(np.sqrt(max(self.covariance()[place, place], 0.0))) or _NARROW
        factor = len(self.weight) * (2 if self.objective.loss == "lad" else 1)
        held = np.arange(len(self.phi)) == place
        for _ in range(_MOST_WIDENED):
            reach = min(width, abs(end - own))
            at = own + sign * reach * np.arange(1, _POINTS + 1) / _POINTS
            start = np.repeat(self.phi[None], _POINTS, axis=0)
            start[:, place] = at
            value = self._held_at(at, start, held)
            ratio = factor * np.log(np.maximum(value, self.value) / max(self.value, 1e-300))
            if ratio[-1] > _RATIO_99 or reach < width:
                break
            width *= 2
        return at, ratio

    def _held_at(self, at: FloatArray, start: FloatArray, held: NDArray[np.bool_]) -> FloatArray:
        """The objective with a parameter held at each value; each begins anew where a neighbour ended."""

        def run(begin: FloatArray) -> Optima:
            begin[:, held] = at[:, None]
            return minimize(
                self.problem,
                begin,
                self.objective,
                weight=self.weight,
                low=self.restriction.low,
                high=self.restriction.high,
                penalty=self.restriction.penalty,
                held=held,
            )

        found = run(start)
        value = found.value
        for shift in (1, -1):
            value = np.minimum(value, run(np.roll(found.theta, shift, axis=0)).value)
        return value


_RATIO_99 = 6.6349  # the 99% point of chi-square with one degree of freedom


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A parameter's values and the likelihood ratio of each against the optimum."""

    fitted: FloatArray  #: ascending, in the units of the fit: a scale or constant as its logarithm
    ratio: FloatArray
    best: float
    is_log: bool = False

    @property
    def at(self) -> FloatArray:
        """The values in the parameter's own units."""
        return np.exp(self.fitted) if self.is_log else self.fitted

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Where the ratio is below the point of chi-square, in the parameter's own units.

        An end is infinite, or 0 for a scale or constant, where the profile never leaves that region.
        """
        low, high = self.ends(level)
        return (0.0 if self.is_log else -np.inf) if low is None else low, np.inf if high is None else high

    def ends(self, level: float = 0.9) -> tuple[float | None, float | None]:
        """As :meth:`interval`, with None for an end that is open."""
        from scipy.special import chdtri

        limit = float(chdtri(1, 1 - level))
        middle = int(np.searchsorted(self.fitted, self.best))
        low = _crossing(self.fitted[: middle + 1][::-1], self.ratio[: middle + 1][::-1], limit)
        high = _crossing(self.fitted[middle:], self.ratio[middle:], limit)
        return self._own(low), self._own(high)

    def _own(self, value: float | None) -> float | None:
        return float(np.exp(value)) if self.is_log and value is not None else value


def _crossing(at: FloatArray, ratio: FloatArray, limit: float) -> float | None:
    """Where the ratio first exceeds the limit, outward; its root is nearly a line between two values."""
    beyond = np.flatnonzero(ratio > limit)
    if not len(beyond):
        return None
    j = max(int(beyond[0]), 1)
    before, after = np.sqrt(np.maximum(ratio[j - 1 : j + 1], 0.0))
    return float(at[j - 1] + (at[j] - at[j - 1]) * (np.sqrt(limit) - before) / (after - before))
