"""``qscale predict``: the value of a law at a point, its band, and how far outside the data that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from qscale.cli import _tables
from qscale.errors import ConfigError
from qscale.units import parse_count

if TYPE_CHECKING:
    from qscale.laws import Law
    from qscale.laws.law import Band


def _count(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_count(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _number(text: str) -> float | str:
    """``P=4`` and ``U=25B`` as numbers, the name of a level as it stands."""
    for read in (float, parse_count):
        try:
            return read(text)
        except (ValueError, ConfigError):
            continue
    return text


@click.command(epilog="Example: qscale predict chen2025/w4a4 -N 7B -D 2T -G 128")
@click.argument("law", metavar="LAW")
@click.option("-N", "n", callback=_count, metavar="COUNT", help="Non-embedding parameters: 7e9 or 7B.")
@click.option("-D", "d", callback=_count, metavar="COUNT", help="Training tokens: 2e12 or 2T.")
@click.option("-G", "g", type=float, metavar="NUMBER", help="Elements that share one scale: 128.")
@click.option(
    "--at",
    "others",
    callback=_tables.named(_number, "P=4"),
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other variable of the law, such as P=4; may be repeated.",
)
@_tables.level
@click.option(
    "--band",
    type=click.Choice(["mean", "run"]),
    default="mean",
    show_default=True,
    help="Of the mean law, or for one new run, which also scatters around it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    law: str,
    n: int | None,
    d: int | None,
    g: float | None,
    others: dict[str, float | str],
    level: float,
    band: Band,
    as_json: bool,
) -> None:
    """Predict delta or loss from a LAW: a law file, or the id of a published law (see `qscale laws list`).

    A point outside the range that the law was fitted on is predicted, and flagged with how many times outside
    it is.
    """
    from qscale import laws

    found = laws.load(law)
    point = {name: value for name, value in (("N", n), ("D", d), ("G", g)) if value is not None} | others
    result = _predict(found, point, level, band)
    click.echo(json.dumps(result, indent=2) if as_json else _text(result))
    if result["interval"] is None:
        click.echo("no interval: the law has no draws; its source prints none", err=True)


def _predict(law: Law, point: dict[str, float | str], level: float, band: Band) -> dict[str, Any]:
    value = law.predict(**point)
    interval = None
    if law.draws_table is not None:
        low, high = law.interval(level=level, kind=band, **point)
        interval = {"level": level, "band": band, "low": low, "high": high}
    return {
        "law": law.name or law.law_id,
        "at": point,
        "target": law.form.target,
        "unit": law.form.unit,
        "value": value,
        "interval": interval,
        "times_outside": law.outside(**point),
    }


def _text(result: dict[str, Any]) -> str:
    unit = "" if result["unit"] == "1" else f" {result['unit']}"
    lines = [f"{result['target']} = {result['value']:.4g}{unit}"]
    if (found := result["interval"]) is not None:
        of = " of a new run" if found["band"] == "run" else ""
        ends = f"{found['low']:.4g} to {found['high']:.4g}"
        lines.append(f"{100 * found['level']:.4g}% interval{of}: {ends}")
    far = [f"{name} {times:.3g} times" for name, times in result["times_outside"].items() if times > 1]
    if far:
        lines.append(f"extrapolation: outside the fitted box in {', '.join(far)}")
    return "\n".join(lines)
