"""The rounding error of a run's recipe, beside its delta."""

from __future__ import annotations

from itertools import islice

import pytest
from sweep.studies import board_at, finish, record_of

from qscale.errors import StoreError
from qscale.formats import relmse
from qscale.sweep.table import export, observations, rounding_error, rows


@pytest.fixture
def runs(tmp_path):
    store = board_at(tmp_path / "study").store
    for run in store.runs():
        finish(store, run)
    return store


def test_rows_have_the_error_of_both_operands_of_a_layer(runs):
    rows = {row["recipe"]: row["r"] for row in observations(runs.path, baselines=True)}
    for recipe, group in (("w4a4:g16", 16), ("w4a4:g32", 32)):
        one = relmse(f"int4:g{group}")
        assert rows[recipe] == pytest.approx((1 + one) ** 2 - 1)
    assert rows[None] is None


def test_error_of_one_operand_is_its_own_and_a_channel_takes_the_measured_group(runs):
    record = record_of(next(run for run in runs.runs() if run.recipe), G_weight=172.0)
    assert rounding_error("w4a16:g32", record) == relmse("int4:g32")
    assert rounding_error("w=int4:channel", record) == relmse("int4:channel", group_size=172)


def test_error_is_unknown_where_layers_differ_or_the_format_is_not_covered(runs):
    record = record_of(next(run for run in runs.runs() if run.recipe))
    assert rounding_error("w4a4:g32,down_proj.input=int8:g32", record) is None
    assert rounding_error("w=int4:g32@torchao", record) is None
    assert rounding_error("w=int4:channel", record) is None  # no group is on record


def test_rows_come_one_at_a_time_and_are_written_as_they_come(runs, tmp_path):
    seen = []

    def watched():
        for row in rows(runs.path, baselines=True):
            seen.append((row, [path.name for path in tmp_path.glob(".*")]))
            yield row

    assert export(watched(), tmp_path / "table.csv") == len(seen) == 6
    assert all(beside and beside[0].startswith(".table.csv.") for _, beside in seen)
    assert list(tmp_path.glob(".*")) == []
    assert [row for row, _ in seen] == observations(runs.path, baselines=True)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_export_that_breaks_off_leaves_the_old_file(runs, tmp_path, suffix):
    out = tmp_path / f"table.{suffix}"
    out.write_text("old")

    def broken():
        yield from islice(rows(runs.path), 2)
        raise StoreError("went wrong")

    with pytest.raises(StoreError, match="went wrong"):
        export(broken(), out)
    assert out.read_text() == "old" and list(tmp_path.glob(".*")) == []


def test_parquet_has_one_type_for_a_column_whatever_the_rows_hold(runs, tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr("qscale.sweep.table._ROW_GROUP", 2)
    export(rows(runs.path, baselines=True), tmp_path / "all.parquet")  # a baseline has no delta
    export(iter([]), tmp_path / "none.parquet")
    assert parquet.read_schema(tmp_path / "all.parquet") == parquet.read_schema(tmp_path / "none.parquet")
    assert parquet.ParquetFile(tmp_path / "all.parquet").num_row_groups == 3
    assert parquet.read_table(tmp_path / "all.parquet").to_pylist() == observations(runs.path, baselines=True)
