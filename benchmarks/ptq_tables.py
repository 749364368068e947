"""Tables of a study of methods after training, in Markdown, for docs/ptq.md.

    python benchmarks/ptq_tables.py STUDY|TABLE [--recipe w=int4:g32] [--against rtn]

Four kinds: delta of every method and format at the largest D of each size; the exponents of each method's
law in N, D and G; in N, D, G and bits over weights of integers; and each method's delta over that of another,
from the same runs.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qscale import laws
from qscale.errors import QScaleError
from qscale.formats.recipe import without_span
from qscale.laws.columns import read_columns
from qscale.sweep.table import observations
from qscale.units import short_count

Row = Mapping[str, Any]
#: Fewer rows than these determine no law of three exponents.
_FEWEST = 9


def read(path: Path) -> list[Row]:
    """The rows of the mode ptq, of a study or a table."""
    if path.is_dir():
        found: list[Row] = list(observations(path))
    else:
        columns = read_columns(path)
        found = [
            {name: _number(name, values[i]) for name, values in columns.items()}
            for i in range(len(columns["delta"]))
        ]
    return [row for row in found if row["mode"] == "ptq" and row["delta"] is not None]


def _number(name: str, value: Any) -> Any:
    if name in ("N", "D", "G", "P", "delta", "delta_se", "relmse_output", "bits_per_weight", "bits_per_kv"):
        return float(value) if str(value) else None
    return value


def methods_by_recipe(rows: Sequence[Row]) -> Iterable[str]:
    """For each size, at its largest D: a line a method, a column a recipe."""
    for n in sorted({row["N"] for row in rows}):
        most = max(row["D"] for row in rows if row["N"] == n)
        own = {(r["method"], r["recipe"]): r for r in rows if r["N"] == n and r["D"] == most}
        recipes = list(dict.fromkeys(recipe for _, recipe in own))
        yield f"\nN = {short_count(n)}, D = {short_count(most)}: delta in thousandths of a nat\n"
        yield _line(["method", *(f"`{recipe}`" for recipe in recipes)])
        yield _line(["---"] * (1 + len(recipes)))
        for method in dict.fromkeys(method for method, _ in own):
            cells = [_cell(own.get((method, recipe))) for recipe in recipes]
            yield _line([f"`{method}`", *cells])


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{1e3 * row['delta']:.1f} +- {1e3 * row['delta_se']:.1f}"


def exponents(rows: Sequence[Row]) -> Iterable[str]:
    """A line for each method and kind of recipe: the law in N, D and, where it varies, G."""
    yield _line(["recipe", "method", "runs", "delta0", "gN", "gD", "gG", "error"])
    yield _line(["---"] * 8)
    for recipe, method, own in _sets(rows):
        varied = len({row["G"] for row in own}) > 1
        try:
            law = laws.fit(own, fix={} if varied else {"gG": 0.0})
            reference = law.reference
        except QScaleError as error:
            yield _line([f"`{recipe}`", f"`{method}`", str(len(own)), f"no law: {error}", "", "", "", ""])
            continue
        if not law.usable or reference is None:
            yield _line(
                [f"`{recipe}`", f"`{method}`", str(len(own)), f"no law: {law.status}", "", "", "", ""]
            )
            continue
        cells = [
            f"{reference.parameters[name]:.3g} [{low:.3g}, {high:.3g}]" if name in reference.intervals else ""
            for name in ("delta0", "gN", "gD", "gG")
            for low, high in [reference.intervals.get(name, (0.0, 0.0))]
        ]
        error = law.diagnostics.get("mean_relative_error")
        yield _line(
            [f"`{recipe}`", f"`{method}`", str(len(own)), *cells, "" if error is None else f"{error:.0%}"]
        )


def with_bits(rows: Sequence[Row]) -> Iterable[str]:
    """A line for each method that rounded weights to integers of several widths: the law with bits in it."""
    yield _line(["method", "runs", "delta0", "gN", "gD", "gG", "c", "error"])
    yield _line(["---"] * 8)
    integers = [row for row in rows if re.fullmatch(r"w\d+a16", _kind(row))]
    for method in dict.fromkeys(row["method"] for row in integers):
        own = _once(row for row in integers if row["method"] == method)
        if len({row["P"] for row in own}) < 2 or len({row["G"] for row in own}) < 2:
            continue
        law = laws.fit(own, "ptq-loglinear")
        if not law.usable or law.reference is None:
            continue
        ends = law.reference.intervals
        cells = [
            f"{law.reference.parameters[name]:.3g} [{ends[name][0]:.3g}, {ends[name][1]:.3g}]"
            for name in ("delta0", "gN", "gD", "gG", "c")
        ]
        error = law.diagnostics["mean_relative_error"]
        yield _line([f"`{method}`", str(len(own)), *cells, f"{error:.0%}"])


def contrasts(rows: Sequence[Row], against: str) -> Iterable[str]:
    """A line for each method and kind of recipe: its delta over that of another, run by run."""
    yield _line(["recipe", "method", f"delta over {against}'s", "gN less", "gD less", "gG less", "pairs"])
    yield _line(["---"] * 7)
    for recipe, method, own in _sets(rows):
        if method == against:
            continue
        both = own + _once(row for row in rows if _kind(row) == recipe and row["method"] == against)
        varied = len({row["G"] for row in own}) > 1
        try:
            found = laws.contrast(both, method, against, fix={} if varied else {"gG": 0.0})
        except QScaleError as error:
            yield _line([f"`{recipe}`", f"`{method}`", f"no ratio: {error}", "", "", "", ""])
            continue
        reference = found.law.reference
        if not found.law.usable or reference is None:
            yield _line([f"`{recipe}`", f"`{method}`", f"no ratio: {found.law.status}", "", "", "", ""])
            continue
        cells = [
            f"{reference.parameters[name]:.3g} [{low:.3g}, {high:.3g}]"
            for name in ("delta0", "gN", "gD", "gG")
            if name in reference.intervals
            for low, high in [reference.intervals[name]]
        ]
        cells += [""] * (4 - len(cells))
        yield _line([f"`{recipe}`", f"`{method}`", *cells, str(found.pairs)])


def _sets(rows: Sequence[Row]) -> Iterable[tuple[str, str, list[Row]]]:
    """Rows of one method and of one kind of recipe, whatever its granularity, that may hold a law."""
    for recipe in dict.fromkeys(_kind(row) for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            # Groups wider than a row are the row, so runs of two granularities may be one run.
            own = _once(row for row in rows if _kind(row) == recipe and row["method"] == method)
            if len(own) >= _FEWEST:
                yield recipe, method, own


def _once(rows: Iterable[Row]) -> list[Row]:
    return list({(row["N"], row["D"], row["G"], row["delta"]): row for row in rows}.values())


def _kind(row: Row) -> str:
    return without_span(row["recipe"])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--recipe", action="append", help="of the table of methods (default: all)")
    parser.add_argument("--against", default="rtn", help="the method that others are held against")
    asked = parser.parse_args()
    rows = read(asked.source)
    chosen = [row for row in rows if not asked.recipe or row["recipe"] in asked.recipe]
    parts = (methods_by_recipe(chosen), exponents(rows), with_bits(rows), contrasts(rows, asked.against))
    for part in parts:
        print(*part, "", sep="\n")


if __name__ == "__main__":
    main()
