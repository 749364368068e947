"""Deltas taken apart: weights against inputs, and which layers' inputs cost most."""

from __future__ import annotations

import math

from qscale.errors import SpecError
from qscale.report.sources import Source
from qscale.report.values import (
    NOT_KNOWN,
    Value,
    axis,
    figure,
    listed,
    number,
    panel,
    part,
    section,
    series,
    table,
)
from qscale.sweep.decomposition import Decomposition, Mean, decompose
from qscale.units import short_count

TITLE = "Weights against inputs"
_MOST_BARS = 12
_MOST_LAYERS = 40
_CELL = ("family", "corpus", "tokenizer", "mode", "recipe", "seed", "N", "D", "G")


def decomposition(source: Source) -> Value:
    """What the weights and the inputs of a recipe cost alone, cell by cell."""
    rows = [{**dict.fromkeys((*_CELL, "delta_se")), **row} for row in source.measured]
    rows = [row for row in rows if row["recipe"] and row["N"] and row["D"] and not row.get("method")]
    try:
        found = decompose(rows)
    except SpecError as error:
        return section("decomposition", TITLE, remark=f"A recipe cannot be read: {error}")
    if not found:
        return section(
            "decomposition",
            TITLE,
            remark="No recipe has its parts beside it: a study with the key decompose: [operands, inputs, "
            "layers] runs them.",
        )
    both = [each for each in found if each.weight is not None and each.input is not None]
    figures = [_figure(both)] if both else []
    tables = [_operands(both)] if both else []
    tables += [_inputs(found)] if any(each.inputs for each in found) else []
    tables += [_layers(found)] if any(each.layers for each in found) else []
    return section("decomposition", TITLE, part(figures=figures, tables=tables))


def _cell(each: Decomposition) -> str:
    return f"{each.recipe} {each.mode}, N {short_count(each.N)}, D {short_count(each.D)}"


def _mean(mean: Mean | None, digits: int = 3) -> str:
    if mean is None or not math.isfinite(mean.value):
        return NOT_KNOWN
    return f"{number(mean.value, digits)} ± {number(mean.se, 2)}"


def _figure(found: list[Decomposition]) -> Value:
    shown = found[-_MOST_BARS:]
    names = [f"{e.recipe}, {short_count(e.N)}, {short_count(e.D)}" for e in shown]
    places = range(len(shown))
    kinds: dict[str, list[Mean | None]] = {
        "weights alone": [e.weight for e in shown],
        "inputs alone": [e.input for e in shown],
        "both": [e.both for e in shown],
    }
    drawn = [
        series(
            name,
            places,
            [None if mean is None else mean.value for mean in means],
            error=[None if mean is None else mean.se for mean in means],
            color=i,
            kind="bars",
        )
        for i, (name, means) in enumerate(kinds.items())
    ]
    ratios = [e.ratio.value for e in found if e.ratio is not None and math.isfinite(e.ratio.value)]
    said = f"Inputs over weights: {number(min(ratios), 3)} to {number(max(ratios), 3)}." if ratios else ""
    some = f" The last {_MOST_BARS} of {len(found)} cells are drawn." if len(found) > _MOST_BARS else ""
    one = panel("", axis("recipe, N, D", names=names), axis("delta, nats per token"), drawn)
    return figure(
        "decomposition",
        f"What weights and inputs cost alone, and together; bars are one standard error.{some}",
        f"Bars for {listed(names)}. {said}",
        [one],
        wide=True,
    )


def _operands(found: list[Decomposition]) -> Value:
    rows = [
        (
            _cell(e),
            str(e.seeds),
            _mean(e.both),
            _mean(e.weight),
            _mean(e.input),
            _mean(e.ratio),
            _mean(e.additivity),
        )
        for e in found
    ]
    head = ("cell", "seeds", "delta", "weights", "inputs", "inputs / weights", "delta / (weights + inputs)")
    return table("Weights and inputs alone, with standard errors", head, rows)


def _inputs(found: list[Decomposition]) -> Value:
    roles = list(dict.fromkeys(role for e in found for role in e.inputs))
    rows = [(_cell(e), *(_mean(e.inputs.get(role)) for role in roles)) for e in found if e.inputs]
    return table(
        "How much less the recipe costs without the inputs of one kind of layer", ("cell", *roles), rows
    )


def _layers(found: list[Decomposition]) -> Value:
    rows = [(_cell(e), layer, _mean(m)) for e in found for layer, m in list(e.layers.items())[:_MOST_LAYERS]]
    head = ("cell", "input of", "less without it")
    return table("Single layers, the costliest first", head, rows, folded=True)
