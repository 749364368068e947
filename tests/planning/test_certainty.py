"""Bands and probabilities are told only where every law that enters has an error; order is monotone."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale import laws
from qscale.errors import PlanError
from qscale.planning import (
    Architecture,
    Evidence,
    critical_data,
    difference,
    group_worth,
    least_loss,
    precision_for_compute,
    qat_repays,
    within_tolerance,
)
from qscale.planning.rows import shares_of_least

SEVEN, EIGHT = (Architecture.typical(size) for size in (7e9, 8e9))
PUBLISHED = Evidence.of(
    ["chen2025/w4a16", "chen2025/w4a4", "kumar2025/ptq", "ouyang2024/qid"], baseline="chen2025/baseline"
)
MODELS = [(Architecture.typical(size), 1e12) for size in (1e9, 3e9, 7e9)]


def test_a_law_without_a_band_leaves_the_difference_without_one():
    banded = PUBLISHED.option(SEVEN, 2e12, "w4a16:g32")
    bare = PUBLISHED.option(SEVEN, 2e12, "w6a16:channel")
    assert PUBLISHED.delta(banded).low is not None and PUBLISHED.delta(bare).low is None
    for pair in ((banded, bare), (bare, banded)):
        found = difference(PUBLISHED, *pair)
        assert found.draws is None and found.basis == "none"


def test_a_baseline_without_a_band_cancels_at_one_N_and_D_only():
    fine, coarse = (PUBLISHED.option(SEVEN, 2e12, f"w4a16:{g}") for g in ("g32", "g128"))
    whole = PUBLISHED.option(SEVEN, 2e12)
    assert PUBLISHED.loss(fine).low is None
    assert difference(PUBLISHED, fine, coarse).basis == "printed error"
    against = difference(PUBLISHED, fine, whole)
    assert against.draws == pytest.approx(PUBLISHED.delta(fine).draws)
    assert difference(PUBLISHED, whole, whole).draws is None
    assert difference(PUBLISHED, fine, PUBLISHED.option(EIGHT, 2e12, "w4a16:g32")).draws is None
    found = group_worth(PUBLISHED, (SEVEN, 2e12), "w4a16:g32", "w4a16:g128")
    assert found.chance_better is not None and found.chance_worth is None


def test_no_question_makes_up_a_probability():
    assert all(row.chance is None for row in least_loss(PUBLISHED, 1e10, MODELS).rows)
    assert all(one.chance is None for one in precision_for_compute(PUBLISHED, 1e22))
    found = qat_repays(PUBLISHED, SEVEN, "w4a16:g128")
    assert found.ratio.draws is None and found.chance_never is None
    assert critical_data(PUBLISHED, PUBLISHED.option(SEVEN, 1e9, "w4a16:g128")).tokens.low is None


def test_of_one_model_deltas_decide_and_no_quantization_is_certain():
    plan = least_loss(Evidence.of(["chen2025/w4a16"], baseline="chen2025/baseline"), 1e11, MODELS[:1])
    assert plan.best.option.recipe is None and plan.best.chance == 1
    assert sum(row.chance for row in plan.rows) == pytest.approx(1)


def test_options_that_a_law_cannot_tell_apart_share_the_chance():
    draws = np.array([1.0, 2.0, 3.0, 4.0])
    assert shares_of_least([draws, draws, None, draws + np.array([1, 1, 1, -1])]) == [
        0.375,
        0.375,
        None,
        0.25,
    ]
    assert shares_of_least([draws, None]) == [None, None]


def test_a_loss_has_the_band_of_both_laws(own):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    one, two = (evidence.option(shape, 1e11, "w4a16:g32") for shape in (SEVEN, EIGHT))
    assert evidence.loss(one).draws == pytest.approx(evidence.base(one).draws + evidence.delta(one).draws)
    there, back = (difference(evidence, *pair).draws for pair in ((one, two), (two, one)))
    assert np.mean(there < 0) + np.mean(back < 0) == 1
    half = Evidence.of([law], baseline="chen2025/baseline", comparable=True)
    assert half.loss(one).draws is None


def test_one_law_twice_would_agree_with_itself(own, tmp_path):
    law, _ = own
    with pytest.raises(PlanError, match="two laws are called chen2025/w4a16"):
        Evidence.of(["chen2025/w4a16", "chen2025/w4a16"])
    law.to_json(tmp_path / "a.json")
    law.to_json(tmp_path / "b.json")
    with pytest.raises(PlanError, match="one and the same"):
        Evidence.of([tmp_path / "a.json", tmp_path / "b.json"])


@pytest.mark.parametrize("given", [{"level": math.nan}, {"level": 1.0}, {"reach": math.nan}, {"reach": 0.5}])
def test_levels_and_reaches_are_numbers(given):
    with pytest.raises(PlanError, match=next(iter(given))):
        Evidence.of(["chen2025/w4a16"], **given)


def changed(tmp_path, **parts):
    laws.load("chen2025/w4a16").to_json(tmp_path / "law.json")
    content = json.loads((tmp_path / "law.json").read_text())
    for key, values in parts.items():
        content[key].update(values)
    content["law_id"] = None
    (tmp_path / "law.json").write_text(json.dumps(content))
    return tmp_path / "law.json"


def test_a_law_file_of_a_stranger_brings_no_escape_codes_and_no_flood(tmp_path):
    path = changed(tmp_path, quantization={"mode": "ptq", "method": "\x1b[31mX\n\nY"})
    evidence = Evidence.of([path])
    assert str(evidence.option(SEVEN, 1e12, "w4a16:g32")).isprintable()
    many = [f"w4a16:g{i}" for i in range(1, 2000)]
    with pytest.raises(PlanError, match="at most 200"):
        Evidence.of([changed(tmp_path, quantization={"recipe": None}, data={"recipes": many})])
    with pytest.raises(PlanError, match="predicts inf"):
        least_loss(Evidence.of([changed(tmp_path, parameters={"gD": 300.0})]), 1e11, [(SEVEN, 2e12)])


def test_a_law_that_falls_with_G_takes_the_longest(tmp_path):
    evidence = Evidence.of([changed(tmp_path, parameters={"gG": -1.5})])
    found = within_tolerance(evidence, 0.005, (SEVEN, 2e12))
    assert math.isinf(found.largest_group["w4a16 QAT"].G)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e8, 1e11), st.floats(1, 10))
def test_more_bytes_never_have_a_worse_best(budget, times):
    small, large = (least_loss(PUBLISHED, b, MODELS).best for b in (budget, budget * times))
    assert small is None or large.loss.value <= small.loss.value


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-3, 0.3), st.floats(1, 10))
def test_a_finer_tolerance_never_takes_fewer_bytes(nats, times):
    fine, coarse = (within_tolerance(PUBLISHED, t, MODELS[1]).plan.best for t in (nats, nats * times))
    assert coarse.footprint.total <= fine.footprint.total


@settings(max_examples=8, deadline=None)
@given(st.floats(5e8, 2e10), st.sampled_from(["w4a4:g32", "w6a16:channel", "w4a16:channel"]))
def test_another_option_never_makes_the_best_worse(budget, recipe):
    few, more = (
        least_loss(PUBLISHED, budget, MODELS, recipes=r) for r in (["w4a16:g128"], ["w4a16:g128", recipe])
    )
    assert few.best is None or more.best.loss.value <= few.best.loss.value
