"""Figures of how much the rows say: profiles of the parameters, and forms against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale import laws
from qscale.errors import FitError, LawError
from qscale.laws import Objective, forms
from qscale.laws.design import Design, reference_names
from qscale.laws.estimate import Profile
from qscale.laws.forms import FloatArray
from qscale.laws.table import Table, read_table
from qscale.report.canvas import COLORS, GREY, LEVEL, log_ticks, new_figure, plain, save, short, words

HIGHEST_RATIO = 8.0  # of a profile that is drawn: beyond the 99% point
_FLAT = 0.95  # of its last value: a profile that has come so far tells no more


def profile_figure(
    table: Any,
    form: str,
    path: Path,
    *,
    objective: Objective | str = "l2",
    fix: Mapping[str, float] | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
) -> None:
    """The profile of every free parameter, with the 90% line and the interval that it cuts out.

    An open end, where the rows do not bound the parameter, is named in the panel's title.

    Args:
        table: Rows, as :func:`qscale.laws.fit` takes them.
        form: The id of a form with terms.
        path: Ends in .png, .svg or .pdf.
        objective: Of the fit.
        fix: Exponents or constants held.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.

    Raises:
        LawError: The form has no terms, or the table is not valid.
        FitError: A target is not positive and the objective is of logarithms.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    if not forms.get(form).terms:
        raise LawError(f"law form {form!r} has no terms: it has no profiles")
    data = _readable(table, form, objective, mode, recipe, method)
    names = [name for name in reference_names(data.form) if name not in (fix or {})]
    figure, axes = new_figure(len(names), across=3, size=(3.3, 2.9), share_y=True)
    for axis, name in zip(axes, names, strict=True):
        found = laws.profile(
            table, form, name, objective=objective, fix=fix, mode=mode, recipe=recipe, method=method
        )
        exponent = name in {a.parameter for term in data.form.terms for a in term.axes}
        _profile_panel(axis, found, name if exponent else f"{name}, {data.form.unit}", name)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("likelihood ratio to the best", fontsize=9)
    center = Design.make(data.form, data.variables, data.target).center
    place = ", ".join(f"{name} = {short(value)}" for name, value in center.items())
    words(
        figure,
        f"{form}: profiles of its parameters over {len(data)} runs, objective {objective}",
        f"line: the {LEVEL:.0%} point; shaded: the {LEVEL:.0%} interval; scales (those that end in 0) are "
        f"the term's value at {place}",
    )
    save(figure, path)


def _profile_panel(axis: Any, found: Profile, label: str, name: str) -> None:
    from scipy.special import chdtri

    low, high = found.interval(LEVEL)
    best = float(np.exp(found.best)) if found.is_log else found.best
    view = profile_window(found)
    axis.set_ylim(0, HIGHEST_RATIO)
    axis.plot(*profile_curve(found, view), color=COLORS[0], linewidth=1.6)
    axis.axhline(float(chdtri(1, 1 - LEVEL)), color=GREY, linewidth=1, linestyle="--")
    axis.axvline(best, color=COLORS[1], linewidth=1)
    axis.axvspan(max(low, view[0]), min(high, view[1]), color=COLORS[0], alpha=0.12, linewidth=0)
    axis.set_xlim(view)
    below, above = np.isfinite(low) and (low > 0 or not found.is_log), np.isfinite(high)
    ends = (
        f"{low:.3g} to {high:.3g}" if below and above
        else f"above {low:.3g}, open above" if below
        else f"below {high:.3g}, open below" if above
        else "open at both ends"
    )  # fmt: skip
    axis.set_title(f"{name} = {best:.3g}\n{LEVEL:.0%}: {ends}", fontsize=9)
    axis.set_xlabel(label, fontsize=9)
    plain(axis)
    if found.is_log and view[1] > 3 * view[0] > 0:
        log_ticks(axis, "x")
    else:
        axis.locator_params(axis="x", nbins=4)


def profile_curve(found: Profile, view: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """The profile between its points: its root is nearly a line there, as the interval takes it."""
    low, high = np.log([max(view[0], found.at[0]), view[1]]) if found.is_log else view
    fitted = np.unique(np.concatenate([np.linspace(low, high, 200), [found.best]]))
    root = np.sign(found.fitted - found.best) * np.sqrt(found.ratio)
    return np.exp(fitted) if found.is_log else fitted, np.interp(fitted, found.fitted, root) ** 2


def profile_window(found: Profile) -> tuple[float, float]:
    """The values that are drawn: to where a side leaves the panel or is flat; from 0 for an open scale."""
    middle = int(np.searchsorted(found.fitted, found.best))

    def end(values: FloatArray, ratio: FloatArray) -> float:
        limit = np.sqrt(min(HIGHEST_RATIO, _FLAT * float(ratio[-1])))
        j = max(1, int(np.argmax(np.sqrt(ratio) >= limit)))
        before, after = np.sqrt(ratio[j - 1 : j + 1])
        share = (limit - before) / (after - before) if after > before else 1.0
        return float(values[j - 1] + (values[j] - values[j - 1]) * share)

    low = end(found.fitted[middle::-1], found.ratio[middle::-1])
    high = end(found.fitted[middle:], found.ratio[middle:])
    if not found.is_log:
        return low, high
    return (0.0 if found.interval(LEVEL)[0] == 0 else float(np.exp(low))), float(np.exp(high))


def form_figure(
    table: Any,
    candidates: Sequence[str],
    path: Path,
    *,
    objective: Objective | str = "l2",
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
) -> None:
    """Forms side by side: the error of each cell when it is left out, and the information criteria.

    Args:
        table: Rows, as :func:`qscale.laws.fit` takes them.
        candidates: Ids of forms with terms and of one target, at least two.
        path: Ends in .png, .svg or .pdf.
        objective: Of every fit.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.

    Raises:
        LawError: There are fewer than two forms, or they cannot be compared over these rows.
        FitError: A target is not positive and the objective is of logarithms.
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(candidates))
    if len(names) < 2:
        raise LawError(
            f"a comparison takes two forms or more; these were given: {', '.join(names) or 'none'}"
        )
    data = [_readable(table, name, objective, mode, recipe, method) for name in names]
    found = laws.compare(table, names, objective=objective, mode=mode, recipe=recipe, method=method)
    cells = {name: one.cell[np.argsort(one.rows)] for name, one in zip(names, data, strict=True)}
    figure, (errors, criteria) = new_figure(2, across=2, size=(4.6, 1.6 + 0.5 * len(names)), share_y=True)
    for i, score in enumerate(found.scores):
        of_cell = cells[score.form]
        each = 100 * np.bincount(of_cell, weights=score.errors) / np.bincount(of_cell)
        aside = 0.5 * (0.618 * np.arange(len(each)) % 1) - 0.25  # dots of one form beside each other
        errors.plot(np.maximum(each, 1e-3), i + aside, "o", color=COLORS[0], markersize=3, alpha=0.45)
        errors.plot([100 * score.left_out], [i], "D", color=COLORS[1], markersize=7, zorder=3)
    errors.set_yticks(
        range(len(names)), [f"{s.form}\n{s.parameters} parameters" for s in found.scores], fontsize=8
    )
    errors.set_ylim(len(names) - 0.5, -0.5)
    errors.set_xlabel("relative error of a cell left out, %", fontsize=9)
    _criteria_panel(criteria, found.scores)
    for axis in (errors, criteria):
        plain(axis)
    log_ticks(errors, "x")
    best, second = found.scores[0].form, found.scores[1].form
    gap, low, high, _ = found.difference(best, second, level=LEVEL)
    words(
        figure,
        f"{len(names)} forms over {len(data[0])} runs, objective {objective}",
        f"dots: cells; diamonds: mean of the runs; {best} less {second}: "
        f"{100 * gap:.2g} points of percent ({LEVEL:.0%}: {100 * low:.2g} to {100 * high:.2g}, "
        "by a paired bootstrap over ladders)",
    )
    save(figure, path)


def _criteria_panel(axis: Any, scores: Sequence[Any]) -> None:
    """Bars of the differences to the least AICc and BIC, with their numbers."""
    widest = 0.0
    for shift, color, name in ((-0.18, COLORS[2], "AICc"), (0.18, COLORS[4], "BIC")):
        values = np.array([getattr(score, name.lower()) for score in scores])
        known = np.isfinite(values)
        more = values - values[known].min() if known.any() else values
        widest = max(widest, float(more[known].max(initial=0.0)))
        axis.barh(
            np.arange(len(more)) + shift, np.where(known, more, 0.0), height=0.32, color=color, label=name
        )
        for i, value in enumerate(more):
            text = f" {value:.1f}" if known[i] else f" no {name}: too few rows"
            axis.text(value if known[i] else 0.0, i + shift, text, va="center", fontsize=7, color=GREY)
    axis.set_xlim(0, 1.2 * widest or 1.0)
    axis.set_xlabel("more than the least AICc, BIC", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)


def _readable(
    table: Any,
    form: str,
    objective: Objective | str,
    mode: str | None,
    recipe: str | None,
    method: str | None,
) -> Table:
    """The checked rows; their logarithms exist where the objective takes them."""
    data = read_table(table, forms.get(form), mode=mode, recipe=recipe, method=method)
    chosen = objective if isinstance(objective, Objective) else Objective.parse(objective)
    if chosen.residual == "log" and (data.target <= 0).any():
        raise FitError(
            f"{data.form.target} is not positive in {int((data.target <= 0).sum())} rows: their logarithm is "
            "no number; take raw residuals, such as objective='raw:l2'"
        )
    return data
