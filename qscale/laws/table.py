"""Observations in: checked row by row, put in canonical order and hashed."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError
from qscale.formats.recipe import without_span
from qscale.laws.columns import read_columns
from qscale.laws.forms import ABSENT, FloatArray, Form, level_name

_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"", "false", "0", "0.0", "no", "none"}
_MOST_NAMED = 5  # rows named in one message
_LARGEST = 1e50  # of a number's magnitude, and its inverse the smallest: squares of ratios stay finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Checked observations, sorted by content so that the order of the input rows changes nothing."""

    form: Form  #: with the levels that the rows have
    variables: dict[str, FloatArray]  #: N, D, G, ... by name; levels by their numbers
    target: FloatArray  #: in nats per token
    target_se: FloatArray  #: standard errors to weigh by; all 0 where no row has one
    target_se_given: FloatArray  #: as they came; 0 where a row has none
    cell: NDArray[np.intp]  #: rows with equal variables share a number
    ladder: NDArray[np.intp]  #: correlated rows share a number
    format: NDArray[np.intp]  #: rows of one recipe, whatever its group size, share a number
    rows: tuple[int, ...]  #: where each row stood in the input, from 1
    mode: str | None
    recipe: str | None  #: without its granularity
    method: str | None  #: of quantization after training
    dialect: str | None
    source: str | None  #: the file, where the rows came from one
    about: dict[str, Any]  #: corpus and tokenizer, where all rows have one, and recipes without granularity
    hash: str  #: sha256 of the canonical rows
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.target)


def read_table(
    source: Any,
    form: Form,
    *,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Table:
    """Read and check observations for a form.

    Args:
        source: A pandas DataFrame, a dict of arrays, a list of dicts, or the path of a CSV or Parquet file.
            Columns: the form's variables and its target (``N, D, G, delta``); optional ``delta_se``,
            ``seed``, ``ladder`` (rows of one ladder are correlated; without it rows of one N and seed are),
            ``mode``, ``recipe``, ``method``, ``dialect``, ``family``, ``corpus``, ``diverged``, ``run_id``
            (tells a copy of a row from another run). Other columns are ignored.
        form: Names the columns and their domain.
        mode: Keep the rows of this mode only.
        recipe: Keep the rows of this recipe only: ``w4a4`` whatever the granularity, ``w4a4:g32`` exactly.
        method: Keep the rows of this method of quantization after training only, such as ``gptq``.
        columns: The table's own name for a column, where it is another: ``{"N": "params"}``.

    Raises:
        LawError: A column is missing, a value is not a finite number or outside the form's domain, or rows of
            several modes, recipes, methods or corpora would be mixed. Rows are counted from 1, a CSV header
            not counted; a file is named.

    Example:
        >>> from qscale.laws.forms import FORMS
        >>> rows = {"N": [2e4, 2e5], "D": [1e6, 4e6], "G": [32, 32], "delta": [0.05, 0.04]}
        >>> len(read_table(rows, FORMS["qat-unified"]))
        2
    """
    found = _renamed(read_columns(source), columns or {})
    file = str(source) if isinstance(source, (str, Path)) else None
    try:
        return _check(found, form, (mode, recipe, method), file)
    except LawError as err:
        raise LawError(err if file is None else f"{file}: {err}") from err


def _renamed(columns: Mapping[str, list[Any]], names: Mapping[str, str]) -> dict[str, list[Any]]:
    for ours, theirs in names.items():
        if theirs not in columns:
            raise LawError(f"no column {theirs!r} for {ours} in the table; columns: {', '.join(columns)}")
    taken = set(names.values())
    rest = {name: column for name, column in columns.items() if name not in taken}
    return rest | {ours: list(columns[theirs]) for ours, theirs in names.items()}


def _check(
    columns: Mapping[str, list[Any]],
    form: Form,
    wanted: tuple[str | None, str | None, str | None],
    file: str | None,
) -> Table:
    mode, recipe, method = wanted
    if not columns:
        raise LawError("no observations: the table is empty")
    required = [v.name for v in form.variables] + [form.target]
    for name in required:
        if name not in columns:
            raise LawError(f"no column {name!r} in the observations; columns: {', '.join(columns)}")
    notes: list[str] = []
    rows = list(range(len(columns[form.target])))
    rows = _drop_diverged(columns, rows, notes)
    if form.target == "delta":
        rows = _drop_baselines(columns, rows, form.target, notes)
    form, absent = _with_levels(form, columns, rows)
    rest = [i for i in rows if i not in absent]
    rest, chosen_mode = _choose(columns, rest, "mode", mode)
    mixes = "method" in form.by or any(v.name in ("r", "P") for v in form.variables)
    chosen_recipe = None
    if recipe is not None or not mixes:
        rest, chosen_recipe = _choose(columns, rest, "recipe", recipe)
    chosen_method = None
    if method is not None or (form.target == "delta" and "method" not in form.by):
        rest, chosen_method = _choose(columns, rest, "method", method)
    if any(v.name == "G" for v in form.variables):
        rest = _drop_without_g(columns, rest, notes)
    rows = sorted([*rest, *absent])
    if not rows:
        raise LawError("no observations: the table has no rows that can enter a fit")
    rows, _ = _choose(columns, rows, "corpus", None)
    columns = {**columns, **_unread(form, columns, rows, absent)}
    numbers = {name: _numbers(columns[name], rows, name) for name in required if name not in form.by}
    numbers |= {name: _level_numbers(form, name, columns[name], rows) for name in form.by}
    numbers["se_given"] = _errors(columns, rows, f"{form.target}_se")
    numbers["se"] = _filled(numbers["se_given"], rows, f"{form.target}_se", notes)
    _check_domain(form, numbers, rows)
    dialect = _dialect(columns, rows, notes)
    _note_mixed(columns, rows, "family", notes)
    if any(v.name == "P" for v in form.variables):
        _note_mixed(columns, rows, "recipe", notes)
    labels = (chosen_mode, chosen_recipe, chosen_method, dialect, file)
    return _assemble(form, columns, rows, numbers, labels, notes)


def _with_levels(form: Form, columns: Mapping[str, list[Any]], rows: list[int]) -> tuple[Form, set[int]]:
    """The form with the levels of the rows, and the rows at which its terms with levels are absent."""
    if not form.by:
        return form, set()
    levels: dict[str, list[str]] = {}
    absent: set[int] = set()
    for name in form.by:
        texts = {i: _level(columns[name][i], name) for i in rows}
        levels[name] = sorted(set(texts.values()), key=_level_order)
        absent |= {i for i, text in texts.items() if text == ABSENT}
    known = {v.name: v.levels for v in form.variables if v.levels}
    return (form if known else form.with_levels(levels)), absent


def _unread(
    form: Form, columns: Mapping[str, list[Any]], rows: list[int], absent: set[int]
) -> dict[str, list[Any]]:
    """Columns that unquantized rows need not have, such as G, filled with the value of another row."""
    read = {axis.variable for term in form.terms if term.by is None for axis in term.axes}
    out = {}
    for name in (v.name for v in form.variables if v.name not in read and v.name not in form.by):
        known = [columns[name][i] for i in rows if not _missing(columns[name][i])]
        if absent and known:
            fill = {i for i in absent if _missing(columns[name][i])}
            out[name] = [known[0] if i in fill else value for i, value in enumerate(columns[name])]
    return out


def _level(value: Any, name: str) -> str:
    """The level of a row; where nothing is said, nothing is quantized."""
    if _missing(value):
        return ABSENT
    return level_name(without_span(str(value)) if name == "method" else value)


def _level_order(level: str) -> tuple[bool, float, str]:
    try:
        return False, float(level), level
    except ValueError:
        return True, 0.0, level


def _level_numbers(form: Form, name: str, column: Sequence[Any], rows: list[int]) -> FloatArray:
    levels = next(v.levels for v in form.variables if v.name == name)
    out = []
    for i in rows:
        level = _level(column[i], name)
        if level not in levels:
            raise LawError(f"row {i + 1}: {name}={level!r}; the form has levels {', '.join(levels)}")
        out.append(1.0 + levels.index(level))
    return np.array(out)


def _assemble(
    form: Form,
    columns: Mapping[str, list[Any]],
    rows: list[int],
    numbers: Mapping[str, FloatArray],
    labels: tuple[str | None, str | None, str | None, str | None, str | None],
    notes: list[str],
) -> Table:
    """Sort the rows by content, drop repeats, number cells and ladders, and hash."""
    names = [v.name for v in form.variables]
    ladders = _ladders(columns, rows, numbers[names[0]], notes)
    canonical = [
        [*(float(numbers[n][i]) for n in names), float(numbers[form.target][i]), float(numbers["se"][i]), key]
        for i, key in enumerate(ladders)
    ]
    order = sorted(range(len(rows)), key=lambda i: (*canonical[i][:-1], json.dumps(canonical[i][-1]), i))
    order = _drop_repeats(columns, rows, canonical, order, notes)
    canonical = [canonical[i] for i in order]
    cells = [tuple(row[: len(names)]) for row in canonical]
    mode, recipe, method, dialect, file = labels
    of = [mode, recipe, dialect] if method is None else [mode, recipe, dialect, method]
    content = json.dumps([form.target, names, *of, canonical], separators=(",", ":"), allow_nan=False)
    return Table(
        form=form,
        variables={n: numbers[n][order] for n in names},
        target=numbers[form.target][order],
        target_se=numbers["se"][order],
        target_se_given=numbers["se_given"][order],
        cell=_codes(cells),
        ladder=_codes([json.dumps(row[-1]) for row in canonical]),
        format=_codes([_bare_recipe(columns, rows[i]) for i in order]),
        rows=tuple(rows[i] + 1 for i in order),
        mode=mode,
        recipe=recipe,
        method=method,
        dialect=dialect,
        source=file,
        about=_about(columns, rows),
        hash=hashlib.sha256(content.encode()).hexdigest(),
        notes=tuple(notes),
    )


def _about(columns: Mapping[str, list[Any]], rows: list[int]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in ("corpus", "tokenizer"):
        kinds = {str(columns[name][i]).strip() for i in rows} if name in columns else set()
        if len(kinds) == 1:
            out[name] = kinds.pop()
    if "recipe" in columns:
        named = [i for i in rows if not _missing(columns["recipe"][i])]
        out["recipes"] = sorted({_bare_recipe(columns, i) for i in named})
    return out


def _bare_recipe(columns: Mapping[str, list[Any]], row: int) -> str:
    return without_span(str(columns["recipe"][row])) if "recipe" in columns else ""


def _drop_repeats(
    columns: Mapping[str, list[Any]],
    rows: list[int],
    canonical: list[list[Any]],
    order: list[int],
    notes: list[str],
) -> list[int]:
    """One of each observation: a copy is no second run, and would count as one without any noise."""
    seen: set[str] = set()
    kept: list[int] = []
    gone: list[int] = []
    for i in order:
        who = [str(columns[name][rows[i]]).strip() for name in ("seed", "run_id") if name in columns]
        key = json.dumps([canonical[i], who])
        (gone if key in seen else kept).append(i)
        seen.add(key)
    if gone:
        notes.append(
            f"{len(gone)} rows repeat another row exactly: left out: "
            f"{name_rows(sorted(rows[i] + 1 for i in gone))}"
        )
    return kept


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
    if number != 0 and not 1 / _LARGEST <= abs(number) <= _LARGEST:
        raise LawError(
            f"row {row + 1}: {name}={value!r}; a fit takes magnitudes from {1 / _LARGEST:g} to {_LARGEST:g}"
        )
    return number


def _errors(columns: Mapping[str, list[Any]], rows: list[int], name: str) -> FloatArray:
    """Standard errors as they were given; 0 where a row has none."""
    if name not in columns:
        return np.zeros(len(rows))
    column = columns[name]
    out = np.array([0.0 if _missing(column[i]) else _number(column[i], i, name) for i in rows])
    for i, value in zip(rows, out, strict=True):
        if value < 0:
            raise LawError(f"row {i + 1}: {name}={value:g} is negative")
    return out


def _filled(given: FloatArray, rows: list[int], name: str, notes: list[str]) -> FloatArray:
    """Standard errors with the median of the positive ones where there is none, or a 0.

    Left at 0, such a row would rule the fit. The median in nats and not relative to the target: an error in
    proportion to a row's own noisy target would favour the rows that came out small, and has no sense at 0.
    """
    known = given > 0
    if known.all() or not known.any():
        return given
    typical = float(np.median(given[known]))
    unknown = name_rows([i + 1 for i, ok in zip(rows, known, strict=True) if not ok])
    notes.append(f"{name} is missing or 0 in {unknown}: {typical:.3g} is used, the median of the others")
    return np.where(known, given, typical)


def _check_domain(form: Form, numbers: Mapping[str, FloatArray], rows: list[int]) -> None:
    for variable in form.variables:
        if variable.levels:
            continue
        values = numbers[variable.name]
        fits = values >= variable.least if variable.least_fits else values > variable.least
        if not fits.all():
            bad = [i for i, ok in enumerate(fits) if not ok]
            raise LawError(
                f"{name_rows([rows[i] + 1 for i in bad])}: {variable.name}={values[bad[0]]:g}; a fit of "
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
        notes.append(f"{len(gone)} diverged rows left out: {name_rows([i + 1 for i in gone])}")
    return [i for i in rows if i not in set(gone)]


def _drop_baselines(
    columns: Mapping[str, list[Any]], rows: list[int], target: str, notes: list[str]
) -> list[int]:
    """A baseline is of mode ``baseline``, or has neither recipe nor target."""

    def is_baseline(i: int) -> bool:
        if "mode" in columns and str(columns["mode"][i]).strip() == "baseline":
            return True
        return "recipe" in columns and _missing(columns["recipe"][i]) and _missing(columns[target][i])

    gone = {i for i in rows if is_baseline(i)}
    if gone:
        notes.append(f"{len(gone)} baseline rows left out: {name_rows([i + 1 for i in sorted(gone)])}")
    return [i for i in rows if i not in gone]


def _drop_without_g(columns: Mapping[str, list[Any]], rows: list[int], notes: list[str]) -> list[int]:
    """A scale per tensor has no G, nor has a recipe whose weights and inputs differ in it."""
    if "G" not in columns:
        return rows
    gone = {i for i in rows if _missing(columns["G"][i])}
    if gone:
        notes.append(f"{len(gone)} rows without a G left out: {name_rows([i + 1 for i in sorted(gone)])}")
    return [i for i in rows if i not in gone]


def _choose(
    columns: Mapping[str, list[Any]], rows: list[int], name: str, wanted: str | None
) -> tuple[list[int], str | None]:
    """Keep the rows of one mode, recipe or corpus; refuse to mix several."""
    if name not in columns:
        if wanted is not None:
            raise LawError(
                f"{name}={wanted!r} cannot choose rows: the observations have no column {name!r}; "
                "add it, or leave the option out"
            )
        return rows, None
    exact = wanted is not None and without_span(wanted) != wanted
    texts = {i: "" if _missing(columns[name][i]) else str(columns[name][i]).strip() for i in rows}
    kinds = {i: without_span(text) if name == "recipe" and not exact else text for i, text in texts.items()}
    counts = Counter(kinds.values())
    listed = ", ".join(f"{kind or '(none)'} ({count} rows)" for kind, count in sorted(counts.items()))
    if wanted is not None:
        kept = [i for i in rows if kinds[i] == wanted]
        if not kept:
            raise LawError(f"no rows with {name}={wanted!r}; the table has {listed or 'no rows'}")
        return kept, wanted
    if len(counts) > 1:
        first = next(kind for kind in sorted(counts) if kind)
        choose = f"choose with {name}={first!r} (command line: --{name} {first})"
        raise LawError(
            f"column {name!r} mixes {listed}; a law belongs to one {name}: "
            + (f"keep the rows of one {name}" if name == "corpus" else choose)
        )
    return rows, next(iter(counts), "") or None


def _dialect(columns: Mapping[str, list[Any]], rows: list[int], notes: list[str]) -> str | None:
    if "dialect" not in columns:
        return None
    _note_mixed(columns, rows, "dialect", notes)
    kinds = {str(columns["dialect"][i]) for i in rows if not _missing(columns["dialect"][i])}
    return kinds.pop() if len(kinds) == 1 else None


def _note_mixed(columns: Mapping[str, list[Any]], rows: list[int], name: str, notes: list[str]) -> None:
    if name in columns:
        kinds = sorted({str(columns[name][i]) for i in rows})
        if name == "recipe":
            kinds = sorted({without_span(kind) for kind in kinds})
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


def name_rows(rows: Sequence[int]) -> str:
    """``rows 1, 2`` for a message; the first few and a count where there are many."""
    named = ", ".join(str(row) for row in rows[:_MOST_NAMED])
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more}"
