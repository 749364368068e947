"""The fitted laws: constants, errors, and the figures of the first few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qscale.laws import Law
from qscale.laws.table import read_table
from qscale.report.canvas import LEVEL, short
from qscale.report.sections.law_panels import (
    against_tokens,
    agreement,
    along_each,
    points_only,
    thin_text,
    thinned,
)
from qscale.report.sources import Fit, Source
from qscale.report.values import (
    NOT_KNOWN,
    Value,
    between,
    count,
    number,
    part,
    percent,
    section,
    table,
)

#: Laws that are drawn in full; of the others the table has the constants.
MOST_DRAWN = 3
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
        shown = min(MOST_DRAWN, len(fits))
        text = [f"{shown} of {len(fits) + left} groups are shown in full.{more} {_WHAT_TO_DO}"]
    return part("All laws", text=text, tables=[table("Constants of every law", head, rows)])


def _part(fit: Fit, place: int, *, alone: bool) -> Value:
    heading = "" if alone else fit.group.name
    found = fit.law
    if found is None:
        return part(
            heading, text=[f"There is no law of form {fit.form}: {fit.why}"], figures=points_only(fit, place)
        )
    if not found.usable:
        advice = found.diagnostics.get("advice")
        text = [f"The fit must not be used: {found.status}.", *(advice if isinstance(advice, list) else ())]
        return part(heading, text=text, figures=points_only(fit, place))
    text = [f"{found.form.formula}. Fitted by {found.fit.get('objective', 'a fit of its own')}."]
    text += [f"Warning: {warning}." for warning in found.warnings]
    text += [f"Note: {note}." for note in found.notes]
    whole = read_table(fit.group.rows, found.form)
    data = thinned(whole)
    text += [thin_text(whole)] if len(data) < len(whole) else []
    figures = [
        *against_tokens(data, found, place),
        along_each(data, found, place),
        agreement(data, found, place),
    ]
    return part(heading, text=text, figures=figures, tables=[_constants(found), _errors(found)])


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
