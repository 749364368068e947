"""What a report is made of: the rows of a study folder or of a table, and the fits to them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qscale import laws
from qscale.errors import FitError, LawError, StoreError
from qscale.formats.recipe import without_span
from qscale.laws import Law, forms
from qscale.laws.columns import read_columns
from qscale.sweep.table import COLUMNS, observations

Row = dict[str, Any]

_MISSING = {"", "none", "nan", "null"}
_TRUE = {"true", "1", "1.0", "yes"}
_MOST_FITTED = 24  # groups of runs that are given a law


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The finished runs of a study, or the rows of a table."""

    name: str
    folder: Path | None  #: of a study; None for a table
    rows: list[Row]  #: quantized runs
    baselines: list[Row]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Row]:
        """The quantized runs that have a delta."""
        return [row for row in self.rows if row.get("delta") is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that one law may describe: of one mode, one recipe whatever its group size, and one method."""

    mode: str | None
    recipe: str | None
    method: str | None
    rows: list[Row] = field(repr=False)

    @property
    def name(self) -> str:
        """For a heading."""
        return ", ".join(text for text in (self.recipe, self.mode, self.method) if text) or "all runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A group with the law that was fitted to it, or why there is none."""

    group: Group
    form: str
    law: Law | None
    why: str | None = None

    @property
    def usable(self) -> Law | None:
        """The law, where it may be used."""
        return self.law if self.law is not None and self.law.usable else None


def read(
    path: Path,
    *,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """The rows of a study folder, or of a CSV or Parquet table; only those of a mode, recipe or method.

    Raises:
        StoreError: The folder holds no study.
        LawError: The table cannot be read.
    """
    notes: list[str] = []
    if path.is_dir():
        rows = observations(path, baselines=True, say=notes.append)
    else:
        rows = _of_table(path, columns or {}, notes)
    quantized = [row for row in rows if not _is_baseline(row)]
    kept = [row for row in quantized if _wanted(row, mode, recipe, method)]
    if not rows and not path.is_dir():
        raise LawError(f"{path}: the table has no rows")
    if quantized and not kept:
        asked = ", ".join(text for text in (mode, recipe, method) if text)
        raise StoreError(
            f"{path}: no run is of {asked}; there are {', '.join(g.name for g in groups(quantized))}"
        )
    return Source(
        name=path.resolve().name,
        folder=path if path.is_dir() else None,
        rows=kept,
        baselines=[row for row in rows if _is_baseline(row)],
        notes=tuple(notes),
    )


def _of_table(path: Path, columns: Mapping[str, str], notes: list[str]) -> list[Row]:
    found = read_columns(path)
    for ours, theirs in columns.items():
        if theirs not in found:
            raise LawError(f"{path}: no column {theirs!r} for {ours}; columns: {', '.join(found)}")
    taken = set(columns.values())
    named = {name: values for name, values in found.items() if name not in taken}
    named |= {ours: found[theirs] for ours, theirs in columns.items()}
    read_as = {name: _reader(COLUMNS.get(name, str)) for name in named}
    length = len(next(iter(named.values()), []))
    bad: Counter[str] = Counter()
    rows = []
    for i in range(length):
        row: Row = {}
        for name, values in named.items():
            try:
                row[name] = read_as[name](values[i])
            except (TypeError, ValueError, OverflowError):
                row[name] = None
                bad[name] += 1
        rows.append(row)
    notes += [f"{n} values of column {name} are no numbers and count as missing" for name, n in bad.items()]
    return rows


def _reader(kind: type) -> Callable[[Any], Any]:
    def read_one(value: Any) -> Any:
        text = str(value).strip()
        if value is None or text.lower() in _MISSING:
            return None
        if kind is bool:
            return text.lower() in _TRUE
        if kind is str:
            return text
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return round(number) if kind is int else number

    return read_one


def _is_baseline(row: Row) -> bool:
    if row.get("mode") == "baseline":
        return True
    return not row.get("recipe") and row.get("delta") is None and not row.get("diverged")


def _wanted(row: Row, mode: str | None, recipe: str | None, method: str | None) -> bool:
    own = row.get("recipe") or ""
    return (
        mode in (None, row.get("mode"))
        and recipe in (None, own, without_span(own))
        and method in (None, row.get("method"))
    )


def groups(rows: Iterable[Row]) -> list[Group]:
    """Rows by mode, recipe and method, the largest group first."""
    found: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        recipe = row.get("recipe")
        key = (row.get("mode"), None if recipe is None else without_span(recipe), row.get("method"))
        found.setdefault(key, []).append(row)
    made = [Group(mode=m, recipe=r, method=q, rows=own) for (m, r, q), own in found.items()]
    return sorted(made, key=lambda group: -len(group.rows))


def fit_group(group: Group, form: str | None, objective: str | None = None) -> Fit:
    """The law of a group: no error where there is none, but a reason."""
    chosen = form or default_form(group.rows)
    try:
        with np.errstate(all="ignore"):
            law = laws.fit(group.rows, chosen, objective=objective)
    except (LawError, FitError) as error:
        return Fit(group=group, form=chosen, law=None, why=str(error))
    why = None if law.usable else law.status
    return Fit(group=group, form=law.form.id, law=law, why=why)


def default_form(rows: Sequence[Row]) -> str:
    """``qat-unified``, or ``qat-power`` where no two rows differ in G."""
    several = len({row["G"] for row in rows if row.get("G") is not None}) > 1
    return "qat-unified" if several else "qat-power"


def fit_groups(source: Source, form: str | None, objective: str | None) -> tuple[list[Fit], int]:
    """The laws of the largest groups, and how many groups are left."""
    if form is not None and forms.get(form).target == "loss":
        rows = [*source.baselines, *source.rows]
        if forms.get(form).by:
            whole = Group(mode=None, recipe=None, method=None, rows=rows)
            return [fit_group(whole, form, objective)], 0
        found = groups(rows)
    else:
        found = groups(source.measured)
    fits = [fit_group(group, form, objective) for group in found[:_MOST_FITTED]]
    return fits, len(found) - len(fits)


def baseline_law(source: Source) -> Fit:
    """A Chinchilla law of the study's own unquantized runs, or why there is none."""
    known = [row for row in source.baselines or _named_baselines(source.rows) if _is_known(row)]
    group = Group(mode="baseline", recipe=None, method=None, rows=known)
    if len({(row["N"], row["D"]) for row in known}) < _FEWEST_BASELINES:
        why = f"a law of five constants takes {_FEWEST_BASELINES} sizes and token counts or more"
        return Fit(group=group, form="chinchilla", law=None, why=why)
    return fit_group(group, "chinchilla")


def _is_known(row: Row) -> bool:
    return row.get("loss") is not None and bool(row.get("N")) and bool(row.get("D"))


def _named_baselines(rows: Iterable[Row]) -> list[Row]:
    """The baselines that the quantized rows of a table name by their losses, each once."""
    names = ("family", "corpus", "tokenizer", "seed", "N", "D")
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row.get("baseline_loss") is not None:
            own = {name: row[name] for name in names if row.get(name) is not None}
            key = tuple(own.items())
            found[key, row["baseline_loss"]] = {**own, "loss": row["baseline_loss"]}
    return list(found.values())


_FEWEST_BASELINES = 6
