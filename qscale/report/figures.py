"""Figures: measured points with their errors, and the law drawn through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import LawError, StoreError
from qscale.formats.recipe import without_span
from qscale.laws import Law
from qscale.report.canvas import COLORS, GREY, LEVEL, log_ticks, new_figure, plain, save
from qscale.units import short_count


def law_figure(observations: Sequence[Mapping[str, Any]], law: Law, path: Path) -> None:
    """Measured delta against D, a panel for each N and a color for each G, with the law and its band.

    The last panel holds every prediction against its measurement. Error bars are one standard error of the
    evaluation; the band is the 90% interval of the mean law, not of a single run, where the law has draws.
    The title says what was measured and, on its own line, which law is drawn, and where the law is of another
    mode, recipe or method than the points.

    Args:
        observations: Rows with N, D, G, delta and, where known, delta_se, mode, recipe and method.
        law: A law of delta in N, D and G.
        path: Ends in .png, .svg or .pdf.

    Raises:
        StoreError: No observation has a delta, or the file cannot be written.
        LawError: The law is one of something else.
        QScaleError: matplotlib is not installed.
    """
    rows = [row for row in observations if row.get("delta") is not None and row.get("G") is not None]
    if not rows:
        raise StoreError("there is no finished quantized run to draw: run the study first")
    if law.form.target != "delta" or {v.name for v in law.form.variables} != {"N", "D", "G"}:
        raise LawError(
            f"law {law.name or law.form.id!r} is {law.form.formula}; the figure takes delta(N, D, G)"
        )
    sizes = sorted({row["N"] for row in rows})
    groups = sorted({row["G"] for row in rows})
    colors = {g: COLORS[i % len(COLORS)] for i, g in enumerate(groups)}
    columns = len(sizes) + 1
    figure, axes = new_figure(columns, across=columns, size=(3.1, 4.0))
    from matplotlib.lines import Line2D

    heights = [row["delta"] + sign * (row.get("delta_se") or 0) for row in rows for sign in (-1, 1)]
    for axis, n in zip(axes, sizes, strict=False):
        heights += _size_panel(axis, [row for row in rows if row["N"] == n], law, colors)
        axis.set_title(f"N = {short_count(n)}", fontsize=10)
    for axis in axes[:-1]:
        axis.set_ylim(min(0.0, 1.12 * min(heights)), 1.12 * max(heights))
        if axis is not axes[0] and not axis.get_subplotspec().is_first_col():
            axis.set_yticklabels([])
    axes[0].set_ylabel("delta, nats per token")
    handles = [
        Line2D([], [], color=colors[g], marker="o", markersize=4.5, label=f"G = {g:g}") for g in groups
    ]
    axes[0].legend(handles=handles, title="elements per scale", fontsize=8, title_fontsize=8, frameon=False)
    _agreement_panel(axes[-1], rows, law, colors)
    figure.suptitle(_title(rows, law), fontsize=10)
    figure.supxlabel(_caption(law), fontsize=7, color=GREY)
    save(figure, path)


def _size_panel(
    axis: Any, rows: list[Mapping[str, Any]], law: Law, colors: Mapping[float, str]
) -> list[float]:
    """Draws one size; returns the heights that the law reaches, for the common limits."""
    heights: list[float] = []
    n = rows[0]["N"]
    tokens = np.geomspace(min(row["D"] for row in rows) * 0.85, max(row["D"] for row in rows) * 1.18, 60)
    for g in sorted({row["G"] for row in rows}):
        chosen = [row for row in rows if row["G"] == g]
        axis.errorbar(
            [row["D"] for row in chosen],
            [row["delta"] for row in chosen],
            yerr=[row.get("delta_se") or 0.0 for row in chosen],
            fmt="o",
            markersize=4.5,
            color=colors[g],
            capsize=2,
            linewidth=1,
        )
        if law.usable:
            curve = law.predict(N=n, D=tokens, G=g)
            heights += [float(curve.min()), float(curve.max())]
            axis.plot(tokens, curve, color=colors[g], linewidth=1.5)
        if law.usable and law.draws_table is not None:
            low, high = law.interval(level=LEVEL, N=n, D=tokens, G=g)
            axis.fill_between(tokens, low, high, color=colors[g], alpha=0.13, linewidth=0)
    log_ticks(axis, "x", {row["D"] for row in rows}, label=short_count)
    axis.set_xlabel("D, training tokens")
    plain(axis)
    return heights


def _agreement_panel(axis: Any, rows: list[Mapping[str, Any]], law: Law, colors: Mapping[float, str]) -> None:
    if not law.usable:
        axis.text(0.5, 0.5, f"no law:\n{law.status}", ha="center", va="center", color=GREY, wrap=True)
        axis.set_axis_off()
        return
    predicted = np.array([law.predict(N=row["N"], D=row["D"], G=row["G"]) for row in rows])
    measured = np.array([row["delta"] for row in rows])
    low = min(predicted.min(), measured.min())
    limits = np.array([(0.9 if low > 0 else 1.1) * low, 1.1 * max(predicted.max(), measured.max())])
    axis.plot(limits, limits, color=GREY, linewidth=1)
    axis.scatter(measured, predicted, s=18, c=[colors[row["G"]] for row in rows], zorder=3)
    positive = measured > 0  # the others have no relative error
    if positive.any():
        error = float(np.mean(np.abs(predicted[positive] / measured[positive] - 1)))
        axis.set_title(f"mean relative error {100 * error:.1f}%", fontsize=10)
    axis.set_xlabel("measured delta")
    axis.set_ylabel("predicted delta")
    axis.set_xlim(limits)
    axis.set_ylim(limits)
    plain(axis)


def _title(rows: list[Mapping[str, Any]], law: Law) -> str:
    """What the points are; then the law, and in what it is not the points' own; then its constants."""
    measured = {
        "recipe": sorted({without_span(str(row.get("recipe") or "")) for row in rows} - {""}),
        "mode": sorted({str(row.get("mode") or "") for row in rows} - {""}),
        "method": sorted({str(row.get("method") or "") for row in rows} - {""}),
    }
    said = [f"{name} {' and '.join(values)}" for name, values in measured.items() if values]
    points = ", ".join([f"points: {len(rows)} runs", *said])
    if not law.usable:
        return points
    constants = ", ".join(f"{k} = {v:.3g}" for k, v in law.parameters.items() if v is not None)
    other = [
        f"{name} {law.quantization[name]}"
        for name, values in measured.items()
        if law.quantization.get(name) and values and values != [law.quantization[name]]
    ]
    differs = f" (of {', '.join(other)}, other than the points)" if other else ""
    return f"{points}\nlines: law {law.name or law.form.id}{differs}\n{law.form.formula}: {constants}"


def _caption(law: Law) -> str:
    bars = "bars: one s.e. of the evaluation"
    if not law.usable:
        return bars
    band = f"bands: {100 * LEVEL:.0f}% interval of the mean law, not of a single run"
    return f"{bars}; {band if law.draws_table is not None else 'no bands: the law has no draws'}"
