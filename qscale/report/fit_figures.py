"""Figures of a law and its rows: measured against fitted, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import LawError
from qscale.laws import Law
from qscale.laws.forms import FloatArray
from qscale.laws.table import Table, read_table
from qscale.report.canvas import (
    COLORS,
    GREY,
    LEVEL,
    MARKERS,
    legend_beside,
    log_ticks,
    new_figure,
    plain,
    running_median,
    save,
    short,
    words,
)

_MOST_LEVELS = 4  # whose names stand side by side below a panel; more are turned
_NORMAL_90 = 1.645


def fit_figure(
    table: Any,
    law: Law,
    path: Path,
    *,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
) -> None:
    """Measured against fitted, both axes logarithmic.

    Horizontal bars are the 90% interval of the mean law at each run, where the law has draws; vertical ones
    one standard error of the evaluation. The band about the line is where 90% of single runs are to be
    expected, from the scatter of these. Rows with a delta that is not positive have no place on the axes;
    the title counts them.

    Args:
        table: Rows, as :func:`qscale.laws.fit` takes them.
        law: A law with the rows' variables and target.
        path: Ends in .png, .svg or .pdf.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.

    Raises:
        LawError: The law cannot be evaluated, or the rows do not go with it.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    data = read_table(table, law.form, mode=mode, recipe=recipe, method=method)
    at = inputs_of(data)
    fitted, measured = np.asarray(law.predict(**at)), data.target
    shown = measured > 0
    if not shown.any():
        raise LawError(f"no row has a positive {law.form.target} to draw on a logarithmic axis")
    figure, (axis,) = new_figure(1, across=1, size=(5.6, 5.4))
    low, high = law.interval(level=LEVEL, **at) if law.draws_table is not None else (fitted, fitted)
    for color, marker, label, here in _kinds(data):
        here = here & shown
        axis.errorbar(
            fitted[here],
            measured[here],
            xerr=np.maximum([fitted[here] - low[here], high[here] - fitted[here]], 0.0),
            yerr=np.minimum(data.target_se_given[here], 0.99 * measured[here]),
            fmt=marker,
            markersize=4,
            color=color,
            elinewidth=0.7,
            alpha=0.8,
            label=label,
        )
    ends = np.array([min(low.min(), measured[shown].min()), max(high.max(), measured[shown].max())])
    ends = ends * (ends[1] / ends[0]) ** np.array([-0.05, 0.05])
    scatter = float(np.sqrt(np.mean(np.log(measured[shown] / fitted[shown]) ** 2)))
    spread = np.exp(_NORMAL_90 * scatter)
    axis.plot(ends, ends, color=GREY, linewidth=1)
    axis.fill_between(ends, ends / spread, ends * spread, color=GREY, alpha=0.13, linewidth=0)
    axis.set_xlim(ends)
    axis.set_ylim(ends)
    axis.set_xlabel(f"fitted {law.form.target}, {law.form.unit}")
    axis.set_ylabel(f"measured {law.form.target}, {law.form.unit}")
    _legend(axis, data)
    plain(axis)
    for which in "xy":
        log_ticks(axis, which)
    error = float(np.mean(np.abs(fitted[shown] / measured[shown] - 1)))
    gone = int(np.sum(~shown))
    left = f"; {gone} with a {law.form.target} that is not positive are not drawn" if gone else ""
    known = f"bars across: {LEVEL:.0%} interval of the mean law"
    bars = [known if law.draws_table is not None else "no bars across: the law has no draws"]
    bars += ["bars up: one s.e. of the evaluation"] if data.target_se_given.any() else []
    words(
        figure,
        f"{len(data)} runs, mean relative error {100 * error:.2g}%{left}\n{_named(law)}",
        "; ".join([*bars, f"band: {LEVEL:.0%} of single runs, by their scatter of {100 * scatter:.2g}%"]),
    )
    save(figure, path)


def residual_figure(
    table: Any,
    law: Law,
    path: Path,
    *,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
) -> None:
    """What the law leaves, ``measured / fitted - 1``, against each variable and, where both are, D / N.

    A line through the running medians shows where the rows bend away from the form.

    Args:
        table: Rows, as :func:`qscale.laws.fit` takes them.
        law: A law with the rows' variables and target.
        path: Ends in .png, .svg or .pdf.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.

    Raises:
        LawError: The law cannot be evaluated, or the rows do not go with it.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    data = read_table(table, law.form, mode=mode, recipe=recipe, method=method)
    left = 100 * (data.target / np.asarray(law.predict(**inputs_of(data))) - 1)
    panels = {f"{v.name}, {v.unit}": (data.variables[v.name], v.levels) for v in data.form.variables}
    if {"N", "D"} <= set(data.variables):
        panels["D / N, tokens per parameter"] = (data.variables["D"] / data.variables["N"], ())
    figure, axes = new_figure(len(panels), across=3, size=(3.8, 3.1), share_y=True, beside=1.5)
    for axis, (label, (x, levels)) in zip(axes, panels.items(), strict=True):
        for color, marker, kind, here in _kinds(data):
            axis.plot(x[here], left[here], marker, color=color, markersize=3.5, alpha=0.75, label=kind)
        axis.axhline(0.0, color=GREY, linewidth=1)
        axis.plot(*_median_line(x, left, levels), color="black", linewidth=1.6, label="running median")
        axis.set_xlabel(label, fontsize=9)
        plain(axis)
        if levels:
            _name_levels(axis, levels)
        elif (x > 0).all():
            log_ticks(axis, "x", x if len(np.unique(x)) <= len(COLORS) else None)
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("measured / fitted - 1, %", fontsize=9)
    legend_beside(figure, axes[0])
    words(
        figure,
        f"what a law leaves of {len(data)} runs\n{_named(law)}",
        "a median that bends away from zero along an axis: the form lacks something there",
    )
    save(figure, path)


def _median_line(x: FloatArray, left: FloatArray, levels: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """The running median along an axis as it is drawn: logarithmic, or of levels, without neighbours."""
    if levels:
        values = np.unique(x)
        return values, np.array([np.median(left[x == value]) for value in values])
    if (x > 0).all():
        at, middle = running_median(np.log(x), left)
        return np.exp(at), middle
    return running_median(x, left)


def inputs_of(data: Table) -> dict[str, Any]:
    """The variables as a law takes them: levels by their names."""
    return {
        v.name: np.array(v.levels)[data.variables[v.name].astype(int) - 1]
        if v.levels
        else data.variables[v.name]
        for v in data.form.variables
    }


def _kinds(data: Table) -> list[tuple[str, str, str, Any]]:
    """Color, marker, label and rows of each value of the last variable that has few."""
    for v in reversed(data.form.variables):
        column = data.variables[v.name]
        values = np.unique(column)
        if 1 < len(values) <= len(COLORS):
            names = [v.levels[int(x) - 1] if v.levels else short(float(x)) for x in values]
            return [
                (COLORS[i], MARKERS[i], f"{v.name} = {name}", column == values[i])
                for i, name in enumerate(names)
            ]
    return [(COLORS[0], MARKERS[0], "runs", np.ones(len(data), dtype=bool))]


def _legend(axis: Any, data: Table) -> None:
    if len(_kinds(data)) > 1:
        axis.legend(fontsize=8, frameon=False, loc="upper left")


def _name_levels(axis: Any, levels: Sequence[str]) -> None:
    many = len(levels) > _MOST_LEVELS
    axis.set_xticks(range(1, 1 + len(levels)), levels, fontsize=8, rotation=90 if many else 0)


def _named(law: Law) -> str:
    return f"law {law.name or law.form.id.partition('[')[0]}: {law.form.formula}"
