"""``qscale laws``: the published laws and the user's own, and the choice between forms."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import click

from qscale.cli import _tables

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_OBJECTIVE = click.option(
    "--objective",
    default="l2",
    show_default=True,
    metavar="LOSS",
    help="Such as l2, lad, huber:1e-3, raw:l2.",
)


@click.group(name="laws", epilog="Example: qscale laws show chen2025/w4a4")
def command() -> None:
    """List, show and check laws: those of the literature by id, one's own by path; compare forms on runs."""


@command.command(name="list", epilog="Example: qscale laws list")
@_JSON
def list_(as_json: bool) -> None:
    """List the published laws."""
    from qscale import laws

    found = [laws.load(name) for name in laws.list_published()]
    if as_json:
        rows = [{"id": law.name, "form": law.form.id, "formula": law.form.formula} for law in found]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(law.name)) for law in found)
    for law in found:
        click.echo(f"{law.name:<{width}}  {law.form.formula}")


@command.command(epilog="Example: qscale laws show law.json")
@click.argument("law", metavar="ID|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print the law file.")
def show(law: str, as_json: bool) -> None:
    """Show a law: constants, intervals, errors, fitted box, source."""
    from qscale import laws

    found = laws.load(law)
    click.echo(found.dumps().rstrip("\n") if as_json else found.summary())


@command.command(epilog="Example: qscale laws check law.json")
@click.argument("name", metavar="ID|PATH")
@_JSON
def check(name: str, as_json: bool) -> None:
    """Show which of the 24 items of the reporting checklist a law fills, and its warnings.

    The items are those of (Mis)Fitting, arXiv:2502.18969. The exit code is 1 where the law must not be used.
    """
    from qscale import laws
    from qscale.errors import FitError
    from qscale.laws.lawfile import CHECKLIST

    law = laws.load(name)
    missing = [item for item in CHECKLIST if law.checklist.get(item) in (None, "", [], {})]
    if as_json:
        found = {"law": law.name or law.law_id, "status": law.status, "usable": law.usable}
        filled = [item for item in CHECKLIST if item not in missing]
        lists = {"filled": filled, "missing": missing, "warnings": list(law.warnings)}
        click.echo(json.dumps(found | lists, indent=2))
    else:
        click.echo(f"{law.name or law.form.id}: {law.status}")
        click.echo(f"checklist: {len(CHECKLIST) - len(missing)} of {len(CHECKLIST)} items")
        for item in CHECKLIST:
            click.echo(f"  {'--' if item in missing else 'ok'} {item}")
        for text in law.warnings:
            click.echo(f"warning: {text}")
    if not law.usable:
        raise FitError(f"{name}: do not use this law: {law.status}")


@command.command(epilog="Example: qscale laws compare runs.csv qat-unified qat-power")
@_tables.source
@click.argument("forms", metavar="FORM FORM...", nargs=-1, required=True)
@_tables.rows
@_OBJECTIVE
@_tables.level
@_JSON
def compare(source: Path, forms: tuple[str, ...], level: float, as_json: bool, **options: Any) -> None:
    """Fit several forms to the same runs: errors in and out of sample, information criteria.

    The first form has the smallest error on cells left out of its fit. It is better than the second where the
    interval of the difference, of a bootstrap over ladders, excludes 0.
    """
    from qscale import laws
    from qscale.laws.diagnose import finite

    if len(set(forms)) < 2 or len(set(forms)) < len(forms):
        raise click.UsageError("name two forms or more, each once")
    found = laws.compare(_tables.observations(source, options["mode"]), forms, **options)
    heads = ("form", "parameters", "rms", "aicc", "bic", "left_out", "status")
    scores = [finite({head: getattr(score, head) for head in heads}) for score in found.scores]
    first, second = (score.form for score in found.scores[:2])
    gap, low, high, share = found.difference(first, second, level=level)
    if as_json:
        pair = {"first": first, "second": second, "difference": gap, "level": level, "low": low, "high": high}
        pair |= {"share_of_draws_below_0": share}
        click.echo(json.dumps({"scores": scores, "paired": finite(pair)}, indent=2))
        return
    for line in _tables.columns(
        (*heads[:5], "error left out", "status"), [_score(score) for score in scores]
    ):
        click.echo(line)
    shown = [f"{100 * value:.2g}%" for value in (gap, low, high)]
    click.echo(f"{first} less {second}: {shown[0]}, {100 * level:.4g}% interval {shown[1]} to {shown[2]}")
    if low <= 0 <= high:
        click.echo("the interval includes 0: these runs do not tell the two apart")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _score(score: dict[str, Any]) -> list[str]:
    def show(name: str, how: str) -> str:
        return "--" if score[name] is None else format(score[name], how)

    shown = [show("rms", ".2%"), show("aicc", ".1f"), show("bic", ".1f"), show("left_out", ".2%")]
    return [score["form"], str(score["parameters"]), *shown, score["status"]]


@command.command(epilog="Example: qscale laws sensitivity runs.csv chinchilla")
@_tables.source
@click.argument("form")
@_tables.rows
@_JSON
def sensitivity(source: Path, form: str, as_json: bool, **options: Any) -> None:
    """Show how much the constants of a form hang on the loss and on the rule for outliers.

    none keeps all rows, "top 2%" leaves out the largest targets, "5 sd" rows five robust standard deviations
    from a fit of absolute deviations.
    """
    from qscale import laws
    from qscale.laws.diagnose import finite

    found = [
        finite(row)
        for row in laws.sensitivity(_tables.observations(source, options["mode"]), form, **options)
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    cells = [
        ["--" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
        for row in found
    ]
    for line in _tables.columns(tuple(found[0]), cells, left=2):
        click.echo(line)


@command.command(epilog="Example: qscale laws profile runs.csv chinchilla alpha --level 0.95")
@_tables.source
@click.argument("form")
@click.argument("parameter")
@_tables.rows
@_OBJECTIVE
@_tables.fix
@_tables.level
@_JSON
def profile(source: Path, form: str, parameter: str, level: float, as_json: bool, **options: Any) -> None:
    """Show the profile interval of one parameter: an exponent, a constant, or a scale at the reference point.

    An end is open where the fit gets no worse however far the parameter goes: the runs do not bound it there.
    """
    from qscale import laws

    found = laws.profile(_tables.observations(source, options["mode"]), form, parameter, **options)
    best = float(found.at[found.ratio.argmin()])
    low, high = found.ends(level)
    if as_json:
        curve = {"at": found.at.tolist(), "ratio": found.ratio.tolist()}
        ends = {"best": best, "level": level, "low": low, "high": high}
        click.echo(json.dumps({"form": form, "parameter": parameter, **ends, **curve}, indent=2))
        return
    shown = [("open" if end is None else f"{end:.4g}") for end in (low, high)]
    click.echo(f"{parameter} = {best:.4g}, {100 * level:.4g}% profile interval: {shown[0]} to {shown[1]}")
    if ways := [way for way, end in (("below", low), ("above", high)) if end is None]:
        click.echo(f"profile_open_interval: the runs do not bound {parameter} {' or '.join(ways)}")


@command.command(epilog="Example: qscale laws suggest law.json --at N=7B --try N=1B,2B --budget 1e20")
@click.argument("law", metavar="LAW")
@click.option(
    "--at",
    "target",
    callback=_tables.named(_tables.quantity, "N=7B"),
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="The prediction that should become surer: each variable of the law.",
)
@_tables.new_runs
@_JSON
def suggest(
    law: str,
    target: dict[str, float],
    axes: dict[str, list[float]],
    budget: float,
    noise: float | None,
    as_json: bool,
) -> None:
    """Show which runs to make next so that a prediction's band shrinks most for its FLOPs.

    A run costs 6 N D FLOPs; its baseline is not counted. The law must have draws: one of your own fits.
    """
    from qscale import laws
    from qscale.laws.suggest import relative_sd

    runs = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    found = laws.load(law)
    before = relative_sd(found, **target)
    chosen = laws.suggest_runs(found, budget, runs, noise=noise, **target)
    if as_json:
        out = [{"run": each.run, "flops": each.flops, "sd": each.sd} for each in chosen]
        click.echo(json.dumps({"sd": before, "runs": out}, indent=2))
        return
    click.echo(f"relative s.d. of the prediction: {before:.2%}")
    if not chosen:
        click.echo("the budget holds none of the runs")
        return
    cells = [
        [*(f"{value:.6g}" for value in each.run.values()), f"{each.flops:.3g}", f"{each.sd:.2%}"]
        for each in chosen
    ]
    for line in _tables.columns((*axes, "FLOPs", "s.d. then"), cells, left=0):
        click.echo(line)
