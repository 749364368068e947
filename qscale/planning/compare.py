"""One option against another: the difference in loss, and whether a finer group is worth its bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, exact, farthest, weakest
from qscale.planning.rows import Row, row_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupWorth:
    """A finer group against a coarser one, and against a larger model in the same bytes."""

    fine: Row
    coarse: Row
    gain: Forecast  #: loss of the coarse one less that of the fine one
    extra_bits: float  #: a weight
    chance_better: float | None  #: that the finer group is better at all
    scale: float  #: N of the coarse model that takes the bytes of the fine one, over N
    against_larger: Forecast | None  #: loss of that larger coarse model less that of the fine one
    chance_worth: float | None  #: that the finer group is worth more than the larger model


def group_worth(
    evidence: Evidence,
    model: tuple[Architecture, float],
    fine: Recipe | str,
    coarse: Recipe | str,
    *,
    law: str | None = None,
) -> GroupWorth:
    """Is a finer group worth its bits: against the coarser one, and against a larger model in the same bytes.

    The larger model is of the same D with N times the ratio of bits a weight; it needs a baseline.

    Raises:
        PlanError: No law is about both, or the first takes no more bits than the second.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16"], baseline="chen2025/baseline")
        >>> found = group_worth(evidence, (Architecture.typical(7e9), 2e12), "w4a16:g32", "w4a16:g128")
        >>> found.extra_bits, round(found.gain.value, 4), round(found.against_larger.value, 4)
        (0.375, 0.0016, -0.0054)
    """
    architecture, D = model
    pair = [evidence.option(architecture, D, recipe, law=law) for recipe in (fine, coarse)]
    if pair[0].source is not pair[1].source:
        raise PlanError(f"{fine} and {coarse} are predicted by two laws: name one that is about both")
    rows = [row_of(evidence, option, None) for option in pair]
    extra = rows[0].bits_per_weight - rows[1].bits_per_weight
    if not extra > 0:
        raise PlanError(f"{fine} takes no more bits a weight than {coarse}: there is nothing to be worth")
    gain = difference(evidence, pair[1], pair[0])
    scale = rows[0].bits_per_weight / rows[1].bits_per_weight
    against = None
    if evidence.baseline is not None:
        against = difference(evidence, replace(pair[1], scale=scale), pair[0])
    return GroupWorth(
        fine=rows[0],
        coarse=rows[1],
        gain=gain,
        extra_bits=extra,
        chance_better=_above_zero(gain),
        scale=scale,
        against_larger=against,
        chance_worth=None if against is None else _above_zero(against),
    )


def difference(evidence: Evidence, first: Option, second: Option) -> Forecast:
    """The loss of one option less that of another, in paired draws: what they share cancels.

    Options of one law share its draws, and all share the baseline's, which cancels where N and D are the
    same; the draws of two laws are independent. There is no band where a law that does not cancel has none.

    Raises:
        PlanError: They differ in N or D and there is no baseline.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16"])
        >>> a, b = (evidence.option(Architecture.typical(7e9), 2e12, f"w4a16:{g}") for g in ("g32", "g128"))
        >>> found = difference(evidence, a, b)
        >>> round(found.value, 5), found.chance_below(0)
        (-0.00158, 1.0)
    """
    same = evidence.differ_in_delta([first, second])
    if evidence.baseline is None and not same:
        raise PlanError(f"{first} and {second} differ in N or D: comparing them needs a baseline")
    one, two = evidence.loss(first), evidence.loss(second)
    sides, drawn = (one, two), [one.draws, two.draws]
    if same:
        sides = (evidence.delta(first), evidence.delta(second))
        drawn = [exact(side, option) for side, option in zip(sides, (first, second), strict=True)]
    bases = [s.basis for s, option in zip(sides, (first, second), strict=True) if not same or option.recipe]
    draws = None if drawn[0] is None or drawn[1] is None or not bases else drawn[0] - drawn[1]
    basis = "none" if draws is None else weakest(*bases)
    outside = farthest(one.outside, two.outside)
    return Forecast.of(one.value - two.value, draws, basis, outside, evidence.level)


def _above_zero(found: Forecast) -> float | None:
    return None if found.draws is None else float(np.mean(found.draws > 0))
