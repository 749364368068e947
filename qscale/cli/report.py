"""qscale report: one HTML page of a study or a table, a figure of it, or its figures for a journal."""

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
_PICTURES = (".png", ".svg", ".pdf")


def _counts(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    try:
        return tuple(parse_count(text) for text in texts)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog="Example: qscale report demo/study --law chen2025/w4a4-fc2a8 --out demo/report.html")
@click.argument(
    "source", metavar="[STUDY|TABLE]", required=False, type=click.Path(exists=True, path_type=Path)
)
@click.option("--figure", type=click.Choice(list(_TAKES)), help="Draw this one figure instead of the page.")
@click.option("--paper", is_flag=True, help="Write the figures at journal size into the folder --out.")
@click.option(
    "--law", multiple=True, metavar="LAW", help="A law file or a published id; several for the page."
)
@click.option("--form", multiple=True, metavar="FORM", help="Fitted to the rows; forms: two or more.")
@click.option("--objective", metavar="TEXT", help="Of the fit: l2, huber:1e-3, lad, raw:l2.")
@click.option("-N", "n", multiple=True, callback=_counts, metavar="COUNT", help="groups: sizes, such as 7B.")
@click.option("-D", "d", multiple=True, callback=_counts, metavar="COUNT", help="groups: tokens, such as 2T.")
@click.option("-G", "g", multiple=True, type=float, metavar="NUMBER", help="contours: panels; groups: ends.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    show_default="report.html, FIGURE.png or paper/",
    help="The file; of a figure .png, .svg or .pdf.",
)
@click.option("--mode", help="Take the runs of one mode: cooldown, scratch.")
@click.option("--recipe", help="Take the runs of one recipe, such as w4a4 (whatever its group size).")
@click.option("--method", help="Take the runs of one method of quantization after training, such as gptq.")
@_tables.column
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    source: Path | None,
    figure: str | None,
    paper: bool,
    out: Path | None,
    mode: str | None,
    recipe: str | None,
    method: str | None,
    columns: dict[str, str],
    as_json: bool,
    **given: Any,
) -> None:
    """Write what a study folder, or a CSV or Parquet table, says as one HTML page that needs no network.

    The page has the grid's coverage, the fitted laws with their bands, residuals, profiles, what layers,
    methods and operands cost, and a law explorer: docs/report.md. Each group of runs of one mode, recipe and
    method has a law of its own; --law adds others to the explorer.

    --figure draws one picture instead, of one mode and one recipe: law (delta against D), fit (measured
    against fitted), residuals, profiles (of each parameter), contours (equal delta over N and D), groups
    (laws against G, that of the rows among them), forms (which describes the rows best), layers (of a study:
    rounding errors and tails, layer by layer). Without --law, the form is fitted to the rows; contours and
    groups of named laws need no rows. --out with a picture's ending means --figure law.

    --paper writes the figures as PDF and SVG at the widths of a journal's columns, with their captions.
    """
    keep = {"mode": mode, "recipe": recipe, "method": method}
    if paper or (figure is None and (out is None or out.suffix not in _PICTURES)):
        if paper and figure is not None:
            raise click.UsageError("--paper writes all figures, --figure one: give one of the two.")
        source = _check_whole(source, given, "--paper" if paper else "the page")
        whole = _paper if paper else _page
        said, fields = whole(source, out, keep, columns, given)
        click.echo(json.dumps(fields) if as_json else said)
        return
    figure = figure or "law"
    if columns:
        raise click.UsageError("--column is for the page and --paper.")
    _check(figure, source, given)
    out = out or Path(f"{figure}.png")
    if figure == "layers":
        points = _layers(source, out, mode, recipe)
    else:
        points = _draw(figure, source, out, keep, **given)
    click.echo(json.dumps({"figure": str(out), "points": points}) if as_json else f"figure: {out}")


def _check_whole(source: Path | None, given: dict[str, Any], what: str) -> Path:
    """Options that the page, or the figures for a journal, do not take, or lack."""
    for name in ("n", "d", "g"):
        if given[name]:
            raise click.UsageError(f"{_OPTIONS[name]} is for --figure contours, groups; not for {what}")
    if len(given["form"]) > 1:
        raise click.UsageError(f"{what} takes one form; {len(given['form'])} were given.")
    if source is None:
        raise click.UsageError("Missing argument '[STUDY|TABLE]': what to report.")
    return source


def _asked(keep: dict[str, Any], columns: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """What the page and the figures of a paper are told alike."""
    from qscale import laws

    named = {name: laws.load(name) for name in given["law"]}
    form = given["form"][0] if given["form"] else None
    return {"named": named, "form": form, "objective": given["objective"], "columns": columns, **keep}


def _page(
    source: Path, out: Path | None, keep: dict[str, Any], columns: dict[str, str], given: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    from qscale.report import page
    from qscale.units import short_bytes

    out = out or Path("report.html")
    if out.suffix not in (".html", ".htm"):
        raise click.UsageError(f"--out {out}: the page is an .html file, a figure a .png, .svg or .pdf.")
    made = page.write(
        source,
        out,
        **_asked(keep, columns, given),
    )
    fields = {"report": str(out), "bytes": made.bytes, "points": made.runs, "laws": made.laws}
    said = f"report: {out} ({short_bytes(made.bytes)}; {made.runs} runs, {made.laws} laws)"
    return said, fields


def _paper(
    source: Path, out: Path | None, keep: dict[str, Any], columns: dict[str, str], given: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    from qscale.report import paper

    out = out or Path("paper")
    if out.suffix:
        raise click.UsageError(f"--out {out}: --paper writes many files; name a folder.")
    made = paper.write(
        source,
        out,
        **_asked(keep, columns, given),
    )
    for name, why in made.left.items():
        click.echo(f"note: no figure {name}: {why}", err=True)
    fields = {"folder": str(out), "figures": made.figures, "left": made.left}
    return f"figures: {len(made.figures)} in {out}", fields


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
