"""Figures: measured points with their errors, and the law drawn through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import QScaleError, StoreError
from qscale.laws import Law
from qscale.units import short_count

_LEVEL = 0.9
_COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#7d4f9e", "#c98a1b", "#4a4a4a")
_GREY = "#555555"


def law_figure(observations: Sequence[Mapping[str, Any]], law: Law, path: Path) -> None:
    """Measured delta against D, a panel for each N and a color for each G, with the law and its band.

    The last panel holds every prediction against its measurement. Error bars are one standard error of the
    evaluation; the band is the law's 90 % interval where it has draws.

    Args:
        observations: Rows with N, D, G, delta and, where known, delta_se.
        law: A law in N, D and G.
        path: Ends in .png, .svg or .pdf.

    Raises:
        StoreError: No observation has a delta, or the file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    rows = [row for row in observations if row.get("delta") is not None and row.get("G") is not None]
    if not rows:
        raise StoreError("there is no finished quantized run to draw: run the study first")
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise QScaleError("figures need matplotlib: pip install 'qscale[report]'") from error

    sizes = sorted({row["N"] for row in rows})
    groups = sorted({row["G"] for row in rows})
    colors = {g: _COLORS[i % len(_COLORS)] for i, g in enumerate(groups)}
    columns = len(sizes) + 1
    figure = Figure(figsize=(3.1 * columns, 3.4), layout="constrained", dpi=130)
    axes = figure.subplots(1, columns)
    top = 1.12 * max(row["delta"] + (row.get("delta_se") or 0) for row in rows)
    for axis, n in zip(axes, sizes, strict=False):
        _size_panel(axis, [row for row in rows if row["N"] == n], law, colors)
        axis.set_title(f"N = {short_count(n)}", fontsize=10)
        axis.set_ylim(0, top)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    axes[0].set_ylabel("delta, nats per token")
    handles = [
        Line2D([], [], color=colors[g], marker="o", markersize=4.5, label=f"G = {g:g}") for g in groups
    ]
    axes[0].legend(handles=handles, title="elements per scale", fontsize=8, title_fontsize=8, frameon=False)
    _agreement_panel(axes[-1], rows, law, colors)
    figure.suptitle(_title(rows, law), fontsize=10)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"figure {str(path)!r} cannot be written: {error}") from error


def _size_panel(axis: Any, rows: list[Mapping[str, Any]], law: Law, colors: Mapping[float, str]) -> None:
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
            axis.plot(tokens, law.predict(N=n, D=tokens, G=g), color=colors[g], linewidth=1.5)
        if law.usable and law.draws_table is not None:
            low, high = law.interval(level=_LEVEL, N=n, D=tokens, G=g)
            axis.fill_between(tokens, low, high, color=colors[g], alpha=0.13, linewidth=0)
    axis.set_xscale("log")
    ticks = sorted({row["D"] for row in rows})
    axis.set_xticks(ticks, [short_count(tick) for tick in ticks], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("D, training tokens")
    _plain(axis)


def _agreement_panel(axis: Any, rows: list[Mapping[str, Any]], law: Law, colors: Mapping[float, str]) -> None:
    if not law.usable:
        axis.text(0.5, 0.5, f"no law:\n{law.status}", ha="center", va="center", color=_GREY, wrap=True)
        axis.set_axis_off()
        return
    predicted = np.array([law.predict(N=row["N"], D=row["D"], G=row["G"]) for row in rows])
    measured = np.array([row["delta"] for row in rows])
    limits = np.array(
        [0.9 * min(predicted.min(), measured.min()), 1.1 * max(predicted.max(), measured.max())]
    )
    axis.plot(limits, limits, color=_GREY, linewidth=1)
    axis.scatter(measured, predicted, s=18, c=[colors[row["G"]] for row in rows], zorder=3)
    error = float(np.mean(np.abs(predicted - measured) / measured))
    axis.set_title(f"mean relative error {100 * error:.1f} %", fontsize=10)
    axis.set_xlabel("measured delta")
    axis.set_ylabel("predicted delta")
    axis.set_xlim(limits)
    axis.set_ylim(limits)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2, linewidth=0.6)


def _title(rows: list[Mapping[str, Any]], law: Law) -> str:
    recipes = sorted({str(row.get("recipe", "")).partition(":")[0] for row in rows} - {""})
    modes = sorted({str(row.get("mode", "")) for row in rows} - {""})
    constants = ", ".join(f"{k} = {v:.3g}" for k, v in law.parameters.items() if v is not None)
    what = " and ".join(recipe.upper() for recipe in recipes) + (
        f", mode {', '.join(modes)}" if modes else ""
    )
    return f"{what}: {law.form.formula}\n{constants}" if law.usable else what
