"""Choices agree with an exhaustive look, probabilities with draws counted by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from qscale.errors import PlanError
from qscale.planning import (
    Architecture,
    Evidence,
    Serving,
    difference,
    footprint,
    group_worth,
    least_loss,
    within_tolerance,
)

MODELS = [(Architecture.typical(size), 1e12) for size in (1e9, 3e9, 7e9, 13e9)]


@pytest.fixture(scope="module")
def published():
    return Evidence.of(["chen2025/w4a16", "chen2025/w4a4"], baseline="chen2025/baseline")


@pytest.mark.parametrize("budget", [2e9, 8e9, 2e10, 1e11])
def test_the_best_is_the_least_loss_of_all_that_fits(published, budget):
    plan = least_loss(published, budget, MODELS)
    found = {}
    for shape, D in MODELS:
        for recipe in (None, *(f"{kind}:{g}" for kind in ("w4a16", "w4a4")
                               for g in ("g32", "g64", "g128", "g256", "channel"))):  # fmt: skip
            if footprint(shape, recipe).total <= budget:
                found[shape.name, recipe] = published.loss(published.option(shape, D, recipe)).value
    assert plan.meets == len(found) and len(plan.rows) == 4 * 11
    best = min(found, key=found.get)
    assert (
        plan.best.option.architecture.name,
        plan.best.option.recipe and str(plan.best.option.recipe),
    ) == best
    values = [row.loss.value for row in plan.rows[: plan.meets]]
    assert values == sorted(values)
    assert all(row.footprint.total > budget for row in plan.rows[plan.meets :])


def test_the_front_is_what_no_option_beats_in_both(published):
    plan = least_loss(published, 8e9, MODELS)
    for row in plan.rows:
        beaten = any(
            other.footprint.total <= row.footprint.total and other.loss.value < row.loss.value
            for other in plan.rows
        )
        assert (row in plan.front) == (not beaten)


def test_nothing_fits_a_budget_of_a_byte(published):
    plan = least_loss(published, 1, MODELS)
    assert plan.best is None and plan.meets == 0
    assert plan.rows[0].footprint.total == min(row.footprint.total for row in plan.rows)
    with pytest.raises(PlanError, match="more than none"):
        least_loss(published, 0, MODELS)


def test_the_cache_can_change_the_choice(published):
    alone = least_loss(published, 8e9, MODELS).best
    used = least_loss(published, 8e9, MODELS, serving=Serving(context=32768)).best
    assert used.option.architecture.N < alone.option.architecture.N


def test_chances_are_shares_of_paired_draws(own):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    plan = least_loss(evidence, 2e10, [(Architecture.typical(s), 1e11) for s in (6e8, 7e8)])
    rows = [row for row in plan.rows[: plan.meets] if row.chance is not None]
    assert sum(row.chance for row in rows) == pytest.approx(1)
    stacked = np.stack([row.loss.draws for row in rows])
    assert rows[0].chance == np.mean(stacked[0] == stacked.min(axis=0))


def test_laws_about_one_recipe_are_shown_side_by_side(llama):
    names = ["panferov2025/quest", "panferov2025/lsq", "measured/quest-additive"]
    evidence = Evidence.of(names)
    plan = least_loss(evidence, 1e11, [(llama, 1e11)], recipes=["w4a4:channel"])
    row = next(row for row in plan.rows if row.option.recipe is not None)
    assert row.option.source.label == names[0] and sorted(row.others) == sorted(names[1:])
    for name, value in row.others.items():
        assert value == evidence.delta(evidence.option(llama, 1e11, "w4a4:channel", law=name)).value


def test_methods_after_training_and_training_are_options_of_their_own(llama):
    evidence = Evidence.of(["chen2025/w4a16", "ouyang2024/qid"], baseline="chen2025/baseline")
    plan = least_loss(evidence, 1e11, [(llama, 1e12)], recipes=["w4a16:g128"])
    assert sorted(row.option.how for row in plan.rows) == ["", "QAT", "gptq"]
    assert plan.by_law["ouyang2024/qid"] != plan.by_law["chen2025/w4a16"] or plan.by_law


def test_what_is_outside_the_reach_is_not_asked(llama):
    near = Evidence.of(["chen2025/w4a16", "kumar2025/ptq"], baseline="chen2025/baseline", reach=30)
    plan = least_loss(near, 1e11, [(llama, 2e12)])
    assert {row.option.source.label for row in plan.rows if row.option.source} == {"chen2025/w4a16"}


def test_sizes_are_compared_by_loss_which_needs_a_baseline():
    evidence = Evidence.of(["chen2025/w4a16"])
    with pytest.raises(PlanError, match="needs a baseline"):
        least_loss(evidence, 8e9, MODELS)
    plan = least_loss(evidence, 8e9, MODELS[:1])
    assert plan.best.option.recipe is None  # without quantization delta is 0
    with pytest.raises(PlanError, match="no model"):
        least_loss(evidence, 8e9, [])


def test_plans_are_strict_json(published):
    plan = least_loss(published, 8e9, MODELS)
    text = json.dumps(plan.to_json(), allow_nan=False)
    assert json.loads(text)["best"] == str(plan.best.option)


@pytest.mark.parametrize("limit", [0.012, 0.02, 0.05, 1.0])
def test_the_smallest_within_a_tolerance(published, llama, limit):
    found = within_tolerance(published, limit, (llama, 1e11))
    for row in found.plan.rows:
        assert (row in found.plan.rows[: found.plan.meets]) == (row.delta.value <= limit)
    best = found.plan.best
    assert best.footprint.total == min(
        row.footprint.total for row in found.plan.rows if row.delta.value <= limit
    )
    if found.sure.option.recipe is not None:
        assert np.mean(found.sure.delta.draws <= limit) >= 0.9
        assert found.sure.footprint.total >= best.footprint.total


def test_the_largest_group_has_the_tolerance_for_delta(published, llama):
    delta = published.delta(published.option(llama, 1e11, "w4a16:g100")).value
    found = within_tolerance(published, delta, (llama, 1e11), recipes=["w4a16:g32", "w4a4:g32"])
    assert pytest.approx(100, rel=1e-9) == found.largest_group["w4a16 QAT"].G
    assert found.largest_group["w4a16 QAT"].outside.keys() == {"N"}
    assert (found.largest_group["w4a4 QAT"].G or 0) < 100
    assert math.isinf(within_tolerance(published, 5.0, (llama, 1e11)).largest_group["w4a16 QAT"].G)
    with pytest.raises(PlanError, match="tolerance=0"):
        within_tolerance(published, 0, (llama, 1e11))


def test_a_finer_group_against_a_larger_model(published, llama):
    found = group_worth(published, (llama, 1e11), "w4a16:g32", "w4a16:g128")
    assert found.extra_bits == pytest.approx(0.375) and found.scale == pytest.approx(4.5 / 4.125)
    fine, coarse = (published.option(llama, 1e11, f"w4a16:{g}") for g in ("g32", "g128"))
    assert found.gain.value == pytest.approx(published.delta(coarse).value - published.delta(fine).value)
    base, law = published.baseline.law, fine.source.law
    larger = llama.N * 4.5 / 4.125
    other = base.predict(N=larger, D=1e11) + law.predict(N=larger, D=1e11, G=128)
    assert found.against_larger.value == pytest.approx(other - published.loss(fine).value)
    with pytest.raises(PlanError, match="no more bits"):
        group_worth(published, (llama, 1e11), "w4a16:g128", "w4a16:g32")
    assert (
        group_worth(Evidence.of(["chen2025/w4a16"]), (llama, 1e11), "w4a16:g32", "w4a16:g64").against_larger
        is None
    )


def test_what_two_options_share_cancels_in_their_difference(own, llama):
    law, base = own
    evidence = Evidence.of([law], baseline=base)
    one, two = (evidence.option(llama, 1e11, f"w4a16:{g}") for g in ("g32", "g64"))
    found = difference(evidence, one, two)
    alone = np.hypot(np.std(evidence.loss(one).draws), np.std(evidence.loss(two).draws))
    assert np.std(found.draws) < alone / 5
    assert found.draws == pytest.approx(evidence.delta(one).draws - evidence.delta(two).draws, abs=1e-12)
    assert difference(evidence, one, one).draws == pytest.approx(np.zeros(1000))
    back = difference(evidence, two, one)
    assert back.value == pytest.approx(-found.value)
    assert back.chance_below(0) == pytest.approx(1 - found.chance_below(0), abs=1e-3)
    with pytest.raises(PlanError, match="differ in N or D"):
        difference(Evidence.of([law]), one, replace(two, D=2e11))
