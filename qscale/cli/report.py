"""qscale report: figures of a study or a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qscale.cli import _tables


@click.command(epilog="Example: qscale report demo/study --law demo/law.json --out demo/law.png")
@_tables.source
@click.option("--law", "law_name", required=True, metavar="LAW", help="A law file or a published id.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("law.png"),
    show_default=True,
    help="The figure: .png, .svg or .pdf.",
)
@click.option("--mode", help="Draw the runs of one mode: cooldown, scratch.")
@click.option("--recipe", help="Draw the runs of one recipe, such as w4a4 (whatever its group size).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    source: Path, law_name: str, out: Path, mode: str | None, recipe: str | None, as_json: bool
) -> None:
    """Draw measured points and a law through them: of a study folder, or a CSV or Parquet table.

    The points are read as `qscale fit` reads them: one mode and one recipe.
    """
    from qscale import laws
    from qscale.report.figures import law_figure

    law = laws.load(law_name)
    rows = _points(source, mode, recipe)
    law_figure(rows, law, out)
    click.echo(json.dumps({"figure": str(out), "points": len(rows)}) if as_json else f"figure: {out}")


def _points(source: Path, mode: str | None, recipe: str | None) -> list[dict[str, Any]]:
    from qscale.errors import StoreError
    from qscale.laws.forms import FORMS
    from qscale.laws.table import read_table

    found = _tables.observations(source)
    if source.is_dir() and not any(row["delta"] is not None for row in found):
        raise StoreError(f"{source}: no finished quantized run to draw: run the study first")
    table = read_table(found, FORMS["qat-unified"], mode=mode, recipe=recipe)
    for note in table.notes:
        click.echo(f"note: {note}", err=True)
    names = (*table.variables, "delta", "delta_se")
    columns = (*table.variables.values(), table.target, table.target_se_given)
    return [
        {**dict(zip(names, map(float, values), strict=True)), "mode": table.mode, "recipe": table.recipe}
        for values in zip(*columns, strict=True)
    ]
