"""Run identity: everything that changes the numbers, and nothing else."""

import json

import pytest
from run_configs import run_config

from qscale.errors import ConfigError
from qscale.training.config import RunConfig


def test_run_id_is_pinned_so_that_old_stores_stay_valid():
    assert run_config().run_id == "9abf6516b64f27ab"
    assert run_config(mode="cooldown", recipe="w4a4:g32").run_id == "656b3fb3fed457b8"


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 200 * 128},
        {"init_seed": 1},
        {"data_seed": 1},
        {"corpus_sha256": "1" * 64},
        {"learning_rate": 0.5},
        {"eval_windows": 7},
        {"numerics_version": 99},
        {"mode": "cooldown", "recipe": "w4a4:g32"},
    ],
)
def test_run_id_changes_with_anything_that_changes_the_numbers(change):
    assert run_config(**change).run_id != run_config().run_id


def test_cooldown_recipes_and_all_d_share_the_baseline_trunk():
    trunk = run_config().trunk_id
    assert run_config(mode="cooldown", recipe="w4a4:g32").trunk_id == trunk
    assert run_config(tokens=300 * 128, eval_windows=9, cooldown_shape="1-sqrt").trunk_id == trunk


def test_scratch_recipe_has_a_trunk_of_its_own():
    trunks = {
        run_config().trunk_id,
        run_config(mode="scratch", recipe="w4a4:g32").trunk_id,
        run_config(mode="scratch", recipe="w4a4:g16").trunk_id,
    }
    assert len(trunks) == 3


def test_baseline_of_any_mode_is_the_same_run():
    baselines = {
        run_config(mode=mode, recipe="w4a4:g32").baseline().run_id for mode in ("cooldown", "scratch")
    }
    assert baselines == {run_config().run_id}


def test_recipe_is_stored_in_canonical_form():
    a, b = (run_config(mode="cooldown", recipe=text) for text in ("w4a4:g32", "w=int4:g32,a=int4:g32"))
    assert a.run_id == b.run_id


def test_json_round_trip():
    config = run_config(mode="cooldown", recipe="w4a4:g32")
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens=0: must be positive"),
        ({"tokens": 100}, "not a whole number of 128-token steps"),
        ({"batch_sequences": -1}, "batch_sequences=-1"),
        ({"mode": "cooled"}, "known are baseline, scratch, cooldown, finetune"),
        ({"mode": "cooldown"}, "only a baseline has no recipe"),
        ({"warmup_steps": 90}, "before the warm-up ends"),
        ({"beta2": 1.0}, "beta2=1.0"),
    ],
)
def test_invalid_configuration_names_field_and_value(change, message):
    with pytest.raises(ConfigError, match=message):
        run_config(**change)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"tokens=0.*context=0.*beta1=2"):
        run_config(tokens=0, context=0, beta1=2)


def test_annealing_is_of_the_run_and_not_of_its_trunk():
    plain, annealed = (
        run_config(mode="scratch", recipe=f"w4a4:g32,q=statsq/lsq{more}") for more in ("", ",anneal=0.1")
    )
    assert (plain.annealing_step, annealed.annealing_step) == (None, 90)
    assert annealed.run_id != plain.run_id
    assert annealed.trunk_id == plain.trunk_id
    assert annealed.baseline() == plain.baseline()
    assert run_config(mode="cooldown", recipe="w4a4:g32,q=statsq/lsq,anneal=0.001").annealing_step == 99
    cosine = run_config(mode="scratch", schedule="cosine", recipe="w4a4:g32,q=statsq/lsq,anneal=0.5")
    assert (cosine.branch_step, cosine.annealing_step) == (0, 50)


@pytest.mark.parametrize(
    "mode", [{"mode": "cooldown"}, {"mode": "scratch"}, {"mode": "finetune", "finetune_fraction": 0.2}]
)
def test_annealing_that_begins_before_the_branch_is_refused(mode):
    run_config(**mode, recipe="w4a4:g32,q=statsq/lsq,anneal=0.2")
    with pytest.raises(ConfigError, match="would begin at step 70 of 100, before the run is one of its own"):
        run_config(**mode, recipe="w4a4:g32,q=statsq/lsq,anneal=0.3")
