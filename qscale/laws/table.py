"""Observations in: any common table, checked row by row, put in canonical order and hashed."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError
from qscale.laws.forms import FloatArray, Form

#: A span of a recipe text: G is a column of its own, so recipes are compared without it.
_SPAN = re.compile(r":(?:g\d+|channel|token|tensor)(?=[:@,]|$)")
_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"", "false", "0", "0.0", "no", "none"}
_MOST_NAMED = 5  # rows named in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Checked observations, sorted by content so that the order of the input rows changes nothing."""

    variables: dict[str, FloatArray]  #: N, D, G, ... by name
    target: FloatArray  #: in nats per token
    target_se: FloatArray  #: standard errors; 0 where none was given
    cell: NDArray[np.intp]  #: rows with equal variables share a number
    ladder: NDArray[np.intp]  #: correlated rows share a number
    rows: tuple[int, ...]  #: where each row stood in the input, from 1
    mode: str | None
    recipe: str | None  #: without its granularity
    dialect: str | None
    hash: str  #: sha256 of the canonical rows
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.target)


def read_table(source: Any, form: Form, *, mode: str | None = None, recipe: str | None = None) -> Table:
    """Read and check observations for a form.

    Args:
        source: A pandas DataFrame, a dict of arrays, a list of dicts, or the path of a CSV or Parquet file.
            Columns: the form's variables and its target (``N, D, G, delta``); optional ``delta_se``,
                ``seed``, ``ladder`` (rows of one ladder are correlated; without it rows of one N and seed
                are), ``mode``, ``recipe``, ``dialect``, ``family``, ``corpus``, ``diverged``. Other columns
                are ignored.
        form: Names the columns and their domain.
        mode: Keep the rows of this mode only.
        recipe: Keep the rows of this recipe only: ``w4a4`` whatever the granularity, ``w4a4:g32`` exactly.

    Raises:
        LawError: A column is missing, a value is not a finite number or outside the form's domain, or rows of
            several modes or recipes would be mixed. Rows are counted from 1, a CSV header not counted.

    Example:
        >>> from qscale.laws.forms import FORMS
        >>> rows = {"N": [2e4, 2e5], "D": [1e6, 4e6], "G": [32, 32], "delta": [0.05, 0.04]}
        >>> len(read_table(rows, FORMS["qat-unified"]))
        2
    """
    columns = _columns(source)
    if not columns:
        raise LawError("no observations: the table is empty")
    required = [v.name for v in form.variables] + [form.target]
    for name in required:
        if name not in columns:
            raise LawError(f"no column {name!r} in the observations; columns: {', '.join(columns)}")
    notes: list[str] = []
    rows = list(range(len(columns[form.target])))
    rows = _drop_diverged(columns, rows, notes)
    rows, chosen_mode = _choose(columns, rows, "mode", mode)
    rows, chosen_recipe = _choose(columns, rows, "recipe", recipe)
    rows = _drop_without_g(columns, rows, notes)
    if not rows:
        raise LawError("no observations: the table has no rows that can enter a fit")
    numbers = {name: _numbers(columns[name], rows, name) for name in required}
    numbers["se"] = _errors(columns, rows, f"{form.target}_se", notes)
    _check_domain(form, numbers, rows)
    dialect = _dialect(columns, rows, notes)
    for name in ("family", "corpus"):
        _note_mixed(columns, rows, name, notes)
    return _assemble(form, columns, rows, numbers, (chosen_mode, chosen_recipe, dialect), notes)


def _assemble(
    form: Form,
    columns: Mapping[str, list[Any]],
    rows: list[int],
    numbers: Mapping[str, FloatArray],
    labels: tuple[str | None, str | None, str | None],
    notes: list[str],
) -> Table:
    """Sort the rows by content, number cells and ladders, and hash."""
    names = [v.name for v in form.variables]
    ladders = _ladders(columns, rows, numbers[names[0]], notes)
    canonical = [
        [*(float(numbers[n][i]) for n in names), float(numbers[form.target][i]), float(numbers["se"][i]), key]
        for i, key in enumerate(ladders)
    ]
    order = sorted(range(len(rows)), key=lambda i: (*canonical[i][:-1], json.dumps(canonical[i][-1])))
    canonical = [canonical[i] for i in order]
    repeats = sum(a == b for a, b in pairwise(canonical))
    if repeats:
        notes.append(f"{repeats} rows repeat another row exactly")
    cells = [tuple(row[: len(names)]) for row in canonical]
    mode, recipe, dialect = labels
    content = json.dumps(
        [form.target, names, mode, recipe, dialect, canonical], separators=(",", ":"), allow_nan=False
    )
    return Table(
        variables={n: numbers[n][order] for n in names},
        target=numbers[form.target][order],
        target_se=numbers["se"][order],
        cell=_codes(cells),
        ladder=_codes([json.dumps(row[-1]) for row in canonical]),
        rows=tuple(rows[i] + 1 for i in order),
        mode=mode,
        recipe=recipe,
        dialect=dialect,
        hash=hashlib.sha256(content.encode()).hexdigest(),
        notes=tuple(notes),
    )


def _columns(source: Any) -> dict[str, list[Any]]:
    """Any accepted source as lists by column name, all of one length."""
    if isinstance(source, (str, Path)):
        return _read_file(Path(source))
    if hasattr(source, "columns") and hasattr(source, "iloc"):  # a DataFrame, without importing pandas
        return {str(name): source[name].tolist() for name in source.columns}
    if isinstance(source, Mapping):
        return _from_arrays(source)
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        names = dict.fromkeys(str(name) for row in source for name in row)
        return {name: [row.get(name) for row in source] for name in names}
    raise LawError(
        f"observations of type {type(source).__name__}: give a DataFrame, a dict of arrays, a list of dicts, "
        "or the path of a .csv or .parquet file"
    )


def _from_arrays(source: Mapping[Any, Any]) -> dict[str, list[Any]]:
    columns = {}
    for name, values in source.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise LawError(f"column {name!r} is {values!r}; a dict of observations holds one array a column")
        columns[str(name)] = np.asarray(values).tolist() if hasattr(values, "dtype") else list(values)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise LawError(f"columns differ in length: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    return columns


def _read_file(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise LawError(f"{path}: no such file")
    if path.suffix == ".csv":
        return _read_csv(path)
    if path.suffix in (".parquet", ".pq"):
        return _read_parquet(path)
    raise LawError(f"{path}: a table is a .csv or .parquet file")


def _read_csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream, strict=True) if line]
    except (csv.Error, UnicodeDecodeError) as err:
        raise LawError(f"{path} cannot be read as CSV: {err}") from err
    if not lines:
        raise LawError(f"{path} is empty")
    header = [name.strip() for name in lines[0]]
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise LawError(f"{path} has two columns named {twice[0]!r}")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise LawError(f"{path}, row {number}: {len(line)} values for {len(header)} columns")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as err:
        raise LawError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow), or use CSV") from err
    try:
        columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as err:
        raise LawError(f"{path} cannot be read as Parquet: {err}") from err
    return columns


def _missing(value: Any) -> bool:
    if value is None or str(value).strip() in ("", "<NA>", "NaT"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _numbers(column: Sequence[Any], rows: Iterable[int], name: str) -> FloatArray:
    return np.array([_number(column[i], i, name) for i in rows], dtype=np.float64)


def _number(value: Any, row: int, name: str) -> float:
    if _missing(value):
        raise LawError(f"row {row + 1}: {name} is missing")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as err:
        raise LawError(f"row {row + 1}: {name}={value!r} is not a number") from err
    if isinstance(value, (bool, np.bool_)) or not math.isfinite(number):
        raise LawError(f"row {row + 1}: {name}={value!r} is not a finite number")
    return number


def _errors(columns: Mapping[str, list[Any]], rows: list[int], name: str, notes: list[str]) -> FloatArray:
    """Standard errors; 0 where a row has none."""
    if name not in columns:
        return np.zeros(len(rows))
    column = columns[name]
    absent = sum(_missing(column[i]) for i in rows)
    if 0 < absent < len(rows):
        notes.append(f"{absent} of {len(rows)} rows have no {name}; taken as 0")
    out = np.array([0.0 if _missing(column[i]) else _number(column[i], i, name) for i in rows])
    for i, value in zip(rows, out, strict=True):
        if value < 0:
            raise LawError(f"row {i + 1}: {name}={value:g} is negative")
    return out


def _check_domain(form: Form, numbers: Mapping[str, FloatArray], rows: list[int]) -> None:
    for variable in form.variables:
        values = numbers[variable.name]
        fits = values >= variable.least if variable.least_fits else values > variable.least
        if not fits.all():
            bad = [i for i, ok in enumerate(fits) if not ok]
            raise LawError(
                f"{_name_rows([rows[i] + 1 for i in bad])}: {variable.name}={values[bad[0]]:g}; a fit of "
                f"{form.id!r} takes {variable.name} ({variable.unit}) above {variable.least:g}"
            )


def _drop_diverged(columns: Mapping[str, list[Any]], rows: list[int], notes: list[str]) -> list[int]:
    if "diverged" not in columns:
        return rows
    gone = []
    for i in rows:
        value = columns["diverged"][i]
        text = "" if _missing(value) else str(value).strip().lower()
        if text not in _TRUE | _FALSE:
            raise LawError(f"row {i + 1}: diverged={columns['diverged'][i]!r} is neither true nor false")
        if text in _TRUE:
            gone.append(i)
    if gone:
        notes.append(f"{len(gone)} diverged rows left out: {_name_rows([i + 1 for i in gone])}")
    return [i for i in rows if i not in set(gone)]


def _drop_without_g(columns: Mapping[str, list[Any]], rows: list[int], notes: list[str]) -> list[int]:
    """A scale per tensor has no G, nor has a recipe whose weights and inputs differ in it."""
    if "G" not in columns:
        return rows
    gone = {i for i in rows if _missing(columns["G"][i])}
    if gone:
        notes.append(f"{len(gone)} rows without a G left out: {_name_rows([i + 1 for i in sorted(gone)])}")
    return [i for i in rows if i not in gone]


def _choose(
    columns: Mapping[str, list[Any]], rows: list[int], name: str, wanted: str | None
) -> tuple[list[int], str | None]:
    """Keep the rows of one mode or recipe; refuse to mix several."""
    if name not in columns:
        return rows, wanted
    exact = wanted is not None and without_span(wanted) != wanted
    texts = {i: "" if _missing(columns[name][i]) else str(columns[name][i]).strip() for i in rows}
    kinds = {i: text if name == "mode" or exact else without_span(text) for i, text in texts.items()}
    counts = Counter(kinds.values())
    listed = ", ".join(f"{kind or '(none)'} ({count} rows)" for kind, count in sorted(counts.items()))
    if wanted is not None:
        kept = [i for i in rows if kinds[i] == wanted]
        if not kept:
            raise LawError(f"no rows with {name}={wanted!r}; the table has {listed or 'no rows'}")
        return kept, wanted
    if len(counts) > 1:
        first = next(kind for kind in sorted(counts) if kind)
        raise LawError(
            f"column {name!r} mixes {listed}; a law belongs to one {name}: choose with {name}={first!r}"
        )
    return rows, next(iter(counts), "") or None


def without_span(recipe: str) -> str:
    """A recipe text without its granularities.

    >>> without_span("w4a4:g32"), without_span("w=int4:g128:asym@torchao,a=fp8_e4m3:token,rot=hadamard:128")
    ('w4a4', 'w=int4:asym@torchao,a=fp8_e4m3,rot=hadamard:128')
    """
    return _SPAN.sub("", recipe.strip())


def _dialect(columns: Mapping[str, list[Any]], rows: list[int], notes: list[str]) -> str | None:
    if "dialect" not in columns:
        return None
    _note_mixed(columns, rows, "dialect", notes)
    kinds = {str(columns["dialect"][i]) for i in rows if not _missing(columns["dialect"][i])}
    return kinds.pop() if len(kinds) == 1 else None


def _note_mixed(columns: Mapping[str, list[Any]], rows: list[int], name: str, notes: list[str]) -> None:
    if name in columns:
        kinds = sorted({str(columns[name][i]) for i in rows})
        if len(kinds) > 1:
            notes.append(f"rows of {len(kinds)} values of {name!r} are fitted as one: {', '.join(kinds)}")


def _ladders(
    columns: Mapping[str, list[Any]], rows: list[int], sizes: FloatArray, notes: list[str]
) -> list[Any]:
    """What tells the ladder of each row: the column, else size and seed."""
    if "ladder" in columns:
        for i in rows:
            if _missing(columns["ladder"][i]):
                raise LawError(f"row {i + 1}: ladder is missing")
        return [str(columns["ladder"][i]) for i in rows]
    if "seed" in columns:
        seeds = ["" if _missing(columns["seed"][i]) else _plain(columns["seed"][i]) for i in rows]
        return [[float(n), seed] for n, seed in zip(sizes, seeds, strict=True)]
    notes.append("no column 'ladder' or 'seed': all rows of one size count as one ladder")
    return [[float(n)] for n in sizes]


def _plain(value: Any) -> str:
    """One text for 0, 0.0 and "0": pandas makes integers with gaps floats."""
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") else text


def _codes(keys: Sequence[Any]) -> NDArray[np.intp]:
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.intp)


def _name_rows(rows: list[int]) -> str:
    named = ", ".join(str(row) for row in rows[:_MOST_NAMED])
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more}"
