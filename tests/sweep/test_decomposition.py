"""Deltas taken apart, by hand on a few rows."""

from __future__ import annotations

import math

import pytest

from qscale.sweep.decomposition import decompose


def row(recipe, delta, seed=0, **more):
    cell = {"family": "llama", "corpus": "python", "tokenizer": "bytes", "mode": "cooldown"}
    return {**cell, "N": 20640, "D": 10**6, "G": 32, "recipe": recipe, "seed": seed, "delta": delta,
            "delta_se": 0.001, **more}  # fmt: skip


def test_ratio_and_additivity_are_means_over_seeds():
    rows = [
        row("w4a4:g32", 0.090, 0), row("w4a16:g32", 0.040, 0), row("w16a4:g32", 0.060, 0),
        row("w4a4:g32", 0.110, 1), row("w4a16:g32", 0.040, 1), row("w16a4:g32", 0.080, 1),
    ]  # fmt: skip
    (found,) = decompose(rows)
    assert (found.recipe, found.seeds, found.G) == ("w4a4:g32", 2, 32)
    assert found.both.value == pytest.approx(0.1)
    assert found.both.se == pytest.approx(0.01)  # (.11 - .09) / sqrt(2) / sqrt(2)
    assert found.ratio.value == pytest.approx((1.5 + 2.0) / 2)
    assert found.additivity.value == pytest.approx((0.9 + 0.11 / 0.12) / 2)
    assert found.inputs == {}


def test_one_seed_has_the_error_of_its_evaluation():
    rows = [row("w4a4:g32", 0.09), row("w4a16:g32", 0.04), row("w16a4:g32", 0.06)]
    (found,) = decompose(rows)
    assert found.weight.se == pytest.approx(0.001)
    # d(a / w): da / w and a dw / w^2
    assert found.ratio.se == pytest.approx(math.hypot(0.001 / 0.04, 0.06 * 0.001 / 0.04**2), rel=0.05)


def test_layers_left_out_say_what_their_inputs_cost():
    rows = [row("w4a4:g32", 0.09), row("w4a4:g32,fc2.input=none", 0.07), row("w4a4:g32,o.input=none", 0.085)]
    (found,) = decompose(rows)
    assert {role: round(mean.value, 6) for role, mean in found.inputs.items()} == {"fc2": 0.02, "o": 0.005}
    assert (found.weight, found.ratio) == (None, None)


def test_cells_are_not_mixed_and_diverged_runs_are_left_out():
    rows = [
        row("w4a4:g32", 0.09),
        row("w4a16:g32", 0.04, mode="scratch"),
        row("w16a4:g32", 0.06, D=2 * 10**6),
        row("w4a16:g32", None),
    ]
    assert decompose(rows) == []
