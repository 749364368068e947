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


def test_a_part_of_a_recipe_is_not_taken_apart_again():
    rows = [
        row("w4a4:g32", 0.09), row("w4a16:g32", 0.04), row("w16a4:g32", 0.06),
        row("w4a4:g32,fc2.input=none", 0.07),  # its weights alone are those of w4a4:g32
        row("w4a4:g32,layers.0.mlp.down_proj.input=none", 0.08),
    ]  # fmt: skip
    (found,) = decompose(rows)
    assert (found.recipe, list(found.inputs), len(found.layers)) == ("w4a4:g32", ["fc2"], 1)


def test_cells_are_not_mixed_and_diverged_runs_are_left_out():
    rows = [
        row("w4a4:g32", 0.09),
        row("w4a16:g32", 0.04, mode="scratch"),
        row("w16a4:g32", 0.06, D=2 * 10**6),
        row("w4a16:g32", None),
    ]
    assert decompose(rows) == []


def test_layers_are_ranked_by_what_their_inputs_cost():
    base = "w4a4:g32,down_proj.input=int8:g32"
    costs = {"layers.0.mlp.up_proj": 0.085, "layers.1.mlp.up_proj": 0.07, "layers.1.mlp.down_proj": 0.0895}
    rows = [row(base, 0.09, seed) for seed in (0, 1)]
    rows += [row(f"{base},{layer}.input=none", delta, 0) for layer, delta in costs.items()]
    rows += [row(f"{base},fc1.input=none", 0.06, seed) for seed in (0, 1)]
    rows += [
        row(f"{base},layers.0.self_attn.o_proj.input=none", 0.05, 2),  # no seed in common
        row(f"{base},layers.0.self_attn.q_proj.weight=none", 0.05, 0),  # a weight
        row("w4a4:g16,down_proj.input=int8:g32,layers.0.mlp.up_proj.input=none", 0.05),  # another recipe
        row(f"{base},layers.0.mlp.up_proj.input=none,layers.1.mlp.up_proj.input=none", 0.05),  # two layers
    ]
    found = next(each for each in decompose(rows) if each.recipe == base)
    names = ("layers.1.mlp.up_proj", "layers.0.mlp.up_proj", "layers.1.mlp.down_proj")
    assert tuple(found.layers) == names
    assert [mean.value for mean in found.layers.values()] == pytest.approx([0.02, 0.005, 0.0005])
    assert found.layers[names[0]].se == pytest.approx(math.hypot(0.001, 0.001))
    assert {role: mean.value for role, mean in found.inputs.items()} == {"fc1": pytest.approx(0.03)}
    assert list(found.to_json()["layers"]) == list(names)
