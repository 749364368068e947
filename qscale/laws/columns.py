"""Any common table as lists by column name: a DataFrame, arrays, dicts, CSV or Parquet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import LawError


def read_columns(source: Any) -> dict[str, list[Any]]:
    """Any accepted source as lists by column name, all of one length.

    Args:
        source: A pandas DataFrame, a dict of arrays, a list of dicts, or the path of a CSV (all values are
            texts) or Parquet file.

    Raises:
        LawError: None of these, or the file cannot be read; a file is named.
    """
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
