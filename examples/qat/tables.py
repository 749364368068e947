"""The tables of docs/qat.md from the studies beside this file:

studies="trends modes formats early layers annealing products"
for study in $studies; do qscale sweep run examples/qat/$study.yaml --out runs/$study; done
python examples/qat/tables.py runs
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from qscale.sweep.decomposition import Mean, decompose
from qscale.sweep.table import observations
from qscale.units import short_count

Row = dict[str, Any]


def shown(mean: Mean | None, digits: int = 4) -> str:
    """``.0512(14)``: the value, and its standard error in units of the last digit."""
    if mean is None:
        return ""
    return f"{mean.value:.{digits}f}({round(mean.se * 10**digits)})".replace("0.", ".", 1)


def table(heads: list[str], rows: list[list[str]]) -> None:
    """In Markdown."""
    for line in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(line) + " |")
    print()


def trends(rows: list[Row]) -> None:
    """Every cell of the grid."""
    print("Trends\n")
    heads = ["N", "D", "D/N", "G", "W4A4", "W4A16", "W16A4", "R", "additivity"]
    lines = []
    for each in sorted(decompose(rows), key=lambda each: (each.N, each.D, each.G or 0)):
        ratio = f"{each.D / each.N:.0f}"
        cell = [short_count(each.N), short_count(each.D), ratio, f"{each.G:g}"]
        deltas = [shown(part) for part in (each.both, each.weight, each.input)]
        lines.append(cell + deltas + [shown(each.ratio, 2), shown(each.additivity, 2)])
    table(heads, lines)


def modes(rows: list[Row]) -> None:
    """The three modes on equal tokens."""
    print("Modes\n")
    spread = defaultdict(list)
    for row in rows:
        if row["recipe"] == "w4a4:g32":
            spread[row["mode"]].append(row["delta"])
    lines = [
        [
            each.mode,
            *(shown(part) for part in (each.both, each.weight, each.input)),
            shown(each.ratio, 2),
            shown(each.additivity, 2),
            f"{stdev(spread[each.mode]):.4f}",
        ]
        for each in decompose(rows)
    ]
    table(["mode", "W4A4", "W4A16", "W16A4", "R", "additivity", "s.d. of W4A4 over seeds"], lines)


def formats(rows: list[Row], base: str = "w4a4:g32", title: str = "Formats") -> None:
    """Each recipe, and its difference from the first on the same seeds."""
    print(f"{title}\n")
    deltas: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        deltas[row["recipe"]][row["seed"]] = row["delta"]
    lines = []
    for recipe, values in deltas.items():
        apart = [value - deltas[base][seed] for seed, value in values.items()]
        lines.append([f"`{recipe}`", _mean(list(values.values())), "" if recipe == base else _mean(apart)])
    table(["recipe", "delta", f"less that of `{base}`"], lines)


def early(rows: list[Row]) -> None:
    """Delta against tokens a parameter."""
    print("Early\n")
    deltas = defaultdict(list)
    for row in rows:
        deltas[row["D"]].append(row["delta"])
    lines = [
        [short_count(d), f"{d / rows[0]['N']:.1f}", _mean(values)] for d, values in sorted(deltas.items())
    ]
    table(["D", "D/N", "W4A4, G = 32"], lines)


def layers(rows: list[Row]) -> None:
    """Single layers, the costliest first."""
    print("Layers\n")
    (found,) = decompose(rows)
    lines = [
        [f"`{name}`", shown(cost), f"{100 * cost.value / found.both.value:.0f} %"]
        for name, cost in found.layers.items()
    ]
    table(["input of", "less without it", "of delta"], lines)


def annealing(rows: list[Row]) -> None:
    """OFQ, annealed for longer and longer."""
    formats(rows, "w4a4:g32,q=statsq/lsq", "Annealing")


def products(rows: list[Row]) -> None:
    """With the product of query and key weights."""
    formats(rows, "w4a4:g32", "Products")


def _mean(values: list[float]) -> str:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return shown(Mean(fmean(values), error))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for draw in (trends, modes, formats, early, layers, annealing, products):
        if (folder / draw.__name__).is_dir():
            draw(observations(folder / draw.__name__))
