"""qscale report: figures of a study."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(epilog="Example: qscale report demo/study --law demo/law.json --out demo/law.png")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--law", "law_name", required=True, metavar="LAW", help="A law file or a published id.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("law.png"),
    show_default=True,
    help="The figure: .png, .svg or .pdf.",
)
@click.option("--mode", help="Draw the runs of one mode: cooldown, scratch.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(study: Path, law_name: str, out: Path, mode: str | None, as_json: bool) -> None:
    """Draw the measured points of STUDY and a law through them."""
    from qscale import laws
    from qscale.report.figures import law_figure
    from qscale.sweep.table import observations

    law = laws.load(law_name)
    rows = [row for row in observations(study) if mode is None or row["mode"] == mode]
    law_figure(rows, law, out)
    click.echo(json.dumps({"figure": str(out), "points": len(rows)}) if as_json else f"figure: {out}")
