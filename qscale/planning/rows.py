"""Options side by side: what each takes, what it costs, and how likely it is the one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.laws.forms import FloatArray
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, exact
from qscale.planning.footprint import Footprint, Serving, bits_of_linears, footprint


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
    rows: list[Row] = []
    for architecture, D in models:
        rows.append(row_of(evidence, evidence.option(architecture, D), serving))
        for recipe in evidence.recipes() if named is None else named:
            if named is not None:
                evidence.option(architecture, D, recipe)  # says why no law is about it
            methods = set()
            for source in evidence.covering(recipe, architecture):
                option = Option(architecture=architecture, D=D, recipe=recipe, source=source)
                if source.how not in methods and evidence.reaches(option):
                    methods.add(source.how)
                    rows.append(row_of(evidence, option, serving))
    return rows


def with_chances(evidence: Evidence, rows: Sequence[Row]) -> list[Row]:
    """The rows with the share of draws in which each has the least loss, among those whose band is known.

    Of one N and D the deltas decide, else the losses, which have a band where the baseline has one.
    """
    if evidence.differ_in_delta([row.option for row in rows]):
        drawn = [exact(row.delta, row.option) for row in rows]
    else:
        drawn = [row.loss.draws for row in rows]
    chances = shares_of_least(drawn)
    return [replace(row, chance=chance) for row, chance in zip(rows, chances, strict=True)]


def shares_of_least(drawn: Sequence[FloatArray | None]) -> list[float | None]:
    """How often each is the least, among those that have draws; ties are shared; None below two."""
    known = [i for i, one in enumerate(drawn) if one is not None]
    found: list[float | None] = [None] * len(drawn)
    if len(known) < 2:
        return found
    stacked = np.stack([one for one in drawn if one is not None])
    least = stacked == stacked.min(axis=0)
    for i, share in zip(known, np.mean(least / least.sum(axis=0), axis=1).tolist(), strict=True):
        found[i] = share
    return found


def row_of(evidence: Evidence, option: Option, serving: Serving | None) -> Row:
    """An option with its bytes and forecasts."""
    taken = footprint(option.architecture, option.recipe, serving)
    others = {}
    if option.recipe is not None and option.source is not None:
        for source in evidence.covering(option.recipe, option.architecture):
            other = replace(option, source=source)
            if source is not option.source and source.how == option.how and evidence.reaches(other):
                others[source.label] = evidence.delta(other).value
    return Row(
        option=option,
        footprint=taken,
        bits_per_weight=bits_of_linears(option.architecture, option.recipe),
        loss=evidence.loss(option),
        delta=evidence.delta(option),
        others=others,
    )
