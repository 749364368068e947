"""``qscale fit``: from a study or a table to a law file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def _fixed(_context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, float]:
    fixed = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            fixed[name] = float(value)
        except ValueError as err:
            raise click.BadParameter(f"{pair!r} is not of the form gG=0.78") from err
    return fixed


@click.command(epilog="Example: qscale fit demo/observations.csv --form qat-unified --out law.json")
@click.argument("source", metavar="STUDY|TABLE", type=click.Path(exists=True, path_type=Path))
@click.option("--form", default="qat-unified", show_default=True, help="Law form; a wrong name lists all.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the law file here.")
@click.option("--mode", help="Take the runs of this mode only: scratch, cooldown, finetune or ptq.")
@click.option("--recipe", help="Take the runs of this recipe only, such as w4a4 (whatever its group size).")
@click.option(
    "--fix", multiple=True, callback=_fixed, metavar="NAME=VALUE", help="Hold an exponent; repeatable."
)
@click.option("--bootstrap", type=int, default=1000, show_default=True, help="Draws kept in the law.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Of the intervals printed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the law file instead of a summary.")
def command(source: Path, form: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Fit a law form to measured deltas: a study folder, or a CSV or Parquet table with N, D, G, delta.

    Constants that the rows do not determine are not printed: the reason is, and the exit code is 1.
    """
    from qscale import laws
    from qscale.errors import FitError

    law = laws.fit(_observations(source), form, **options)
    click.echo(law.dumps().rstrip("\n") if as_json else law.summary())
    if not law.usable:
        written = [f"{out} was not written"] if out is not None else []
        raise FitError("; ".join([f"{source}: no law: {law.status}", *law.diagnostics["advice"], *written]))
    if out is not None:
        law.to_json(out)
        click.echo(f"law written to {out}", err=True)


def _observations(source: Path) -> Any:
    if not source.is_dir():
        return source
    from qscale.sweep import table

    return table.observations(source, say=lambda line: click.echo(line, err=True))
