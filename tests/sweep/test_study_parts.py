"""What makes a study more than one product: zip, include, exclude, several corpora; and its JSON Schema."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from sweep.studies import SHA, TEXT
from sweep.test_grid import REFUSED

from qscale.errors import ConfigError
from qscale.models.families import FAMILIES
from qscale.models.ladder import name_of
from qscale.sweep.grid import Identity, Source, Study
from qscale.sweep.studyfile import AXES, EXCLUDABLE, KEYS, STUDY_MODES
from qscale.sweep.studyvalues import TRAINING

ROOT = Path(__file__).resolve().parents[2]
TWO = TEXT.replace("[tiny-20k]", "[tiny-20k, tiny-46k]")
SCHEMA = json.loads(resources.files("qscale.sweep").joinpath("study.schema.json").read_text())


def points(text):
    """Size, tokens, recipe, mode and seed of every quantized run."""
    return {
        (name_of(run.model), run.tokens, run.recipe, run.mode, run.init_seed)
        for run in Study.parse(text).runs(SHA)
        if run.recipe
    }


def ids(text):
    return {run.run_id for run in Study.parse(text).runs(SHA)}


def test_zip_pairs_what_a_product_would_cross():
    assert points(TWO + "zip: [sizes, tokens]\nseeds: [0, 1]") == {
        (size, tokens, f"w4a4:g{group}", "cooldown", seed)
        for size, tokens in (("tiny-20k", 8192), ("tiny-46k", 16384))
        for group in (16, 32)
        for seed in (0, 1)
    }


def test_several_zips_are_crossed():
    found = points(TWO + "seeds: [3, 4]\nzip: [[sizes, tokens], [group_sizes, seeds]]")
    assert found == {
        (size, tokens, recipe, "cooldown", seed)
        for size, tokens in (("tiny-20k", 8192), ("tiny-46k", 16384))
        for recipe, seed in (("w4a4:g16", 3), ("w4a4:g32", 4))
    }


def test_include_adds_a_grid_that_takes_what_it_does_not_replace():
    text = TEXT + "include: [{tokens: [24576], recipes: ['w8a8:g32']}, {seeds: [1], tokens: [8192]}]"
    extra = {("tiny-20k", 24576, "w8a8:g32", "cooldown", 0)}
    again = {("tiny-20k", 8192, f"w4a4:g{group}", "cooldown", 1) for group in (16, 32)}
    assert points(text) == points(TEXT) | extra | again
    assert ids(TEXT) < ids(text)


def test_include_may_say_everything():
    text = """
training:
  {batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8, learning_rate: {tiny-20k: 0.003}}
include:
  - {sizes: [tiny-20k], tokens: [8192], recipes: ["w4a4:g32"]}
  - {sizes: [tiny-46k], tokens: [8192]}
"""
    assert points(text) == {("tiny-20k", 8192, "w4a4:g32", "cooldown", 0)}
    assert len(ids(text)) == 3


def test_a_run_that_two_grids_ask_for_is_one():
    assert ids(TEXT + "include: [{tokens: [8192]}]") == ids(TEXT)


def test_exclude_drops_points_and_the_baselines_that_nothing_needs():
    text = TEXT.replace("8192", "8k")
    assert points(text + "exclude: [{tokens: 8k, group_size: 16}]") == points(text) - {
        ("tiny-20k", 8000 // 64 * 64, "w4a4:g16", "cooldown", 0)
    }
    less = Study.parse(text + "exclude: [{tokens: 8k}]").runs(SHA)
    assert {run.tokens for run in less} == {16384}


@pytest.mark.parametrize(
    "entry",
    [
        "{recipe: w4a4, group_size: 16}",
        "{recipe: 'w4a4:g16'}",
        "{recipe: 'w=int4:g16,a=int4:g16'}",
        "{group_size: [16], mode: cooldown, size: tiny-20k, seed: 0, family: llama, corpus: python}",
    ],
)
def test_an_exclusion_names_a_point_in_any_words(entry):
    assert {recipe for _, _, recipe, _, _ in points(f"{TEXT}exclude: [{entry}]")} == {"w4a4:g32"}


def test_several_corpora_are_an_axis_and_each_has_its_own_hash():
    study = Study.parse(TEXT.replace("corpus: python", "corpus: [python, 'file:a.txt']"))
    python, file = study.sources()
    assert (python, file) == (Source("python"), Source("file:a.txt"))
    both = study.runs({python: Identity(SHA), file: Identity("cd" * 32)})
    assert len(both) == 2 * len(ids(TEXT))
    assert {run.corpus for run in both} == {"python", "file:cdcdcdcdcdcd"}
    assert {run.run_id for run in study.runs({python: Identity(SHA)})} == ids(TEXT)


def test_ptq_goes_on_from_its_baseline_and_trains_nothing():
    runs = Study.parse(TEXT + "modes: [ptq]").runs(SHA)
    assert [run.mode for run in runs] == ["baseline", "ptq", "ptq"] * 2
    for run in runs:
        if run.recipe:
            assert run.source() == run.baseline()
            assert run.branch_step == run.steps


def test_methods_are_an_axis_of_the_mode_ptq_alone():
    text = TEXT + "modes: [cooldown, ptq]\nmethods: [rtn, gptq, 'awq + gptq(damping=0.010)']"
    runs = Study.parse(text).runs(SHA)
    after = [run for run in runs if run.mode == "ptq"]
    assert {run.method for run in after} == {None, "gptq", "awq+gptq"}, "texts of one method are one method"
    assert len(after) == 3 * 2 * 2
    assert ids(TEXT + "modes: [cooldown, ptq]") < {run.run_id for run in runs}, "what was there stays"
    assert {(run.calibration_windows, run.calibration_length) for run in after if run.method} == {(128, 32)}
    for run in runs:
        assert run.method is None or run.source() == run.baseline()
        assert run.baseline().method is None and run.baseline().calibration_windows is None


def test_calibration_is_of_runs_that_look_at_text():
    text = TEXT.replace("training: {", "training: {calibration_windows: 4, calibration_length: 16, ")
    text += "modes: [cooldown, ptq]\nmethods: [rtn, gptq]"
    runs = Study.parse(text).runs(SHA)
    plain = {run.run_id for run in runs if run.method is None}
    assert plain == ids(TEXT + "modes: [cooldown, ptq]")
    assert {(r.calibration_windows, r.calibration_length) for r in runs if r.method} == {(4, 16)}


def test_a_method_can_be_excluded_at_some_points():
    text = TEXT + "modes: [ptq]\nmethods: [rtn, gptq]\nexclude: [{method: gptq, group_size: 16}]"
    runs = Study.parse(text).runs(SHA)
    assert {run.recipe for run in runs if run.method} == {"w4a4:g32"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("methods: [gptq]", "methods: they are of the mode ptq; add it to modes"),
        ("modes: [ptq]\nmethods: [gpqt]", "methods: unknown method 'gpqt'; did you mean 'gptq'?"),
        ("modes: [ptq]\nmethods: ['gptq(damp=1)']", "methods: method gptq has no parameter 'damp'"),
        ("modes: [ptq]\nmethods: [3]", "methods: 3 is not a method"),
        ("modes: [ptq]\nmethods: []", "methods: the list is empty"),
        ("modes: [ptq]\nexclude: [{method: gptq}]", "exclude: no point has method gptq"),
        ("zip: [sizes, token]", "unknown axis in zip 'token'; did you mean 'tokens'"),
        ("zip: [sizes, tokens]", "zip: the lists differ in length: sizes has 1, tokens has 2"),
        ("zip: [sizes, seeds]", "each of sizes, seeds must be a list"),
        ("zip: sizes", "zip: 'sizes' is not a list of axes"),
        ("include: {tokens: 8k}", "include: {'tokens': '8k'} is not a list of mappings"),
        ("include: [{workers: 2}]", "unknown key in include 'workers'"),
        ("include: [{token: 8k}]", "unknown key in include 'token'; did you mean 'tokens'"),
        ("include: [{sizes: [tiny-46k], tokens: {tiny-46: 8k}}]", "unknown size in tokens 'tiny-46'"),
        ("exclude: [{sizes: tiny-20k}]", "unknown key in exclude 'sizes'; did you mean 'size'"),
        ("exclude: [{size: tiny-46k}]", "unknown size in exclude 'tiny-46k'"),
        ("exclude: [{seed: 5}]", "exclude: no point has seed 5"),
        ("exclude: [{}]", "an empty entry would exclude everything"),
        ("exclude: [{seed: 0}]", "exclude: no point is left"),
        ("exclude: [{mode: [cooldwn]}]", "unknown mode in exclude 'cooldwn'; did you mean 'cooldown'"),
        ("exclude: [{recipe: w4}]", "exclude: recipe"),
        ("modes: [ptq]\nrecipes: ['lsq-w4a4:g32']", "the key 'recipes' is given twice"),
    ],
)
def test_wrong_parts_are_refused(line, message):
    with pytest.raises(ConfigError) as caught:
        Study.parse(TEXT + line)
    assert message in str(caught.value)


def test_learned_quantizers_are_refused_after_training():
    text = TEXT.replace("[w4a4]", "['w4a4:g32,q=lsq']").replace("group_sizes: [16, 32]\n", "")
    assert Study.parse(text)
    with pytest.raises(ConfigError, match="lsq must be trained, and the mode ptq trains nothing"):
        Study.parse(text + "modes: [ptq]")


def test_a_zip_that_explodes_is_refused_before_it_does():
    axes = "".join(f"zip: {[['seeds']] * 9}\nseeds: {list(range(30))}\n")
    with pytest.raises(ConfigError, match="more than 10000 grids"):
        Study.parse(TEXT + axes)


def test_the_schema_knows_every_key_and_no_other():
    axes = SCHEMA["$defs"]["axes"]["properties"]
    assert {*axes, *SCHEMA["properties"]} == set(KEYS)
    assert set(axes["training"]["properties"]) == set(TRAINING)
    assert SCHEMA["$defs"]["axis"]["enum"] == list(AXES)
    assert set(SCHEMA["properties"]["exclude"]["items"]["properties"]) == set(EXCLUDABLE)
    assert SCHEMA["$defs"]["mode"]["enum"] == list(STUDY_MODES)
    assert set(SCHEMA["$defs"]["family"]["enum"]) == set(FAMILIES)


def test_the_schema_takes_the_examples():
    checker = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    texts = [path.read_text() for path in sorted((ROOT / "examples").rglob("*.yaml"))]
    texts += [
        TEXT,
        TWO + "zip: [sizes, tokens]\ninclude: [{tokens: 1M}]\nexclude: [{seed: 0, size: tiny-20k}]",
    ]
    assert len(texts) > 4
    for text in texts:
        assert [error.message for error in checker.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "name",
    ["unknown-key", "unknown-family-key", "zero-group", "unknown-mode", "negative-seed", "zero-workers"],
)
def test_the_schema_refuses_what_the_reader_refuses(name):
    text, _ = REFUSED[name]
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(text)))
