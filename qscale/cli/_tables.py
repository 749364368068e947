"""What the commands on observations share: a study or a table as rows, and options of the form NAME=VALUE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qscale.errors import ConfigError
from qscale.units import parse_count

Read = TypeVar("Read")
Callback = Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Read]]
Command = TypeVar("Command", bound=Callable[..., Any])


def named(read: Callable[[str], Read], example: str) -> Callback[Read]:
    """A callback that makes a dict of the texts ``NAME=VALUE`` of a repeatable option.

    Args:
        read: A value from its text; its ValueError is bad usage.
        example: Of a text that can be read, for the message.
    """

    def callback(
        _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
    ) -> dict[str, Read]:
        found: dict[str, Read] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if not name or not value:
                raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as {example}")
            if name in found:
                raise click.BadParameter(f"{name!r} is given twice")
            try:
                found[name] = read(value)
            except ValueError as err:
                raise click.BadParameter(f"{text!r}: {err}; wanted a text such as {example}") from err
        return found

    return callback


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def two_numbers(text: str) -> tuple[float, float]:
    """``0.1:0.6``."""
    first, colon, second = text.partition(":")
    if not colon:
        raise ValueError("two numbers are needed, with a colon between")
    return number(first), number(second)


def quantity(text: str) -> float:
    """``7B`` as well as ``7e9`` and ``0.5``."""
    try:
        return number(text)
    except ValueError:
        try:
            return float(parse_count(text))
        except ConfigError as err:
            raise ValueError(str(err)) from err


def quantities(text: str) -> list[float]:
    """``100M,200M``."""
    return [quantity(part) for part in text.split(",")]


source = click.argument("source", metavar="STUDY|TABLE", type=click.Path(exists=True, path_type=Path))

column = click.option(
    "--column",
    "columns",
    multiple=True,
    callback=named(str, "N=params"),
    metavar="NAME=COLUMN",
    help="The table's own name of a column, such as N=params; repeatable.",
)
mode = click.option(
    "--mode", help="Take the runs of this mode only: scratch, cooldown, finetune, ptq or baseline."
)
recipe = click.option(
    "--recipe", help="Take the runs of this recipe only, such as w4a4 (whatever its group size)."
)
method = click.option(
    "--method", help="Take the runs of this method of quantization after training only, such as gptq."
)
fix = click.option(
    "--fix",
    multiple=True,
    callback=named(number, "gG=0.78"),
    metavar="NAME=VALUE",
    help="Hold an exponent or a constant; repeatable.",
)
level = click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Of the intervals printed.",
)


def new_runs(command: Command) -> Command:
    """The options that say which runs could be made: ``axes``, ``budget``, ``noise``."""
    for option in (
        click.option("--noise", type=float, help="Relative s.d. of a run.  [default: that of the fit]"),
        click.option(
            "--budget", type=float, required=True, metavar="FLOPS", help="Of all new runs together."
        ),
        click.option(
            "--try",
            "axes",
            callback=named(quantities, "N=100M,200M"),
            multiple=True,
            required=True,
            metavar="NAME=VALUE,...",
            help="What runs may be: each variable, with its values; all combinations are candidates.",
        ),
    ):
        command = option(command)
    return command


def columns(heads: Sequence[str], cells: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table, its first columns to the left."""
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (heads, *cells)
    ]


def rows(command: Command) -> Command:
    """The options that choose rows and columns: ``mode``, ``recipe``, ``method``, ``columns``."""
    return mode(recipe(method(column(command))))


def observations(path: Path, mode: str | None = None) -> Any:
    """The finished runs of a study folder, in mode ``baseline`` its unquantized ones; a file as it is."""
    if not path.is_dir():
        return path
    from qscale.sweep import table

    baselines = mode == "baseline"
    return table.observations(path, baselines=baselines, say=lambda line: click.echo(line, err=True))
