"""Methods of quantization after training against each other, on the same runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from qscale import laws
from qscale.errors import FitError, LawError
from qscale.laws.contrasts import Contrast
from qscale.report.canvas import LEVEL
from qscale.report.sources import Group, Source, default_form, groups
from qscale.report.values import (
    NOT_KNOWN,
    Value,
    axis,
    between,
    count,
    figure,
    log_axis,
    number,
    panel,
    part,
    percent,
    section,
    series,
    table,
)

TITLE = "Methods"
_MOST = 48  # contrasts that are fitted
_DRAWS = 200
_PLAIN = "rtn"


def methods(source: Source) -> Value:
    """Each method over rounding to nearest: the ratio of deltas over the runs that both have."""
    found = [group for group in groups(source.measured) if group.method]
    by_recipe: dict[tuple[str | None, str | None], list[Group]] = {}
    for group in found:
        by_recipe.setdefault((group.mode, group.recipe), []).append(group)
    several = {key: own for key, own in by_recipe.items() if len(own) > 1}
    if not several:
        only = sorted({str(group.method) for group in found})
        why = f"There is one method only: {only[0]}." if only else "No run was quantized after training."
        return section("methods", TITLE, remark=f"{why} There is nothing to compare.")
    rows: list[tuple[str, ...]] = []
    points: dict[str, list[tuple[str, float, float, float]]] = {}
    left = 0
    for (_, recipe), own in several.items():
        against = _reference(own)
        for group in own:
            if group.method == against:
                continue
            if len(rows) >= _MOST:
                left += 1
                continue
            row, point = _compare([*own], group, against)
            rows.append((f"{recipe}", f"{group.method} / {against}", *row))
            if point is not None:
                points.setdefault(str(recipe), []).append((str(group.method), *point))
    head = (
        "recipe",
        "ratio of",
        "pairs",
        "median ratio",
        f"at the middle, {LEVEL:.0%}",
        "draws below 1",
        "where",
    )
    more = [f"{left} more pairs were not fitted: name a recipe with --recipe."] if left else []
    data = table("Ratios of deltas, by laws of the ratio over paired runs", head, rows)
    return section(
        "methods",
        TITLE,
        part(text=more, figures=[_figure(points, rows)] if points else [], tables=[data]),
        intro="A ratio below 1 says that the first method costs less. The law of the ratio is fitted to runs "
        "that agree in all but the method, so that the noise of their common baseline cancels.",
    )


def _reference(own: Sequence[Group]) -> str:
    """Rounding to nearest; without it the method with most runs."""
    names = [str(group.method) for group in own]
    return _PLAIN if _PLAIN in names else names[0]


def _compare(
    own: Sequence[Group], group: Group, against: str
) -> tuple[tuple[str, ...], tuple[float, float, float] | None]:
    """The cells of one row, and the ratio with its interval where there is a law."""
    rows = [row for each in own for row in each.rows if each.method in (group.method, against)]
    try:
        with np.errstate(all="ignore"):
            found = laws.contrast(
                rows, str(group.method), against, form=default_form(group.rows), bootstrap=_DRAWS, level=LEVEL
            )
    except (LawError, FitError) as error:
        return (NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, str(error)), None
    ratio = number(_median(rows, str(group.method), against), 3)
    if not found.law.usable or found.law.reference is None:
        return (str(found.pairs), ratio, NOT_KNOWN, NOT_KNOWN, found.law.status), None
    at: dict[str, Any] = {**found.law.reference.at}
    value = float(found.law.predict(**at))
    low, high = found.law.interval(level=LEVEL, **at)
    where = ", ".join(f"{name} {count(v)}" for name, v in at.items())
    interval = f"{number(value, 3)}, {between(low, high, 3)}"
    return (_pairs(found), ratio, interval, percent(found.share_below(**at)), where), (value, low, high)


def _pairs(found: Contrast) -> str:
    extra = f", {found.not_positive} not positive" if found.not_positive else ""
    return f"{found.pairs}{extra}"


def _median(rows: Sequence[dict[str, Any]], first: str, second: str) -> float | None:
    sides: dict[str, dict[tuple[Any, ...], float]] = {first: {}, second: {}}
    for row in rows:
        key = tuple(row.get(name) for name in ("family", "N", "D", "G", "seed", "recipe"))
        sides[str(row["method"])][key] = float(row["delta"])
    both = [
        value / sides[second][key] for key, value in sides[first].items() if sides[second].get(key, 0.0) > 0
    ]
    return float(np.median(both)) if both else None


def _figure(
    points: dict[str, list[tuple[str, float, float, float]]], rows: Sequence[tuple[str, ...]]
) -> Value:
    names = [name for name, _ in Counter(p[0] for own in points.values() for p in own).most_common()]
    panels = []
    for recipe, own in list(points.items())[:6]:
        shown = [name for name in reversed(names) if any(p[0] == name for p in own)]
        by_name = {p[0]: p for p in own}
        ends = [value for p in own for value in p[1:]] + [1.0]
        view = (0.93 * min(ends), 1.07 * max(ends))
        drawn = [
            series(
                "equal",
                [1, 1],
                [-0.5, len(shown) - 0.5],
                kind="line",
                color="grey",
                dash="dash",
                legend=False,
            )
        ]
        for i, name in enumerate(shown):
            _, value, low, high = by_name[name]
            better = 2 if high < 1 else 1 if low > 1 else 0
            drawn.append(series(name, [low, high], [i, i], kind="line", color=better, legend=False))
            drawn.append(
                series(name, [value], [i], color=better, legend=False, text=[f"{name}: {value:.3g}"])
            )
        x = log_axis(f"delta over that of {_against(rows, recipe)}", view, view)
        panels.append(panel(recipe, x, axis("", names=shown), drawn))
    best = min((p for own in points.values() for p in own), key=lambda p: p[1])
    return figure(
        "methods",
        f"Delta of each method over the plain one at the middle of the runs, with {LEVEL:.0%} intervals; "
        "green: below 1, orange: above 1.",
        f"Ratios for {len(points)} recipes. The least is {best[1]:.3g}, of {best[0]}.",
        panels,
        wide=True,
    )


def _against(rows: Sequence[tuple[str, ...]], recipe: str) -> str:
    return next(row[1].partition(" / ")[2] for row in rows if row[0] == recipe)
