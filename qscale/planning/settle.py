"""Which extra runs would settle a choice between two options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qscale.errors import PlanError
from qscale.laws.suggest import greedy_runs
from qscale.planning.compare import difference
from qscale.planning.evidence import Evidence, Forecast, Option
from qscale.planning.sources import Source

_NODES = 64  # of the quadrature over what the runs may show


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A run to make, and where the choice stands once it is made."""

    law: str  #: the law that the run joins
    run: dict[str, float]
    flops: float
    sd: float  #: of the difference in loss, nats per token
    confidence: float  #: expected probability that the option then preferred is the better one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settling:
    """The runs that tell two options apart soonest."""

    difference: Forecast  #: loss of the first less that of the second
    sd: float
    confidence: float  #: that the option preferred now is the better one
    steps: tuple[Step, ...]


def runs_to_settle(
    evidence: Evidence,
    first: Option,
    second: Option,
    candidates: Sequence[Mapping[str, float]],
    budget: float,
    *,
    noise: float | None = None,
) -> Settling:
    """Extra runs, one after the other, each with the largest fall of the difference's variance for its FLOPs.

    The difference of the two losses and the logarithms of what runs measure are taken to be normal, with the
    covariance of the laws' draws; the laws are taken to be true. What runs show is not known beforehand, so
    the confidence after them is an expectation over it. Where options differ in N or D, runs without
    quantization, which join the baseline's law, are among the candidates.

    Args:
        evidence: The laws, with draws: your own fits.
        first: An option.
        second: Another.
        candidates: Runs that could be made, with the variables of the laws: N, D, G.
        budget: FLOPs of all new runs together, 6 N D each; what they are matched with is left out.
        noise: Relative s.d. of a run; by default that of each law's fit.

    Raises:
        PlanError: A law that tells the options apart has no draws, or there are no candidates.
        LawError: A law does not know its noise, or a candidate lacks a variable.

    Source: Bayesian linear design, Chaloner and Verdinelli 1995.
    """
    if not candidates:
        raise PlanError("no candidates: say which runs could be made")
    gap = difference(evidence, first, second)
    named = [option.source for option in (first, second) if option.source is not None]
    named += [] if evidence.baseline is None else [evidence.baseline]
    sources = {source.label: source for source in named if source.law.draws_table is not None}
    if gap.draws is None or not sources:
        lacking = dict.fromkeys(source.label for source in named if source.law.draws_table is None)
        raise PlanError(
            f"which runs would help is told by draws, and {', '.join(lacking) or 'these options'} "
            f"{'have' if len(lacking) != 1 else 'has'} none: fit your own runs"
        )
    runs = [(source, run) for source in sources.values() for run in _of(source, candidates)]
    drawn = [np.asarray(source.draws(run), dtype=np.float64) for source, run in runs]
    seen = np.stack(drawn, axis=-1)
    if not np.all(seen > 0):
        raise PlanError("a law has draws of 0 or less at a candidate, whose logarithm no run can measure")
    logs = np.log(seen)
    noises = np.array([source.law.run_sd if noise is None else noise for source, _ in runs])
    if not np.all(noises > 0):
        raise PlanError(f"noise={noise}: the relative standard deviation of a run is more than 0")
    sd = float(np.std(gap.draws, ddof=1))
    mean = float(np.mean(gap.draws))
    steps = [
        Step(
            law=runs[i][0].label,
            run=runs[i][1],
            flops=flops,
            sd=then,
            confidence=_confidence(mean, sd, then),
        )
        for i, flops, then in greedy_runs(gap.draws, logs, [run for _, run in runs], noises, budget)
    ]
    return Settling(difference=gap, sd=sd, confidence=_confidence(mean, sd, sd), steps=tuple(steps))


def _of(source: Source, candidates: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The candidates as runs of a law: with its variables alone, each once.

    Raises:
        PlanError: One lacks a variable.
    """
    found: dict[tuple[float, ...], dict[str, float]] = {}
    for run in candidates:
        if missing := [name for name in source.variables if name not in run]:
            raise PlanError(f"candidate {dict(run)} lacks {', '.join(missing)}, which law {source.label} has")
        values = {name: float(run[name]) for name in source.variables}
        found.setdefault(tuple(values.values()), values)
    return list(found.values())


def _confidence(mean: float, sd: float, then: float) -> float:
    """The expected probability of the preferred side once the s.d. has fallen from ``sd`` to ``then``."""
    if then <= 0:
        return 1.0
    moves = math.sqrt(max(sd**2 - then**2, 0.0))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    sides = [_normal(abs(mean + moves * float(node)) / then) for node in nodes]
    return float(np.dot(weights, sides) / weights.sum())


def _normal(z: float) -> float:
    """The share of a normal distribution below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
