"""What to ship: the least loss under a memory budget, the least memory under a loss, this or that option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.formats.recipe import without_span
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, farthest
from qscale.planning.footprint import Footprint, Serving, bits_of_linears, footprint

_SURE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """An option with what it takes and what it costs."""

    option: Option
    footprint: Footprint
    bits_per_weight: float  #: of the linear layers, scales included
    loss: Forecast
    delta: Forecast
    others: dict[str, float]  #: the delta that other laws about this recipe predict, by law
    chance: float | None = None  #: the share of draws in which this option is the one to take

    def to_json(self) -> dict[str, Any]:
        """Everything, forecasts without their draws."""
        option = self.option
        return {
            "option": str(option),
            "model": option.architecture.name,
            "N": option.architecture.N,
            "N_total": option.architecture.N_total,
            "D": option.D,
            "recipe": None if option.recipe is None else str(option.recipe),
            "how": option.how or None,
            "law": None if option.source is None else option.source.label,
            "bits_per_weight": self.bits_per_weight,
            "bytes": self.footprint.to_json(),
            "loss": self.loss.to_json(),
            "delta": self.delta.to_json(),
            "others": dict(self.others),
            "chance": self.chance,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Options in the order to take them, first those that meet the limit."""

    limit: float  #: bytes, or nats per token
    rows: tuple[Row, ...]
    meets: int  #: how many of the rows do, the first ones
    by_law: dict[str, str]  #: what each law would take, were it asked alone
    notes: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """The option to take; None where nothing meets the limit."""
        return self.rows[0] if self.meets else None

    @property
    def front(self) -> list[Row]:
        """The options that no other one beats in both bytes and loss, by bytes."""
        found: list[Row] = []
        for row in sorted(self.rows, key=lambda r: (r.footprint.total, r.loss.value)):
            if not found or row.loss.value < found[-1].loss.value:
                found.append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, forecasts without their draws."""
        return {
            "limit": self.limit,
            "best": None if self.best is None else str(self.best.option),
            "by_law": dict(self.by_law),
            "front": [str(row.option) for row in self.front],
            "meets": self.meets,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def least_loss(
    evidence: Evidence,
    budget: float,
    models: Sequence[tuple[Architecture, float]],
    *,
    recipes: Sequence[Recipe | str] | None = None,
    serving: Serving | None = None,
) -> Plan:
    """Which model, format, group size and method has the least predicted loss in so many bytes.

    Args:
        evidence: The laws; with a baseline where models differ in N or D.
        budget: Bytes for weights, cache, activations and overhead together.
        models: Architectures and their training tokens.
        recipes: To choose from, beside no quantization; by default all that the laws are about.
        serving: What takes memory beside the weights.

    Returns:
        A plan; without an option in it that fits, ``best`` is None.

    Raises:
        PlanError: No models, or several without a baseline, or no law is about a recipe that was named.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16"], baseline="chen2025/baseline")
        >>> models = [(Architecture.typical(size), 1e12) for size in (3e9, 7e9, 13e9)]
        >>> plan = least_loss(evidence, 8e9, models)
        >>> str(plan.best.option)
        '13B w4a16:g32 QAT'
    """
    if not budget > 0:
        raise PlanError(f"a budget of {budget:g} bytes: more than none")
    rows = rows_of(evidence, models, recipes=recipes, serving=serving)
    fits = sorted((r for r in rows if r.footprint.total <= budget), key=lambda r: r.loss.value)
    rest = sorted((r for r in rows if r.footprint.total > budget), key=lambda r: r.footprint.total)
    chosen = with_chances(fits)
    return Plan(
        limit=float(budget),
        rows=(*chosen, *rest),
        meets=len(fits),
        by_law=_by_law(fits, lambda row, delta: row.loss.value - row.delta.value + delta),
        notes=_notes(evidence, serving),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tolerance:
    """The options within a tolerance, and the coarsest groups that are."""

    plan: Plan  #: rows within the tolerance by bytes, then the others by delta
    sure: Row | None  #: the smallest that is within it with the wanted certainty
    certainty: float
    largest_group: dict[str, float | None]  #: G at which delta meets the tolerance, by recipe without span


def within_tolerance(
    evidence: Evidence,
    tolerance: float,
    model: tuple[Architecture, float],
    *,
    recipes: Sequence[Recipe | str] | None = None,
    serving: Serving | None = None,
    certainty: float = _SURE,
) -> Tolerance:
    """The fewest bytes (bits and scales) whose delta stays within a tolerance, and the largest G.

    Args:
        evidence: The laws.
        tolerance: Nats per token above the model without quantization.
        model: Its architecture and training tokens.
        recipes: To choose from; by default all that the laws are about.
        serving: What takes memory beside the weights.
        certainty: The share of draws that has to be within, for ``sure``.

    Raises:
        PlanError: No law is about a recipe that was named, or the tolerance is not positive.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16"])
        >>> found = within_tolerance(evidence, 0.02, (Architecture.typical(595e6), 100e9))
        >>> str(found.plan.best.option.recipe), round(found.largest_group["w4a16"])
        ('w4a16:g32', 64)
    """
    if not tolerance > 0 or not 0 < certainty < 1:
        raise PlanError(f"tolerance={tolerance:g}, certainty={certainty:g}: positive, and a share below 1")
    rows = rows_of(evidence, [model], recipes=recipes, serving=serving)
    rows = [replace(row, chance=row.delta.chance_below(tolerance)) for row in rows]
    within = sorted((r for r in rows if r.delta.value <= tolerance), key=_by_bytes)
    rest = sorted((r for r in rows if r.delta.value > tolerance), key=lambda r: r.delta.value)
    sure = next((r for r in within if r.option.recipe is None or (r.chance or 0) >= certainty), None)
    plan = Plan(
        limit=float(tolerance),
        rows=(*within, *rest),
        meets=len(within),
        by_law=_by_law(
            [r for r in rows if _within(r, tolerance)], lambda r, d: _bytes_within(r, d, tolerance)
        ),
        notes=_notes(evidence, serving),
    )
    groups: dict[str, float | None] = {}
    for row in rows:
        option = row.option
        if option.recipe is not None and option.source is not None and "G" in option.source.variables:
            groups.setdefault(without_span(str(option.recipe)), _group_at(option, tolerance))
    return Tolerance(plan=plan, sure=sure, certainty=certainty, largest_group=groups)


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
    rows = [_row(evidence, option, None) for option in pair]
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

    Options of one law share its draws, and all share the baseline's; the draws of two laws are independent.

    Raises:
        PlanError: They differ in N or D and there is no baseline.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16"])
        >>> a, b = (evidence.option(Architecture.typical(7e9), 2e12, f"w4a16:{g}") for g in ("g32", "g128"))
        >>> found = difference(evidence, a, b)
        >>> round(found.value, 5), found.chance_below(0)
        (-0.00158, 1.0)
    """
    same = (first.architecture.N * first.scale, first.D) == (second.architecture.N * second.scale, second.D)
    if evidence.baseline is None and not same:
        raise PlanError(f"{first} and {second} differ in N or D: comparing them needs a baseline")
    one, two = evidence.loss(first), evidence.loss(second)
    draws = None
    if one.draws is not None or two.draws is not None:
        first_draws = one.value if one.draws is None else one.draws
        draws = np.asarray(first_draws - (two.value if two.draws is None else two.draws), dtype=np.float64)
    outside = farthest(one.outside, two.outside)
    basis = one.basis if one.draws is not None else two.basis
    return Forecast.of(one.value - two.value, draws, basis, outside, evidence.level)


def rows_of(
    evidence: Evidence,
    models: Sequence[tuple[Architecture, float]],
    *,
    recipes: Sequence[Recipe | str] | None = None,
    serving: Serving | None = None,
) -> list[Row]:
    """Every model in 16 bits and by every recipe and method that a law is about, with its forecasts."""
    if not models:
        raise PlanError("no model to choose from")
    if evidence.baseline is None and len({(a.N, D) for a, D in models}) > 1:
        raise PlanError("models of several N or D are compared by loss, which needs a baseline")
    named = None if recipes is None else [Recipe.parse(recipe) for recipe in recipes]
    rows = []
    for architecture, D in models:
        rows.append(_row(evidence, evidence.option(architecture, D), serving))
        for recipe in evidence.recipes() if named is None else named:
            if named is not None:
                evidence.option(architecture, D, recipe)  # says why no law is about it
            methods = set()
            for source in evidence.covering(recipe, architecture):
                if source.how not in methods:
                    methods.add(source.how)
                    option = Option(architecture=architecture, D=D, recipe=recipe, source=source)
                    rows.append(_row(evidence, option, serving))
    return rows


def with_chances(rows: Sequence[Row]) -> list[Row]:
    """The rows with the share of draws in which each has the least loss, among those whose band is known."""
    known = [i for i, row in enumerate(rows) if row.loss.draws is not None or row.option.recipe is None]
    size = next((len(row.loss.draws) for row in rows if row.loss.draws is not None), 0)
    if not size:
        return list(rows)
    drawn = [rows[i].loss for i in known]
    stacked = np.stack([np.full(size, one.value) if one.draws is None else one.draws for one in drawn])
    least = np.bincount(np.argmin(stacked, axis=0), minlength=len(known)) / size
    chances = dict(zip(known, least.tolist(), strict=True))
    return [replace(row, chance=chances.get(i)) for i, row in enumerate(rows)]


def _row(evidence: Evidence, option: Option, serving: Serving | None) -> Row:
    taken = footprint(option.architecture, option.recipe, serving)
    others = {}
    if option.recipe is not None and option.source is not None:
        for source in evidence.covering(option.recipe, option.architecture):
            if source is not option.source and source.how == option.how:
                others[source.label] = evidence.delta(replace(option, source=source)).value
    return Row(
        option=option,
        footprint=taken,
        bits_per_weight=bits_of_linears(option.architecture, option.recipe),
        loss=evidence.loss(option),
        delta=evidence.delta(option),
        others=others,
    )


def _by_law(rows: Sequence[Row], score: Any) -> dict[str, str]:
    """What each law would choose among the rows that it speaks for and those without quantization."""
    found: dict[str, tuple[float, str]] = {}
    labels = {row.option.source.label for row in rows if row.option.source is not None}
    labels |= {label for row in rows for label in row.others}
    for label in sorted(labels):
        for row in rows:
            source = row.option.source
            if source is None:
                value = score(row, 0.0)
            elif source.label == label:
                value = score(row, row.delta.value)
            elif label in row.others:
                value = score(row, row.others[label])
            else:
                continue
            if value is not None and (label not in found or value < found[label][0]):
                found[label] = (value, str(row.option))
    return {label: name for label, (_, name) in found.items()}


def _within(row: Row, tolerance: float) -> bool:
    return min([row.delta.value, *row.others.values()]) <= tolerance


def _bytes_within(row: Row, delta: float, tolerance: float) -> float | None:
    return row.footprint.total if delta <= tolerance else None


def _by_bytes(row: Row) -> tuple[int, float]:
    return row.footprint.total, row.delta.value


def _above_zero(found: Forecast) -> float | None:
    return None if found.draws is None else float(np.mean(found.draws > 0))


def _group_at(option: Option, tolerance: float) -> float | None:
    """The G at which delta is the tolerance, by bisection; None below 2, infinite past any row."""
    assert option.source is not None
    source = option.source
    point = source.point(option.architecture, option.D, option.recipe)
    low, high = 2.0, 1e6
    if source.predict({**point, "G": low}) > tolerance:
        return None
    if source.predict({**point, "G": high}) <= tolerance:
        return float("inf")
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if source.predict({**point, "G": middle}) <= tolerance else (low, middle)
    return low


def _notes(evidence: Evidence, serving: Serving | None) -> tuple[str, ...]:
    notes = list(evidence.notes)
    notes += [f"left out: {reason}" for reason in evidence.refused]
    if evidence.baseline is not None and evidence.baseline.basis == "none":
        notes.append(
            f"the baseline {evidence.baseline.label} has no band: those of losses are of delta alone"
        )
    if serving is not None and serving.kv is not None:
        notes.append(f"what the cache in {serving.kv} costs is in no loss here")
    if any(source.basis == "none" for source in evidence.sources):
        unsure = ", ".join(s.label for s in evidence.sources if s.basis == "none")
        notes.append(f"no band is known for {unsure}")
    return tuple(notes)
