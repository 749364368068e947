"""qscale report: figures of a study or a table."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qscale.cli import _tables
from qscale.errors import ConfigError
from qscale.units import parse_count

if TYPE_CHECKING:
    from qscale.laws import Law

#: The options that each figure takes beside those of the rows and the file.
_TAKES = {
    "law": {"law"},
    "fit": {"law", "form", "objective"},
    "residuals": {"law", "form", "objective"},
    "profiles": {"form", "objective"},
    "contours": {"law", "form", "objective", "g"},
    "groups": {"law", "form", "objective", "n", "d", "g"},
    "forms": {"form", "objective"},
    "layers": set(),
}
_OPTIONS = {"law": "--law", "form": "--form", "objective": "--objective", "n": "-N", "d": "-D", "g": "-G"}
_OF_LAWS = ("contours", "groups")  # drawn without rows, where laws are named


def _counts(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    try:
        return tuple(parse_count(text) for text in texts)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog="Example: qscale report demo/study --law demo/law.json --out demo/law.png")
@click.argument(
    "source", metavar="[STUDY|TABLE]", required=False, type=click.Path(exists=True, path_type=Path)
)
@click.option("--figure", type=click.Choice(list(_TAKES)), default="law", show_default=True, help="Which.")
@click.option("--law", multiple=True, metavar="LAW", help="A law file or a published id; groups: several.")
@click.option("--form", multiple=True, metavar="FORM", help="Fitted to the rows; forms: two or more.")
@click.option("--objective", metavar="TEXT", help="Of the fit: l2, huber:1e-3, lad, raw:l2.")
@click.option("-N", "n", multiple=True, callback=_counts, metavar="COUNT", help="groups: sizes, such as 7B.")
@click.option("-D", "d", multiple=True, callback=_counts, metavar="COUNT", help="groups: tokens, such as 2T.")
@click.option("-G", "g", multiple=True, type=float, metavar="NUMBER", help="contours: panels; groups: ends.")
@click.option(
    "--out", type=click.Path(path_type=Path), show_default="FIGURE.png", help="The file: .png, .svg or .pdf."
)
@click.option("--mode", help="Draw the runs of one mode: cooldown, scratch.")
@click.option("--recipe", help="Draw the runs of one recipe, such as w4a4 (whatever its group size).")
@click.option("--method", help="Draw the runs of one method of quantization after training, such as gptq.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    source: Path | None,
    figure: str,
    out: Path | None,
    mode: str | None,
    recipe: str | None,
    method: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Draw measured points and a law through them: of a study folder, or a CSV or Parquet table.

    The points are read as `qscale fit` reads them: one mode and one recipe. Figures: law (delta against D),
    fit (measured against fitted), residuals, profiles (of each parameter), contours (equal delta over N and
    D), groups (laws against G, that of the rows among them), forms (which describes the rows best), layers
    (of a study: rounding errors and tails, layer by layer). Without --law, the form is fitted to the rows;
    contours and groups of named laws need no rows.
    """
    _check(figure, source, given)
    out = out or Path(f"{figure}.png")
    if figure == "layers":
        points = _layers(source, out, mode, recipe)
        click.echo(json.dumps({"figure": str(out), "points": points}) if as_json else f"figure: {out}")
        return
    points = _draw(figure, source, out, {"mode": mode, "recipe": recipe, "method": method}, **given)
    click.echo(json.dumps({"figure": str(out), "points": points}) if as_json else f"figure: {out}")


def _layers(source: Path | None, out: Path, mode: str | None, recipe: str | None) -> int:
    from qscale.report.layer_figures import layer_figure
    from qscale.sweep.table import layer_rows

    if source is None or not source.is_dir():
        raise click.UsageError("--figure layers is of a study: give its folder.")
    return layer_figure(layer_rows(source, mode=mode, recipe=recipe), out)


def _check(figure: str, source: Path | None, given: dict[str, Any]) -> None:
    """Options that the figure does not take, or lacks."""
    for name, value in given.items():
        if value and name not in _TAKES[figure]:
            takers = [other for other, names in _TAKES.items() if name in names]
            raise click.UsageError(f"{_OPTIONS[name]} is for --figure {', '.join(takers)}; not for {figure}")
    if figure == "law" and not given["law"]:
        raise click.UsageError("Missing option '--law': a law file or a published id.")
    if source is None and not (figure in _OF_LAWS and given["law"]):
        raise click.UsageError("Missing argument '[STUDY|TABLE]': the rows to draw.")
    if source is None and (given["form"] or given["objective"]):
        raise click.UsageError("--form and --objective fit a law to rows: give a study or a table.")
    if len(given["law"]) > 1 and figure != "groups":
        raise click.UsageError(f"--figure {figure} draws one law; {len(given['law'])} were given.")
    if len(given["form"]) > 1 and figure != "forms":
        raise click.UsageError(f"--figure {figure} takes one form; {len(given['form'])} were given.")
    if figure in ("fit", "residuals") and given["law"] and (given["form"] or given["objective"]):
        raise click.UsageError("--law names the law; --form and --objective fit one: give one of the two.")
    if figure == "contours" and source is not None and given["law"]:
        raise click.UsageError("contours are of one law: give --law, or rows to fit, not both.")
    if figure == "groups" and not (given["n"] and given["d"]):
        raise click.UsageError("--figure groups needs -N and -D: the sizes and tokens to draw.")
    if figure == "groups" and len(given["g"]) not in (0, 2):
        raise click.UsageError("--figure groups takes two -G, the ends of the axis, or none.")


def _draw(
    figure: str,
    source: Path | None,
    out: Path,
    keep: dict[str, Any],
    *,
    law: tuple[str, ...],
    form: tuple[str, ...],
    objective: str | None,
    n: tuple[int, ...],
    d: tuple[int, ...],
    g: tuple[float, ...],
) -> int:
    """Draws it; returns how many rows are in it."""
    from qscale import laws
    from qscale.report import figures, fit_figures, law_figures, likelihood_figures

    named = {name: laws.load(name) for name in law}
    one = next(iter(named.values()), None)
    table = None if source is None else _rows(source)
    chosen = form[0] if form else "qat-unified"
    if figure == "law":
        assert one is not None
        rows = _points(table, keep)
        figures.law_figure(rows, one, out)
        return len(rows)
    if figure == "profiles":
        likelihood_figures.profile_figure(table, chosen, out, objective=objective or "l2", **keep)
        return _count(table, chosen, keep)
    if figure == "forms":
        likelihood_figures.form_figure(table, form, out, objective=objective or "l2", **keep)
        return _count(table, chosen, keep)

    own = None
    if table is not None and (one is None or figure == "groups"):
        own = laws.fit(table, chosen, objective=objective, **keep)
    drawn = one or own
    assert drawn is not None
    if figure in ("fit", "residuals"):
        draw = fit_figures.fit_figure if figure == "fit" else fit_figures.residual_figure
        draw(table, drawn, out, **keep)
        return _count(table, drawn.form.id, keep)
    if figure == "contours":
        law_figures.contour_figure(drawn, out, groups=g or _default_groups(drawn))
    else:
        lines = named | ({f"fit of {chosen}": own} if own is not None else {})
        ends = (min(g), max(g)) if g else None
        law_figures.group_figure(lines, out, points=list(product(n, d)), groups=ends)
    return 0 if own is None else _count(table, chosen, keep)


def _default_groups(law: Law) -> tuple[float, ...]:
    """The ends of the G that was fitted."""
    return tuple(sorted(set(law.box["G"]))) if "G" in law.box else ()


def _rows(source: Path) -> Any:
    """A table as it is; the observations of a study."""
    from qscale.errors import StoreError

    found = _tables.observations(source)
    if source.is_dir() and not any(row["delta"] is not None for row in found):
        raise StoreError(f"{source}: no finished quantized run to draw: run the study first")
    return found


def _count(table: Any, form: str, keep: dict[str, Any]) -> int:
    return len(_read(table, form, keep))


def _read(table: Any, form: str, keep: dict[str, Any]) -> Any:
    """The rows that are drawn, with what was noted of them on stderr."""
    from qscale.laws import forms
    from qscale.laws.table import read_table

    found = read_table(table, forms.get(form), **keep)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    return found


def _points(source: Any, keep: dict[str, Any]) -> list[dict[str, Any]]:
    table = _read(source, "qat-unified", keep)
    names = (*table.variables, "delta", "delta_se")
    columns = (*table.variables.values(), table.target, table.target_se_given)
    labels = {"mode": table.mode, "recipe": table.recipe, "method": table.method}
    return [
        {**dict(zip(names, map(float, values), strict=True)), **labels}
        for values in zip(*columns, strict=True)
    ]
