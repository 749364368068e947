"""``qscale fit``: from a study or a table to a law file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qscale.cli import _tables


@click.command(epilog="Example: qscale fit demo/observations.csv --form qat-unified --out law.json")
@_tables.source
@click.option("--form", default="qat-unified", show_default=True, help="Law form; a wrong name lists all.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the law file here.")
@_tables.rows
@click.option(
    "--objective",
    metavar="LOSS",
    help="Such as l2, lad, huber:1e-3, student:0.01, raw:l2.  [default: weighted least squares of the "
    "logarithm for a form of one term, else huber:1e-3]",
)
@_tables.fix
@click.option(
    "--tie",
    multiple=True,
    callback=_tables.named(str, "beta=alpha"),
    metavar="NAME=OTHER",
    help="Make an exponent equal to another; repeatable. With a form of one term this, and the four "
    "options below, need --objective.",
)
@click.option(
    "--bound",
    "bounds",
    multiple=True,
    callback=_tables.named(_tables.two_numbers, "alpha=0.1:0.6"),
    metavar="NAME=LOW:HIGH",
    help="Ends of an exponent or a constant; repeatable.",
)
@click.option(
    "--prior",
    multiple=True,
    callback=_tables.named(_tables.two_numbers, "gN=0.2:0.05"),
    metavar="NAME=MEAN:SD",
    help="Normal prior of an exponent; repeatable.",
)
@click.option(
    "--borrow", metavar="LAW", help="Take the exponents of this law, with draws, as priors twice as wide."
)
@click.option(
    "--cell-effects",
    is_flag=True,
    help="In a joint form: what the runs of one ladder and D share is an effect of its own.",
)
@click.option(
    "--resample",
    type=click.Choice(["cluster", "case", "wild"]),
    default="cluster",
    show_default=True,
    help="How draws are made: of ladders, of rows, or by turning residuals over.",
)
@click.option("--bootstrap", type=int, default=1000, show_default=True, help="Draws kept in the law.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--against",
    metavar="METHOD|MODE",
    help="Fit delta over that of the same runs by this method, or in this mode: --method gptq --against rtn.",
)
@_tables.level
@click.option("--json", "as_json", is_flag=True, help="Print the law file instead of a summary.")
def command(
    source: Path,
    form: str,
    out: Path | None,
    borrow: str | None,
    against: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a law form to measured runs: a study folder, or a CSV or Parquet table.

    The table has the columns of the form: N, D, G and delta for qat-unified, N, D and loss for chinchilla.
    Constants that the rows do not determine are not printed: the reason is, and the exit code is 1.

    \b
    Example: qscale fit runs.csv --form chinchilla --column N=params --tie beta=alpha
    """
    from qscale import laws
    from qscale.errors import FitError

    table = _tables.observations(source, options["mode"])
    if against is None:
        lender = None if borrow is None else laws.load(borrow)
        law = laws.fit(table, form, borrow=lender, **options)
    else:
        law = _contrast(table, form, against, borrow, options)
    click.echo(law.dumps().rstrip("\n") if as_json else law.summary())
    if not law.usable:
        written = [f"{out} was not written"] if out is not None else []
        advice = law.diagnostics.get("advice", [])
        raise FitError("; ".join([f"{source}: no law: {law.status}", *advice, *written]))
    if out is not None:
        law.to_json(out)
        click.echo(f"law written to {out}", err=True)


#: Options that a fit of a ratio takes.
_OF_A_RATIO = ("mode", "recipe", "method", "columns", "fix", "bootstrap", "seed", "level")


def _contrast(table: Any, form: str, against: str, borrow: str | None, options: dict[str, Any]) -> Any:
    """The law of a ratio of deltas; says how many pairs there are."""
    from qscale import laws
    from qscale.training.config import MODES

    by = "mode" if against in MODES else "method"
    first = options[by]
    if first is None:
        raise click.UsageError(f"--against {against} needs --{by}: what is held against it.")
    for name, value in {"borrow": borrow, **options}.items():
        if name not in (*_OF_A_RATIO, "resample") and value:
            raise click.UsageError(f"--against takes no --{name.replace('_', '-').rstrip('s')}.")
    given = {name: options[name] for name in _OF_A_RATIO if name != by}
    found = laws.contrast(table, first, against, by=by, form=form, **given)
    click.echo(
        f"delta of {first} over delta of {against}: {found.pairs} pairs, {sum(found.unpaired)} rows without "
        f"a partner, {found.not_positive} pairs without a ratio",
        err=True,
    )
    return found.law
