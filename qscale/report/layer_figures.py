"""Figures of the layers: what quantization does to each, and how heavy the tails of its input are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qscale.errors import StoreError
from qscale.report.canvas import (
    COLORS,
    GREY,
    MARKERS,
    legend_beside,
    log_ticks,
    new_figure,
    plain,
    save,
    words,
)
from qscale.units import short_count

_PANELS = {
    "weight_relmse": "relative error of weights",
    "input_relmse": "relative error of inputs",
    "input_kurtosis": "kurtosis of inputs (normal: 3)",
    "input_peak": "largest over median input",
}


def layer_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> int:
    """Errors of weights and inputs, kurtosis and peaks, layer by layer; a line for each recipe.

    Of several sizes, token counts and seeds the runs of the largest N, then of the largest D, then of the
    first seed are drawn, six recipes at most.

    Args:
        rows: As :func:`qscale.sweep.table.layer_rows` gives them.
        path: Ends in .png, .svg or .pdf.

    Returns:
        How many layers are drawn, over all lines.

    Raises:
        StoreError: There are no rows, or the file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    if not rows:
        raise StoreError("no finished run has looked at its layers: train again, or name other runs")
    for name, best in (("N", max), ("D", max), ("seed", min)):
        value = best(row[name] for row in rows)
        rows = [row for row in rows if row[name] == value]
    found = list(dict.fromkeys((row["recipe"], row["mode"]) for row in rows))
    runs = found[: len(COLORS)]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure, axes = new_figure(4, across=2, size=(4.2, 2.6), beside=1.9)
    drawn = 0
    for axis, (field, title) in zip(axes, _PANELS.items(), strict=True):
        for (recipe, mode), color, marker in zip(runs, COLORS, MARKERS, strict=False):
            own = {row["layer"]: row[field] for row in rows if (row["recipe"], row["mode"]) == (recipe, mode)}
            places = [i for i, layer in enumerate(layers) if own.get(layer) is not None]
            label = "unquantized" if recipe == "none" else f"{recipe}\n{mode}"
            values = [own[layers[i]] for i in places]
            axis.plot(places, values, marker=marker, markersize=3.5, linewidth=1, color=color, label=label)
            drawn += len(places)
        axis.set_title(title, fontsize=9)
        plain(axis)
        _name_layers(axis, layers)
        if axis.lines:
            log_ticks(axis, "y")
    legend_beside(figure, axes[-1])
    first = rows[0]
    part = f"; the first {len(runs)} of {len(found)} recipes" if len(found) > len(runs) else ""
    words(
        figure,
        f"Layers of {short_count(first['N'])} parameters after {short_count(first['D'])} tokens",
        "on held-out sequences at the end of training, seed "
        f"{first['seed']}; relative errors are E[(q - x)^2] / E[x^2]{part}",
    )
    save(figure, path)
    return drawn


def _name_layers(axis: Any, layers: Sequence[str]) -> None:
    """Ticks at the layers of the first block, and a faint line before each further block."""
    blocks = [next((part for part in layer.split(".") if part.isdigit()), "") for layer in layers]
    short = [layer.rpartition(".")[2].removesuffix("_proj") for layer in layers]
    if len(layers) <= 32:
        axis.set_xticks(range(len(layers)), short, rotation=90, fontsize=6)
    else:
        axis.set_xticks([])
    for i in range(1, len(layers)):
        if blocks[i] != blocks[i - 1]:
            axis.axvline(i - 0.5, color=GREY, linewidth=0.5, alpha=0.5)
