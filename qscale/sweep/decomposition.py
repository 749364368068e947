"""Deltas taken apart: weights against inputs, and which layers' inputs cost most. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

from qscale.formats import Recipe
from qscale.formats.recipe import ROLES

#: What rows of one cell agree in, besides the recipe.
_CELL = ("family", "corpus", "tokenizer", "mode", "finetune_fraction", "N", "D")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and its standard error: between seeds, or of the evaluation where there is one."""

    value: float
    se: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """One recipe in one cell, with what its parts cost alone.

    ``ratio`` is ``delta_input / delta_weight``; ``additivity`` is ``delta_both / (delta_weight +
    delta_input)``: in arXiv:2505.14302 about .906. ``inputs`` has for each role how much less the recipe
    costs with that role's inputs unquantized, ``layers`` the same for single layers, by the names that
    overrides have for them, the costliest first. Those of several do not add up.
    """

    recipe: str
    mode: str
    N: int
    D: int
    G: float | None
    seeds: int
    both: Mean
    weight: Mean | None
    input: Mean | None
    ratio: Mean | None
    additivity: Mean | None
    inputs: Mapping[str, Mean]
    layers: Mapping[str, Mean]

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


def decompose(rows: Iterable[Row]) -> list[Decomposition]:
    """Take apart every recipe of weights and inputs whose parts were run too.

    Args:
        rows: Observations of a study, as :func:`qscale.sweep.table.observations` gives them.

    Returns:
        One for each recipe and cell of which some part is there; means are over the seeds that have all.
    """
    cells: dict[tuple[Any, ...], dict[str, dict[Any, Row]]] = {}
    for row in rows:
        if row["delta"] is not None:
            key = tuple(row.get(name) for name in _CELL)
            cells.setdefault(key, {}).setdefault(row["recipe"], {})[row["seed"]] = row
    found = []
    for recipes in cells.values():
        for text, runs in recipes.items():
            recipe = Recipe.parse(text)
            if recipe.weight is not None and recipe.input is not None:
                one = _decomposition(recipe, runs, recipes)
                if one is not None:
                    found.append(one)
    return sorted(found, key=lambda each: (each.mode, each.N, each.D, each.recipe))


def _decomposition(
    recipe: Recipe, runs: Mapping[Any, Row], recipes: Mapping[str, Mapping[Any, Row]]
) -> Decomposition | None:
    weight = recipes.get(str(recipe.only("weight")), {})
    inputs = recipes.get(str(recipe.only("input")), {})
    without = {part: rest for text, rest in recipes.items() if (part := _left_out(recipe, text)) is not None}
    less = {part: _mean([runs, rest], _fall) for part, rest in without.items() if runs.keys() & rest.keys()}
    if not (weight or inputs or less):
        return None
    if not (inputs or less) and any(_left_out(_parsed(text), str(recipe)) for text in recipes):
        return None  # a part of another recipe, which has its weights
    layers = sorted(less.keys() - set(ROLES), key=lambda part: (-less[part].value, part))
    first = next(iter(runs.values()))
    return Decomposition(
        recipe=str(recipe),
        mode=first["mode"],
        N=first["N"],
        D=first["D"],
        G=first["G"],
        seeds=len(runs),
        both=_mean([runs], lambda both: both),
        weight=_mean([weight], lambda part: part) if weight else None,
        input=_mean([inputs], lambda part: part) if inputs else None,
        ratio=_mean([inputs, weight], lambda a, w: a / w) if weight and inputs else None,
        additivity=_mean([runs, weight, inputs], lambda both, w, a: both / (w + a))
        if weight and inputs
        else None,
        inputs={role: less[role] for role in ROLES if role in less},
        layers={layer: less[layer] for layer in layers},
    )


def _left_out(recipe: Recipe, text: str) -> str | None:
    """The role or layer whose inputs alone are what another recipe does not quantize; None of any other."""
    other = _parsed(text)
    changed = other.overrides.items() - recipe.overrides.items()
    if len(changed) != 1:
        return None
    part, _, operand = next(iter(changed))[0].rpartition(".")
    return part if operand == "input" and recipe.without_input_of(part) == other else None


_parsed = lru_cache(maxsize=1024)(Recipe.parse)


def _fall(both: float, rest: float) -> float:
    return both - rest


def _mean(parts: Sequence[Mapping[Any, Row]], of: Callable[..., float]) -> Mean:
    """The mean over the seeds that all parts have of a function of their deltas."""
    seeds = sorted(set.intersection(*(set(part) for part in parts)), key=str)
    values = []
    for seed in seeds:
        try:
            values.append(of(*(float(part[seed]["delta"]) for part in parts)))
        except ZeroDivisionError:
            continue
    if len(values) > 1:
        return Mean(fmean(values), stdev(values) / math.sqrt(len(values)))
    if not values:
        return Mean(math.nan, math.nan)
    return Mean(values[0], _propagated(parts, seeds[0], of))


def _propagated(parts: Sequence[Mapping[Any, Row]], seed: Any, of: Callable[..., float]) -> float:
    """First-order error of the evaluation of one seed; the parts' errors are taken as independent."""
    at = [float(part[seed]["delta"]) for part in parts]
    square = 0.0
    for i, part in enumerate(parts):
        se = float(part[seed]["delta_se"] or 0.0)
        moved = [value + (se if i == j else 0.0) for j, value in enumerate(at)]
        square += (of(*moved) - of(*at)) ** 2
    return math.sqrt(square)
