"""Figures of laws alone: lines of equal delta over N and D, and several laws along G."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import LawError
from qscale.laws import Law
from qscale.laws.forms import FloatArray
from qscale.report.canvas import (
    COLORS,
    GREY,
    LEVEL,
    legend_beside,
    log_ticks,
    new_figure,
    plain,
    round_values,
    save,
    short,
    words,
)

_BEYOND = 4.0  # times that a map of N and D reaches past the fitted box
_GRID = 80  # points along each axis of a map, and along G
_LINES = 8  # of equal delta, at least
_DARK = 0.8  # of a color map: its bright end is lost on white
_STYLES = ("-", "--", "-.", ":")


def contour_figure(law: Law, path: Path, *, groups: Sequence[float] = ()) -> None:
    """Lines of equal delta over N and D, a panel for each G, with the box that was fitted.

    Outside the box the lines are an extrapolation.

    Args:
        law: A law of delta in N and D, or in N, D and G.
        path: Ends in .png, .svg or .pdf.
        groups: Elements that share a scale; wanted where the law has G, and only there.

    Raises:
        LawError: The law is one of something else or cannot be evaluated, or the groups do not go with it.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    names = {v.name for v in law.form.variables}
    if law.form.target != "delta" or names not in ({"N", "D"}, {"N", "D", "G"}):
        raise LawError(f"{_name(law)} is {law.form.formula}; contours take delta(N, D) or delta(N, D, G)")
    if bool(groups) != ("G" in names):
        has = "has G: name one or more" if "G" in names else "has no G: name none"
        raise LawError(f"{_name(law)} {has}, {law.form.formula}")
    at: list[dict[str, float]] = [{"G": float(g)} for g in groups] or [{}]
    n, d = (np.geomspace(law.box[v][0] / _BEYOND, law.box[v][1] * _BEYOND, _GRID) for v in "ND")
    sizes, tokens = np.meshgrid(n, d)
    maps = [np.asarray(law.predict(N=sizes, D=tokens, **other)) for other in at]
    levels = round_values(min(m.min() for m in maps), max(m.max() for m in maps), _LINES)
    figure, axes = new_figure(len(at), across=3, size=(4.0, 3.9), share_y=True)
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    norm = LogNorm(levels[0], max(levels[-1], levels[0] * 1.001))
    shades = ListedColormap(colormaps["viridis"](np.linspace(0, _DARK, 256)))
    for axis, other, values in zip(axes, at, maps, strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        _box(axis, law)
        lines = axis.contour(sizes, tokens, values, levels=levels, cmap=shades, norm=norm, linewidths=1.3)
        axis.clabel(lines, fmt=short, fontsize=7, colors="black", manual=_label_places(lines, law, (n, d)))
        axis.set_xlabel("N, parameters", fontsize=9)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("D, training tokens", fontsize=9)
        if other:
            axis.set_title(f"G = {short(other['G'])}{_outside(law, other)}", fontsize=9)
        plain(axis)
        for which in "xy":
            log_ticks(axis, which)
    words(
        figure,
        f"delta, {law.form.unit}, of law {_name(law)}\n{law.form.formula}",
        "dashed box: the sizes and data that were fitted; beyond it the lines are extrapolated",
    )
    save(figure, path)


def group_figure(
    laws: Mapping[str, Law],
    path: Path,
    *,
    points: Sequence[tuple[float, float]],
    groups: tuple[float, float] | None = None,
) -> None:
    """Delta, or loss, against G at given N and D, of several laws side by side.

    A panel for each point. Where a law is outside the G that it was fitted on, its line is thin.

    Args:
        laws: By the name that the legend gives each; of one target, in N, D and G.
        path: Ends in .png, .svg or .pdf.
        points: Pairs of N and D.
        groups: The ends of the axis of G; by default those of all the laws' boxes.

    Raises:
        LawError: There is no law or point, or a law has another target or variables, or cannot be evaluated.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    if not laws or not points:
        raise LawError("a figure along G takes a law or more, and one or more points of N and D")
    if len(laws) > len(COLORS):
        raise LawError(f"{len(laws)} laws in one figure; {len(COLORS)} can be told apart")
    for name, law in laws.items():
        if {v.name for v in law.form.variables} != {"N", "D", "G"}:
            raise LawError(f"law {name!r} is {law.form.formula}; a figure along G takes laws in N, D and G")
    targets = {law.form.target for law in laws.values()}
    if len(targets) > 1:
        raise LawError(f"laws of {' and '.join(sorted(targets))} do not share an axis")
    first = next(iter(laws.values())).form
    low, high = groups or (
        min(law.box["G"][0] for law in laws.values()),
        max(law.box["G"][1] for law in laws.values()),
    )
    if not 1 < low < high:
        raise LawError(f"G from {low:g} to {high:g}: an axis of G goes up from more than 1")
    along = np.geomspace(low, high, _GRID)
    figure, axes = new_figure(len(points), across=3, size=(3.8, 3.6), share_y=True, beside=2.0)
    for axis, (n, d) in zip(axes, points, strict=True):
        for i, (name, law) in enumerate(laws.items()):
            _law_line(axis, law, name, along, (n, d), i)
        axis.set_title(f"N = {short(n)}, D = {short(d)}", fontsize=9)
        axis.set_xlabel("G, elements that share one scale", fontsize=9)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(f"{first.target}, {first.unit}", fontsize=9)
        axis.set_xlim(low, high)
        plain(axis)
        log_ticks(
            axis, "x", [2.0**k for k in range(21) if low <= 2.0**k <= high] or None, label="{:g}".format
        )
    legend_beside(figure, axes[0])
    bands = f"bands: {LEVEL:.0%} intervals of the mean law, of laws with draws; thin: outside the fitted G"
    far: dict[str, list[str]] = {}
    for name, law in laws.items():
        far.setdefault(_far(law, points), []).append(name)
    outside = [
        f"{'all laws' if len(names) == len(laws) else ', '.join(names)}: {text}"
        for text, names in far.items()
        if text
    ]
    words(figure, f"{first.target} against G", "; ".join([bands, *outside]))
    save(figure, path)


def _law_line(axis: Any, law: Law, name: str, along: FloatArray, point: tuple[float, float], i: int) -> None:
    color, style = COLORS[i], _STYLES[i % len(_STYLES)]
    at: dict[str, Any] = {"N": point[0], "D": point[1], "G": along}
    value = np.asarray(law.predict(**at))
    inside = (law.box["G"][0] <= along) & (along <= law.box["G"][1])
    axis.plot(along, value, color=color, linewidth=0.8, linestyle=style)
    axis.plot(along, np.where(inside, value, np.nan), color=color, linewidth=2.2, linestyle=style, label=name)
    if law.draws_table is not None:
        low, high = law.interval(level=LEVEL, **at)
        axis.fill_between(along, low, high, color=color, alpha=0.15, linewidth=0)


def _far(law: Law, points: Sequence[tuple[float, float]]) -> str:
    """How far the points are from the sizes and data of a law, where they are outside."""
    far = {
        variable: max(law.outside(N=n, D=d, G=law.box["G"][0])[variable] for n, d in points)
        for variable in "ND"
    }
    said = " and ".join(f"{variable} up to {x:.2g} times" for variable, x in far.items() if x > 1)
    return f"{said} outside the fitted box" if said else ""


def _label_places(lines: Any, law: Law, ends: tuple[FloatArray, FloatArray]) -> list[tuple[float, float]]:
    """Where the numbers stand: above the fitted box where a line gets there, and off the panel's edges."""
    margin = _BEYOND**0.3
    (n0, n1), (d0, d1) = ((values[0] * margin, values[-1] / margin) for values in ends)
    height = law.box["D"][1] * np.sqrt(_BEYOND)
    places = []
    for line in lines.allsegs:
        for points in line:
            x, y = points.T
            inside = points[(n0 < x) & (x < n1) & (d0 < y) & (y < d1)]
            if len(inside):
                places.append(tuple(inside[np.argmin(np.abs(np.log(inside[:, 1] / height)))]))
    return places


def _box(axis: Any, law: Law) -> None:
    from matplotlib.patches import Rectangle

    (n0, n1), (d0, d1) = law.box["N"], law.box["D"]
    axis.add_patch(
        Rectangle(
            (n0, d0), n1 - n0, d1 - d0, facecolor="#f0f0f0", edgecolor=GREY, linestyle="--", linewidth=1.2
        )
    )


def _outside(law: Law, other: Mapping[str, float]) -> str:
    times = law.outside(N=law.box["N"][0], D=law.box["D"][0], **other)["G"]
    return f", {times:.2g} times outside the fitted G" if times > 1 else ""


def _name(law: Law) -> str:
    return repr(law.name or law.form.id)
