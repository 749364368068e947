"""What to ship: the least loss in a number of bytes, the fewest bytes within a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.formats.recipe import without_span
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Option
from qscale.planning.footprint import Serving
from qscale.planning.rows import Row, rows_of, with_chances

_SURE = 0.9


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
    chosen = with_chances(evidence, fits)
    return Plan(
        limit=float(budget),
        rows=(*chosen, *rest),
        meets=len(fits),
        by_law=_by_law(fits, lambda row, delta: row.loss.value - row.delta.value + delta),
        notes=_notes(evidence, rows, serving),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestGroup:
    """The coarsest group whose delta is within a tolerance."""

    G: float | None  #: None: not even 2; infinite: one scale a channel will do
    law: str
    outside: dict[str, float]  #: times outside the law's fitted box, there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tolerance:
    """The options within a tolerance, and the coarsest groups that are."""

    plan: Plan  #: rows within the tolerance by bytes, then the others by delta
    sure: Row | None  #: the smallest that is within it with the wanted certainty
    certainty: float
    largest_group: dict[str, LargestGroup]  #: by recipe without span, and method: ``w4a16 QAT``


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
        >>> str(found.plan.best.option.recipe), round(found.largest_group["w4a16 QAT"].G)
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
        notes=_notes(evidence, rows, serving),
    )
    groups: dict[str, LargestGroup] = {}
    for row in rows:
        option = row.option
        if option.recipe is not None and option.source is not None and "G" in option.source.variables:
            name = f"{without_span(str(option.recipe))} {option.how}"
            if name not in groups:
                groups[name] = _largest_group(option, tolerance)
    return Tolerance(plan=plan, sure=sure, certainty=certainty, largest_group=groups)


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


def _largest_group(option: Option, tolerance: float) -> LargestGroup:
    """The G at which delta is the tolerance, by bisection from 2 to the longest row."""
    assert option.source is not None
    source = option.source
    point = source.point(option.architecture, option.D, option.recipe)
    low, high = 2.0, float(max(m.inputs for m in option.architecture.matrices))

    def within(group: float) -> bool:
        return bool(source.predict({**point, "G": group}) <= tolerance)

    if within(high):
        found: float | None = math.inf
    elif not within(low):
        found = None
    else:
        for _ in range(100):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if within(middle) else (low, middle)
        found = low
    at = {None: low, math.inf: high}.get(found, found)
    return LargestGroup(G=found, law=source.label, outside=source.outside({**point, "G": at}))


def _notes(evidence: Evidence, rows: Sequence[Row], serving: Serving | None) -> tuple[str, ...]:
    notes = list(evidence.notes)
    notes += [f"left out: {reason}" for reason in evidence.refused]
    if evidence.baseline is not None and evidence.baseline.basis == "none":
        notes.append(
            f"the baseline {evidence.baseline.label} has no band, so no loss here has one, and no "
            "probability is told between options of several N or D"
        )
    if serving is not None and serving.kv is not None:
        notes.append(f"what the cache in {serving.kv} costs is in no loss here")
    told = {row.option.source.label for row in rows if row.option.source is not None}
    told |= {label for row in rows for label in row.others}
    far = [one.label for one in evidence.sources if one.label not in told]
    if far and math.isfinite(evidence.reach):
        notes.append(
            f"asked of nothing here, out of reach ({evidence.reach:g} times) or about other recipes: "
            + ", ".join(far)
        )
    asked = dict.fromkeys(row.option.source for row in rows if row.option.source is not None)
    if unsure := ", ".join(source.label for source in asked if source.basis == "none"):
        notes.append(f"no band is known for {unsure}")
    return tuple(notes)
