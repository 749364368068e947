"""The fitted laws: points with the law and its band, what is left, profiles, sensitivity, checklist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qscale import laws
from qscale.errors import FitError, LawError
from qscale.laws import Law, lawfile
from qscale.laws.design import reference_names
from qscale.laws.forms import FloatArray
from qscale.laws.table import Table, read_table
from qscale.report.canvas import COLORS, LEVEL, running_median, short
from qscale.report.fit_figures import inputs_of
from qscale.report.likelihood_figures import HIGHEST_RATIO, profile_curve, profile_window
from qscale.report.sources import Fit, Source
from qscale.report.values import (
    NOT_KNOWN,
    SOME_ROWS,
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
    some,
    table,
)

#: Laws that are drawn in full; of the others the table has the constants.
MOST_DRAWN = 3
_MOST_PANELS = 6
_POINTS = 33  # of a line of the law
_MOST_DOTS = 1500  # runs that one figure draws
_BEYOND = 1.25  # times that a line reaches past its points
_WHAT_TO_DO = "Name one group with --mode, --recipe and --method to see it in full."


def drawn(fits: Sequence[Fit]) -> list[Fit]:
    """The fits that are shown in full: those with a law first."""
    return sorted(fits, key=lambda fit: fit.usable is None)[:MOST_DRAWN]


def law(source: Source, fits: Sequence[Fit], left: int) -> Value:
    """Every law's constants; of the first few the points, the law and its band."""
    title = "The fitted law" if len(fits) + left <= 1 else "The fitted laws"
    if not fits:
        why = (
            "No finished quantized run has a delta: there is nothing to fit."
            if not source.rows
            else ("No quantized run has a delta: they diverged, or their baselines are missing.")
        )
        return section("law", title, remark=why)
    parts = [_overview(fits, left)] if len(fits) > 1 else []
    shown = drawn(fits)
    parts += [_part(fit, i, alone=len(fits) == 1) for i, fit in enumerate(shown)]
    return section("law", title, *parts)


def _overview(fits: Sequence[Fit], left: int) -> Value:
    names = list(dict.fromkeys(name for fit in fits if fit.usable for name in fit.usable.parameters))
    rows = []
    for fit in fits:
        found = fit.usable
        if found is None:
            dashes = [NOT_KNOWN] * (len(names) + 1)
            rows.append((fit.group.name, str(len(fit.group.rows)), fit.form, *dashes, f"no law: {fit.why}"))
            continue
        error = percent(found.diagnostics.get("mean_relative_error"))
        constants = [number(found.parameters.get(name), 3) for name in names]
        rows.append(
            (
                fit.group.name,
                str(len(fit.group.rows)),
                found.form.id,
                *constants,
                error,
                "; ".join(found.warnings),
            )
        )
    head = ("runs of", "runs", "form", *names, "mean error", "remark")
    text = []
    if len(fits) > MOST_DRAWN or left:
        more = f" {left} smaller groups were not fitted." if left else ""
        text = [
            f"{min(MOST_DRAWN, len(fits))} of {len(fits) + left} groups are shown in full.{more} {_WHAT_TO_DO}"
        ]
    return part("All laws", text=text, tables=[table("Constants of every law", head, rows)])


def _part(fit: Fit, place: int, *, alone: bool) -> Value:
    heading = "" if alone else fit.group.name
    found = fit.law
    if found is None:
        return part(
            heading, text=[f"There is no law of form {fit.form}: {fit.why}"], figures=_points_only(fit, place)
        )
    if not found.usable:
        advice = found.diagnostics.get("advice")
        text = [f"The fit must not be used: {found.status}.", *(advice if isinstance(advice, list) else ())]
        return part(heading, text=text, figures=_points_only(fit, place))
    text = [f"{found.form.formula}. Fitted by {found.fit.get('objective', 'a fit of its own')}."]
    text += [f"Warning: {warning}." for warning in found.warnings]
    text += [f"Note: {note}." for note in found.notes]
    whole = read_table(fit.group.rows, found.form)
    data = _thinned(whole)
    text += [_thin_text(whole)] if len(data) < len(whole) else []
    figures = [
        *_against_tokens(data, found, place),
        _along(data, found, place),
        _agreement(data, found, place),
    ]
    return part(heading, text=text, figures=figures, tables=[_constants(found), _errors(found)])


def _thinned(data: Table) -> Table:
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


def _thin_text(whole: Table) -> str:
    return f"{_MOST_DOTS} of {len(whole)} runs are drawn, evenly chosen; the law is fitted to all."


def _constants(found: Law) -> Value:
    rows = []
    reference = found.reference
    meaning = {p.name: p.meaning for p in found.form.parameters}
    if reference is not None:
        at = ", ".join(f"{name} = {short(value)}" for name, value in reference.at.items())
        for name, value in reference.parameters.items():
            told = meaning.get(name, f"{found.form.target} at {at}")
            interval = (
                "fixed" if name in found.fixed else between(*reference.intervals.get(name, (None, None)))
            )
            rows.append((name, number(value), interval, told))
        names = {name for term in found.form.terms if term.axes for name in term.scale_names}
        rows += [
            (n, number(found.parameters[n]), NOT_KNOWN, meaning[n]) for n in found.form.names if n in names
        ]
    else:
        rows += [(n, number(found.parameters[n]), NOT_KNOWN, meaning[n]) for n in found.form.names]
    level = LEVEL if reference is None else reference.level
    return table("Constants", ("constant", "value", f"{level:.0%} interval", "what it is"), rows)


def _errors(found: Law) -> Value:
    known, held = found.diagnostics, found.holdout
    counts = held.get("rows") if isinstance(held.get("rows"), Mapping) else {}
    rows = [
        (
            "runs and ladders",
            f"{found.data.get('rows', NOT_KNOWN)} in {found.data.get('ladders', NOT_KNOWN)}",
        ),
        ("in sample, mean", percent(known.get("mean_relative_error"))),
        ("in sample, largest", percent(known.get("max_relative_error"))),
        ("left out one by one", percent(held.get("leave_one_out"))),
    ]
    for v in found.form.variables:
        if f"largest_{v.name}" in held:
            on = f" ({counts[f'largest_{v.name}']} rows)" if counts and f"largest_{v.name}" in counts else ""
            rows.append((f"largest {v.name} held out", percent(held[f"largest_{v.name}"]) + on))
    for name, label in (("seed_sd", "from seed to seed"), ("scatter_sd", "scatter of the residuals")):
        if isinstance(known.get(name), (int, float)):
            rows.append((label, percent(known[name])))
    if isinstance(known.get("r2"), (int, float)):
        rows.append(("weighted R2", number(known["r2"])))
    rows += [
        (f"{name} of the runs", f"{count(low)} to {count(high)}") for name, (low, high) in found.box.items()
    ]
    return table("How well it describes the runs", ("what", "value"), rows)


def _style(place: int, total: int) -> dict[str, Any]:
    """Color and symbol of one of several values in order: of the palette while it lasts, then of a ramp."""
    if total <= len(COLORS):
        return {"color": place, "symbol": place}
    return {"color": f"ramp:{place / (total - 1):.3f}"}


def _points_only(fit: Fit, place: int) -> list[Value]:
    """Delta against D where no law can be drawn."""
    rows = [row for row in fit.group.rows if row.get("delta") is not None and row.get("N") and row.get("D")]
    if not rows:
        return []
    data = {v: np.array([float(row.get(v) or np.nan) for row in rows]) for v in "NDG"}
    measured = np.array([float(row["delta"]) for row in rows])
    errors = np.array([float(row.get("delta_se") or 0.0) for row in rows])
    return [_by_size(data, measured, errors, None, f"points-{place}", "delta, nats per token")]


def _against_tokens(data: Table, found: Law, place: int) -> list[Value]:
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
    groups = sorted(set(group[np.isfinite(group)].tolist()))
    kinds: list[float | None] = [*groups] if groups else [None]
    shown = some(kinds, 2 * len(COLORS))
    panels = []
    heights = [0.0, *(measured + errors).tolist()]
    for size in some(sizes, _MOST_PANELS):
        drawn_here = []
        for k, g in enumerate(shown):
            here = (n == size) if g is None else (n == size) & (group == g)
            if not here.any():
                continue
            style = _style(k, len(shown))
            legend = "runs" if g is None else f"G = {short(g)}"
            if found is not None:
                at: dict[str, Any] = {
                    "N": size,
                    "D": np.geomspace(d[here].min() / _BEYOND, d[here].max() * _BEYOND, _POINTS),
                }
                if "G" in columns:
                    at["G"] = g
                drawn_here.append(_line(legend, found, at, "D", style))
                heights += [float(np.max(drawn_here[-1]["y"]))]
            drawn_here.append(
                series(
                    legend,
                    d[here],
                    measured[here],
                    error=errors[here] if errors[here].any() else None,
                    legend=found is None,
                    **style,
                )
            )
        x = log_axis("D, training tokens", d[n == size])
        panels.append(panel(f"N = {short(size)}", x, axis(label), drawn_here))
    low, high = min(heights), max(heights)
    for each in panels:
        each["y"]["ends"] = [min(0.0, 1.1 * low), 1.08 * high]
    law_text = (
        "the line is the law, its band the 90 % interval of the mean law"
        if found is not None
        else "no law is drawn"
    )
    if found is not None and found.draws_table is None:
        law_text = "the line is the law; it has no draws, so no band"
    left = [f"{_MOST_PANELS} of {len(sizes)} sizes are drawn"] if len(sizes) > _MOST_PANELS else []
    left += [f"{len(shown)} of {len(kinds)} group sizes are drawn"] if len(kinds) > len(shown) else []
    caption = "; ".join(
        [
            f"{label.partition(',')[0].capitalize()} against D at each N; bars are one standard error",
            law_text,
            *left,
        ]
    )
    alt = f"{len(measured)} runs at {len(sizes)} sizes: {number(float(measured.min()), 3)} to {number(float(measured.max()), 3)} nats per token."
    if found is not None:
        alt += f" The law {found.form.formula} goes through them with a mean relative error of {percent(found.diagnostics.get('mean_relative_error'))}."
    return figure(name, f"{caption}.", alt, panels, _rows_table(columns, measured, errors, found), wide=True)


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


def _along(data: Table, found: Law, place: int) -> Value:
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
        f"{found.form.target.capitalize()} along each variable alone: every run is moved along the law to the reference "
        "values of the other variables; the band is the 90 % interval of the mean law."
    )
    alt = f"One panel for each of {', '.join(v.name for v in data.form.variables)}, with {len(data)} runs around the law. {shown}."
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


def _agreement(data: Table, found: Law, place: int) -> Value:
    fitted = np.asarray(found.predict(**inputs_of(data)))
    ends = [float(min(fitted.min(), data.target.min())), float(max(fitted.max(), data.target.max()))]
    positive = ends[0] > 0
    drawn_here = [series("measured = fitted", ends, ends, kind="line", color="grey")]
    for style, label, here in _kinds(data):
        errors = data.target_se_given[here]
        drawn_here.append(
            series(label, fitted[here], data.target[here], error=errors if errors.any() else None, **style)
        )
    unit = f"{found.form.target}, {found.form.unit}"
    make: Callable[[str], Value] = (lambda text: log_axis(text, np.geomspace(ends[0], ends[1], 9))) if positive else axis
    one = panel("", make(f"fitted {unit}"), make(f"measured {unit}"), drawn_here)
    error = percent(found.diagnostics.get("mean_relative_error"))
    alt = f"{len(data)} runs about the diagonal, with a mean relative error of {error}."
    return figure(f"agreement-{place}", "Measured against fitted; bars are one standard error.", alt, [one])


def _kinds(data: Table) -> list[tuple[dict[str, Any], str, Any]]:
    """Style, label and rows of each value of the last variable that has few."""
    for v in reversed(data.form.variables):
        column = data.variables[v.name]
        values = np.unique(column)
        if 1 < len(values) <= len(COLORS):
            names = [v.levels[int(x) - 1] if v.levels else short(float(x)) for x in values]
            return [(_style(i, 1), f"{v.name} = {name}", column == values[i]) for i, name in enumerate(names)]
    return [({"color": 0}, "runs", np.ones(len(data), dtype=bool))]


def residuals(fits: Sequence[Fit]) -> Value:
    """What a law leaves along each variable."""
    return _for_each(
        "residuals",
        "Residuals",
        fits,
        _residuals,
        "What is left, measured over fitted less one. A running median that bends away from zero along an axis says that "
        "the form lacks something there.",
    )


def _residuals(fit: Fit, found: Law, place: int) -> Value:
    data = _thinned(read_table(fit.group.rows, found.form))
    left = 100 * (data.target / np.asarray(found.predict(**inputs_of(data))) - 1)
    columns: dict[str, tuple[FloatArray, Sequence[str]]] = {
        f"{v.name}, {v.unit}": (data.variables[v.name], v.levels) for v in data.form.variables
    }
    if {"N", "D"} <= set(data.variables):
        columns["D / N, tokens per parameter"] = (data.variables["D"] / data.variables["N"], ())
    panels = []
    worst = float(np.abs(left).max()) * 1.08 or 1.0
    for label, (x, levels) in columns.items():
        runs = [
            series(name, x[here] - bool(levels), left[here], **style) for style, name, here in _kinds(data)
        ]
        across = [float(x.min()) - bool(levels), float(x.max()) - bool(levels)]
        lines = [series("zero", across, [0, 0], kind="line", color="grey", legend=False)]
        if not levels and (x > 0).all() and len(np.unique(x)) > 1:
            at, middle = running_median(np.log(x), left)
            lines.append(series("running median", np.exp(at), middle, kind="line", color="ink"))
        ends = axis(label, names=levels) if levels else log_axis(label, x) if (x > 0).all() else axis(label)
        panels.append(
            panel("", ends, axis("measured / fitted - 1, %", ends=(-worst, worst)), [*lines, *runs])
        )
    spread = float(np.sqrt(np.mean(left**2)))
    alt = f"{len(data)} residuals between {left.min():.2g} % and {left.max():.2g} %, root mean square {spread:.2g} %."
    return part(
        fit.group.name,
        figures=[
            figure(
                f"residuals-{place}", f"Residuals: root mean square {spread:.2g} %.", alt, panels, wide=True
            )
        ],
    )


def profiles(fits: Sequence[Fit], objective: str | None) -> Value:
    """The profile likelihood of each parameter."""
    return _for_each(
        "profiles",
        "Profile likelihoods",
        fits,
        lambda fit, found, place: _profiles(fit, found, place, objective or "l2"),
        f"How much worse the fit is with one parameter held elsewhere. The dashed line is the {LEVEL:.0%} point; where a "
        "profile stays below it, the runs do not bound the parameter on that side.",
    )


def _profiles(fit: Fit, found: Law, place: int, objective: str) -> Value:
    from scipy.special import chdtri

    if not found.form.terms:
        return part(
            fit.group.name,
            text=[f"Form {found.form.id} is no sum of products of powers: it has no profiles."],
        )
    limit = float(chdtri(1, 1 - LEVEL))
    panels, rows = [], []
    for name in reference_names(found.form):
        one = laws.profile(fit.group.rows, found.form.id.partition("[")[0], name, objective=objective)
        view = profile_window(one)
        x, ratio = profile_curve(one, view)
        low, high = one.interval(LEVEL)
        best = float(np.exp(one.best)) if one.is_log else one.best
        places = [i for i in some(range(len(x)), 60)]
        log = one.is_log and view[1] > 3 * view[0] > 0
        panels.append(
            panel(
                f"{name} = {number(best, 3)}",
                log_axis(name, np.array(view)) if log else axis(name),
                axis("likelihood ratio to the best", ends=(0.0, HIGHEST_RATIO)),
                [
                    series("profile", x[places], ratio[places], kind="line", color=0),
                    series(
                        f"{LEVEL:.0%} point", view, [limit, limit], kind="line", color="grey", dash="dash"
                    ),
                    series("best", [best, best], [0, HIGHEST_RATIO], kind="line", color=1),
                ],
            )
        )
        open_low = low is not None and (not np.isfinite(low) or (one.is_log and low == 0))
        rows.append((name, number(best), between(None if open_low else low, high)))
    data = table(f"{LEVEL:.0%} intervals of the profiles", ("parameter", "best", "interval"), rows)
    alt = "; ".join(f"{name}: {best}, {ends}" for name, best, ends in rows)
    return part(
        fit.group.name,
        figures=[
            figure(
                f"profiles-{place}",
                f"Profiles under the objective {objective}.",
                f"{alt}.",
                panels,
                data,
                wide=True,
            )
        ],
    )


def sensitivity(fits: Sequence[Fit]) -> Value:
    """The constants under other objectives and rules for outliers."""
    return _for_each(
        "sensitivity",
        "Sensitivity",
        fits,
        _sensitivity,
        "The constants under every objective and rule for outliers: choices that nobody can justify. The rule leaves out "
        "no row, the largest 2 % of targets, or rows beyond five robust standard deviations.",
    )


def _sensitivity(fit: Fit, found: Law, _place: int) -> Value:
    if not found.form.terms:
        return part(
            fit.group.name,
            text=[f"Form {found.form.id} is no sum of products of powers: it has no such table."],
        )
    form = found.form.id.partition("[")[0]
    if any(row.get(found.form.target) is not None and row[found.form.target] <= 0 for row in fit.group.rows):
        return part(
            fit.group.name, text=[f"Some {found.form.target} is not positive: its logarithm is no number."]
        )
    with np.errstate(all="ignore"):
        rows = laws.sensitivity(fit.group.rows, form)
    names = [name for name in rows[0] if name not in ("objective", "outliers", "rows")]
    body = [
        (row["objective"], row["outliers"], str(row["rows"]), *(number(row[name]) for name in names))
        for row in rows
    ]
    spans = [f"{name} {between(min(r[name] for r in rows), max(r[name] for r in rows), 3)}" for name in names]
    head = ("objective", "outliers left out", "rows", *names)
    return part(
        fit.group.name,
        text=[f"Over all of them: {', '.join(spans)}."],
        tables=[table("Constants under each choice", head, body, folded=True)],
    )


def checklist(fits: Sequence[Fit]) -> Value:
    """The 24 items that a report of a law should have."""
    found = [fit for fit in drawn(fits) if fit.usable is not None]
    title = "Reporting checklist"
    if not found:
        return section("checklist", title, remark="There is no law to report.")
    known = [fit.usable.checklist for fit in found if fit.usable is not None]
    rows = [(item.replace("_", " "), *(_told(one.get(item)) for one in known)) for item in lawfile.CHECKLIST]
    filled = [sum(one.get(item) is not None for item in lawfile.CHECKLIST) for one in known]
    said = [
        f"{fit.group.name}: {n} of {len(lawfile.CHECKLIST)} items are filled; the others are for those who made the runs."
        for fit, n in zip(found, filled, strict=True)
    ]
    heads = ("item", *(fit.group.name for fit in found))
    intro = "What a paper that reports a scaling law should say (arXiv:2502.18969)."
    return section(
        "checklist", title, part(text=said, tables=[table("The 24 items", heads, rows)]), intro=intro
    )


def _told(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, (list, tuple)):
        return "; ".join(short(v) if isinstance(v, float) and v >= 1000 else str(v) for v in value)
    return str(value)


def _for_each(
    name: str, title: str, fits: Sequence[Fit], make: Callable[[Fit, Law, int], Value], intro: str
) -> Value:
    parts = []
    shown = [fit for fit in drawn(fits) if fit.usable is not None]
    for i, fit in enumerate(shown):
        assert fit.usable is not None
        try:
            found = make(fit, fit.usable, i)
        except (LawError, FitError) as error:
            found = part(fit.group.name, text=[str(error)])
        parts.append({**found, "heading": found["heading"] if len(shown) > 1 else ""})
    if not parts:
        why = f"There is no law: {fits[0].why}" if fits else "There is no law: no quantized run has a delta."
        return section(name, title, remark=why)
    return section(name, title, *parts, intro=intro)
