"""Figures of a fitted law: against D, along each variable, measured against fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qscale.laws import Law
from qscale.laws.forms import FloatArray
from qscale.laws.table import Table
from qscale.report.canvas import COLORS, LEVEL, short
from qscale.report.fit_figures import inputs_of
from qscale.report.sources import Fit
from qscale.report.values import (
    SOME_ROWS,
    Value,
    axis,
    count,
    figure,
    log_axis,
    number,
    panel,
    percent,
    series,
    some,
    table,
)

_MOST_PANELS = 6
_POINTS = 33  # of a line of the law
_MOST_DOTS = 1500  # runs that one figure draws
_BEYOND = 1.25  # times that a line reaches past its points


def thinned(data: Table) -> Table:
    """At most so many rows as a figure draws, evenly chosen along the variables."""
    if len(data) <= _MOST_DOTS:
        return data
    order = np.lexsort([data.variables[v.name] for v in reversed(data.form.variables)])
    kept = np.sort(some(list(order), _MOST_DOTS))
    return replace(
        data,
        variables={name: column[kept] for name, column in data.variables.items()},
        target=data.target[kept],
        target_se=data.target_se[kept],
        target_se_given=data.target_se_given[kept],
        cell=data.cell[kept],
        ladder=data.ladder[kept],
        format=data.format[kept],
        rows=tuple(data.rows[int(i)] for i in kept),
    )


def thin_text(whole: Table) -> str:
    return f"{_MOST_DOTS} of {len(whole)} runs are drawn, evenly chosen; the law is fitted to all."


def style_of(place: int, total: int) -> dict[str, Any]:
    """Color and symbol of one of several values in order: of the palette while it lasts, then of a ramp."""
    if total <= len(COLORS):
        return {"color": place, "symbol": place}
    return {"color": f"ramp:{place / (total - 1):.3f}"}


def points_only(fit: Fit, place: int) -> list[Value]:
    """Delta against D where no law can be drawn."""
    rows = [row for row in fit.group.rows if row.get("delta") is not None and row.get("N") and row.get("D")]
    if not rows:
        return []
    data = {v: np.array([float(row.get(v) or np.nan) for row in rows]) for v in "NDG"}
    measured = np.array([float(row["delta"]) for row in rows])
    errors = np.array([float(row.get("delta_se") or 0.0) for row in rows])
    return [_by_size(data, measured, errors, None, f"points-{place}", "delta, nats per token")]


def against_tokens(data: Table, found: Law, place: int) -> list[Value]:
    """Measured against D, a panel a size and a color for each G: as the runs were made."""
    if not {"N", "D"} <= set(data.variables) or data.form.by:
        return []
    label = f"{found.form.target}, {found.form.unit}"
    if not set(data.variables) <= {"N", "D", "G"}:
        return []
    return [_by_size(data.variables, data.target, data.target_se_given, found, f"law-{place}", label)]


def _by_size(
    columns: Mapping[str, FloatArray],
    measured: FloatArray,
    errors: FloatArray,
    found: Law | None,
    name: str,
    label: str,
) -> Value:
    n, d = columns["N"], columns["D"]
    group = columns.get("G", np.full(len(n), np.nan))
    sizes = sorted(set(n.tolist()))
    every: list[float | None] = [*sorted(set(group[np.isfinite(group)].tolist()))] or [None]
    shown = some(every, 2 * len(COLORS))
    panels = []
    for size in some(sizes, _MOST_PANELS):
        drawn: list[Value] = []
        for k, g in enumerate(shown):
            here = (n == size) if g is None else (n == size) & (group == g)
            if not here.any():
                continue
            style = style_of(k, len(shown))
            legend = "runs" if g is None else f"G = {short(g)}"
            if found is not None:
                along = np.geomspace(d[here].min() / _BEYOND, d[here].max() * _BEYOND, _POINTS)
                at = {"N": size, "D": along} | ({"G": g} if "G" in columns else {})
                drawn.append(_line(legend, found, at, "D", style))
            bars = errors[here] if errors[here].any() else None
            drawn.append(series(legend, d[here], measured[here], error=bars, legend=found is None, **style))
        x = log_axis("D, training tokens", d[n == size])
        panels.append(panel(f"N = {short(size)}", x, axis(label), drawn))
    heights = [y for each in panels for one in each["series"] for y in one["y"]]
    heights += (measured + errors).tolist()
    for each in panels:  # one scale for all
        each["y"]["ends"] = [min(0.0, 1.1 * min(heights)), 1.08 * max(heights)]
    left = [f"{_MOST_PANELS} of {len(sizes)} sizes are drawn"] if len(sizes) > _MOST_PANELS else []
    left += [f"{len(shown)} of {len(every)} group sizes are drawn"] if len(every) > len(shown) else []
    what = f"{label.partition(',')[0].capitalize()} against D at each N; bars are one standard error"
    caption = "; ".join([what, _said_of_lines(found), *left])
    span = f"{number(float(measured.min()), 3)} to {number(float(measured.max()), 3)} nats per token"
    alt = f"{len(measured)} runs at {len(sizes)} sizes: {span}."
    if found is not None:
        error = percent(found.diagnostics.get("mean_relative_error"))
        alt += f" The law {found.form.formula} goes through them with a mean relative error of {error}."
    return figure(name, f"{caption}.", alt, panels, _rows_table(columns, measured, errors, found), wide=True)


def _said_of_lines(found: Law | None) -> str:
    if found is None:
        return "no law is drawn"
    if found.draws_table is None:
        return "the line is the law; it has no draws, so no band"
    return f"the line is the law, its band the {LEVEL:.0%} interval of the mean law"


def _line(name: str, found: Law, at: Mapping[str, Any], along: str, style: Mapping[str, Any]) -> Value:
    value = np.asarray(found.predict(**at))
    band = found.interval(level=LEVEL, **at) if found.draws_table is not None else None
    return series(
        name, at[along], value, kind="line", band=band, **{k: v for k, v in style.items() if k == "color"}
    )


def _rows_table(
    columns: Mapping[str, FloatArray], measured: FloatArray, errors: FloatArray, found: Law | None
) -> Value:
    names = [name for name, values in columns.items() if np.isfinite(values).any()]
    head = [*names, "measured", "s.e.", *(["fitted", "measured / fitted - 1"] if found is not None else [])]
    rows = []
    fitted = None
    if found is not None:
        fitted = np.broadcast_to(np.asarray(found.predict(**columns)), measured.shape)
    for i in np.lexsort([columns[name] for name in reversed(names)]):
        row = [
            *(count(float(columns[name][i])) for name in names),
            number(float(measured[i])),
            number(float(errors[i]) or None, 2),
        ]
        if fitted is not None:
            row += [number(float(fitted[i])), percent(float(measured[i] / fitted[i] - 1))]
        rows.append(row)
    beyond = "all quantized runs are listed below, and qscale sweep export writes them"
    return table("The runs that were fitted", head, rows, beyond=beyond, most=SOME_ROWS)


def along_each(data: Table, found: Law, place: int) -> Value:
    """Each variable by itself: points are moved along the law to the reference values of the others."""
    at = _reference(data, found)
    inputs = inputs_of(data)
    fitted = np.asarray(found.predict(**inputs))
    panels = []
    for v in data.form.variables:
        column = data.variables[v.name]
        moved = {
            **{k: np.full(len(data), at[k]) for k in at},
            **{k: inputs[k] for k in inputs if k not in at},
        }
        moved[v.name] = inputs[v.name]
        there = np.asarray(found.predict(**moved))
        points = data.target * there / fitted
        label = f"{found.form.target}, {found.form.unit}"
        if v.levels:
            x = axis(v.name, names=v.levels)
            one = series("runs, moved", column - 1, points, color=0)
            panels.append(panel(v.name, x, axis(label), [one]))
            continue
        positive = bool((column > 0).all())
        low, high = float(column.min()), float(column.max())
        if data.form.by:
            lines = []
        else:
            ends = (low / _BEYOND, high * _BEYOND) if positive else (low, high)
            if v.least_allowed:
                ends = (max(ends[0], v.least), ends[1])
            grid = np.geomspace(*ends, _POINTS) if positive and ends[0] > 0 else np.linspace(*ends, _POINTS)
            lines = [_line("law", found, {**at, v.name: grid}, v.name, {"color": 1})]
        x = log_axis(f"{v.name}, {v.unit}", column) if positive else axis(f"{v.name}, {v.unit}")
        runs = series(
            "runs, moved", column, points, error=_moved(data.target_se_given, there / fitted), color=0
        )
        others = ", ".join(f"{k} = {short(float(value))}" for k, value in at.items() if k != v.name)
        panels.append(
            panel(f"{v.name} alone, at {others}" if others else v.name, x, axis(label), [*lines, runs])
        )
    shown = ", ".join(
        f"{axis_.parameter} = {number(found.parameters[axis_.parameter], 3)}" for axis_ in _exponents(found)
    )
    caption = (
        f"{found.form.target.capitalize()} along each variable alone: every run is moved along the law to "
        "the reference values of the others; the band is the 90 % interval of the mean law."
    )
    names = ", ".join(v.name for v in data.form.variables)
    alt = f"One panel for each of {names}, with {len(data)} runs around the law. {shown}."
    return figure(f"along-{place}", caption, alt, panels, wide=True)


def _exponents(found: Law) -> list[Any]:
    known: dict[str, Any] = {}
    for term in found.form.terms:
        for one in term.axes:
            known.setdefault(one.parameter, one)
    return list(known.values())


def _moved(errors: FloatArray, by: FloatArray) -> FloatArray | None:
    return errors * by if errors.any() else None


def _reference(data: Table, found: Law) -> dict[str, float]:
    names = [v.name for v in data.form.variables if not v.levels]
    if found.reference is not None and set(names) <= set(found.reference.at):
        return {name: found.reference.at[name] for name in names}
    return {name: float(f"{np.exp(np.mean(np.log(data.variables[name]))):.3g}") for name in names}


def agreement(data: Table, found: Law, place: int) -> Value:
    fitted = np.asarray(found.predict(**inputs_of(data)))
    ends = [float(min(fitted.min(), data.target.min())), float(max(fitted.max(), data.target.max()))]
    positive = ends[0] > 0
    drawn_here = [series("measured = fitted", ends, ends, kind="line", color="grey")]
    for style, label, here in kinds(data):
        errors = data.target_se_given[here]
        drawn_here.append(
            series(label, fitted[here], data.target[here], error=errors if errors.any() else None, **style)
        )
    unit = f"{found.form.target}, {found.form.unit}"
    x, y = (
        log_axis(text, np.geomspace(ends[0], ends[1], 9)) if positive else axis(text)
        for text in (f"fitted {unit}", f"measured {unit}")
    )
    one = panel("", x, y, drawn_here)
    error = percent(found.diagnostics.get("mean_relative_error"))
    alt = f"{len(data)} runs about the diagonal, with a mean relative error of {error}."
    return figure(f"agreement-{place}", "Measured against fitted; bars are one standard error.", alt, [one])


def kinds(data: Table) -> list[tuple[dict[str, Any], str, Any]]:
    """Style, label and rows of each value of the last variable that has few."""
    for v in reversed(data.form.variables):
        column = data.variables[v.name]
        values = np.unique(column)
        if 1 < len(values) <= len(COLORS):
            names = [v.levels[int(x) - 1] if v.levels else short(float(x)) for x in values]
            return [
                (style_of(i, 1), f"{v.name} = {name}", column == values[i]) for i, name in enumerate(names)
            ]
    return [({"color": 0}, "runs", np.ones(len(data), dtype=bool))]
