"""``qscale laws``: the published laws and the user's own."""

from __future__ import annotations

import json

import click


@click.group(name="laws", epilog="Example: qscale laws show chen2025/w4a4")
def command() -> None:
    """List and show laws: those of the literature by id, one's own by path."""


@command.command(name="list", epilog="Example: qscale laws list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
