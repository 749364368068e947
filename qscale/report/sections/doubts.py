"""How far to believe a law: residuals, profiles, sensitivity, and the reporting checklist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qscale import laws
from qscale.errors import FitError, LawError
from qscale.laws import Law, lawfile
from qscale.laws.design import reference_names
from qscale.laws.forms import FloatArray
from qscale.laws.table import read_table
from qscale.report.canvas import LEVEL, running_median, short
from qscale.report.fit_figures import inputs_of
from qscale.report.likelihood_figures import HIGHEST_RATIO, profile_curve, profile_window
from qscale.report.sections.law import drawn
from qscale.report.sections.law_panels import kinds, thinned
from qscale.report.sources import Fit
from qscale.report.values import (
    Value,
    axis,
    between,
    figure,
    log_axis,
    number,
    panel,
    part,
    section,
    series,
    some,
    table,
)


def residuals(fits: Sequence[Fit]) -> Value:
    """What a law leaves along each variable."""
    return _for_each(
        "residuals",
        "Residuals",
        fits,
        _residuals,
        "What is left, measured over fitted less one. A running median that bends away from zero along an "
        "axis says that the form lacks something there.",
    )


def _residuals(fit: Fit, found: Law, place: int) -> Value:
    data = thinned(read_table(fit.group.rows, found.form))
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
            series(name, x[here] - bool(levels), left[here], **style) for style, name, here in kinds(data)
        ]
        across = [float(x.min()) - bool(levels), float(x.max()) - bool(levels)]
        lines = [series("zero", across, [0, 0], kind="line", color="grey", legend=False)]
        if not levels and (x > 0).all() and len(np.unique(x)) > 1:
            at, middle = running_median(np.log(x), left)
            lines.append(series("running median", np.exp(at), middle, kind="line", color="ink"))
        along = axis(label, names=levels) if levels else log_axis(label, x) if (x > 0).all() else axis(label)
        panels.append(
            panel("", along, axis("measured / fitted - 1, %", ends=(-worst, worst)), [*lines, *runs])
        )
    spread = float(np.sqrt(np.mean(left**2)))
    ends = f"between {left.min():.2g} % and {left.max():.2g} %"
    alt = f"{len(data)} residuals {ends}, root mean square {spread:.2g} %."
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
        f"How much worse the fit is with one parameter held elsewhere. The dashed line is the {LEVEL:.0%} "
        "point; where a profile stays below it, the runs do not bound the parameter on that side.",
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
        places = some(range(len(x)), 60)
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
        "The constants under every objective and rule for outliers: choices that nobody can justify. The "
        "rule leaves out no row, the largest 2 % of targets, or rows beyond five robust standard deviations.",
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
        f"{fit.group.name}: {n} of {len(lawfile.CHECKLIST)} items are filled; the others are for those who "
        "made the runs."
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
