"""The rounding error of a run's recipe, beside its delta."""

from __future__ import annotations

import pytest
from sweep.studies import board_at, finish, record_of

from qscale.formats import relmse
from qscale.sweep.table import observations, rounding_error


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
