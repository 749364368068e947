"""Studies: what they expand to, what they refuse, and that their ids stay what they are."""

import json

import pytest
import yaml
from sweep.studies import SHA, TEXT

from qscale.errors import ConfigError
from qscale.models.ladder import shape_of
from qscale.sweep.grid import Study
from qscale.sweep.jobs import jobs, plan


def study(**changes):
    return Study.parse(yaml.safe_dump({**yaml.safe_load(TEXT), **changes}))


def test_ids_of_a_pinned_study_never_change():
    """A new id here orphans every finished run: raise NUMERICS_VERSION on purpose, or undo the change."""
    text = """
corpus: python
sizes: [tiny-20k]
tokens: [0.82M]
recipes: [w4a4:g32]
modes: [cooldown, scratch]
training:
  {batch_sequences: 8, context: 128, learning_rate: 0.003, warmup_steps: 50, eval_windows: 1024,
   cooldown_fraction: 0.2, cooldown_shape: linear, beta1: 0.9, beta2: 0.99, epsilon: 1.0e-8,
   weight_decay: 0.1, gradient_clip: 1.0, allow_repeat: false}
"""
    found = {(run.mode, run.run_id, run.trunk_id) for run in Study.parse(text).runs(SHA)}
    assert found == {
        ("baseline", "c8aa857f0000e2ec", "ec9d18cec210c7aa"),
        ("cooldown", "4657523c5d13bae1", "ec9d18cec210c7aa"),
        ("scratch", "d5aa79624ba9209d", "701a8c096ea39947"),
    }


def test_runs_of_a_grid_bring_each_baseline_once():
    runs = study(seeds=[0, 1], modes=["cooldown", "scratch"]).runs(SHA)
    assert len(runs) == 2 * (2 + 2 * 2 * 2)
    assert sum(run.recipe is None for run in runs) == 4
    assert {run.baseline().run_id for run in runs} <= {run.run_id for run in runs}
    assert len({run.run_id for run in runs}) == len(runs)


def test_runs_without_recipes_are_baselines():
    text = "{sizes: [tiny-20k], tokens: [1M]}"
    assert [run.mode for run in Study.parse(text).runs(SHA)] == ["baseline"]


def test_tokens_are_rounded_to_whole_steps():
    assert {run.tokens for run in study(tokens=[10_000]).runs(SHA)} == {9984}


def test_values_by_size_reach_their_size_only():
    runs = study(
        sizes=["tiny-20k", "tiny-46k"],
        tokens={"tiny-20k": [8192], "tiny-46k": "16k"},
        group_sizes={"tiny-20k": [16], "tiny-46k": [48, "channel"]},
        training={"batch_sequences": {"tiny-46k": 4}, "warmup_steps": 2},
    ).runs(SHA)
    got = {(run.model.hidden_size, run.batch_sequences, run.recipe) for run in runs if run.recipe}
    assert got == {(32, 8, "w4a4:g16"), (48, 4, "w4a4:g48"), (48, 4, "w4a4:channel")}


def test_seeds_by_size_reach_their_size_only():
    grid = study(sizes=["tiny-20k", "tiny-46k"], seeds={"tiny-20k": [0, 1], "tiny-46k": 2}, group_sizes=[16])
    got = {(run.model.hidden_size, run.init_seed) for run in grid.runs(SHA)}
    assert got == {(32, 0), (32, 1), (48, 2)}
    assert len(grid.runs(SHA)) == 2 * 2 * 3
    assert len(grid.warnings()) == 4


def test_an_override_of_one_block_is_taken():
    texts = ["w4a4:g32,down_proj.input=int8:g32", "w4a4:g32,layers.1.mlp.up_proj.weight=none"]
    text = TEXT.replace("[w4a4]", str(texts)).replace("group_sizes: [16, 32]\n", "")
    assert {run.recipe for run in Study.parse(text).runs(SHA)} == {None, *texts}


def test_an_inline_shape_may_have_a_name():
    shape = {
        "name": "mine",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
    }
    assert study(sizes=[shape], tokens={"mine": [8192]}).runs(SHA)[0].model.hidden_size == 16


def test_family_is_an_axis_with_each_size_in_each_family():
    grid = study(sizes=["tiny-20k", "tiny-46k"], family=["llama", "qwen3", "opt"])
    assert list(grid.grids[0].sizes) == [
        *("tiny-20k", "tiny-20k-qwen3", "tiny-20k-opt"),
        *("tiny-46k", "tiny-46k-qwen3", "tiny-46k-opt"),
    ]
    assert {run.model.family for run in grid.runs(SHA)} == {"llama", "qwen3", "opt"}
    plain = {run.run_id for run in study(sizes=["tiny-20k", "tiny-46k"]).runs(SHA)}
    assert plain < {run.run_id for run in grid.runs(SHA)}, "the llama part is the study without the key"


def test_a_size_in_a_family_may_be_named_at_once():
    named, made = study(sizes=["tiny-20k-opt"]), study(family="opt")
    assert (
        named.grids[0].sizes == made.grids[0].sizes == {"tiny-20k-opt": shape_of("tiny-20k").in_family("opt")}
    )


def test_values_by_size_reach_its_families_and_a_name_in_full_wins():
    whole = study(
        sizes=["tiny-20k", "tiny-46k"],
        family=["llama", "opt"],
        tokens={"tiny-20k": [8192], "tiny-46k": [16384], "tiny-46k-opt": [24576]},
        seeds={"tiny-20k": [0, 1], "tiny-46k": [2]},
        training={"learning_rate": {"tiny-20k-opt": 0.5, "tiny-20k": 0.25}, "warmup_steps": 2},
    )
    (grid,) = whole.grids
    assert {size: tokens[0] for size, tokens in grid.tokens.items()} == {
        "tiny-20k": 8192,
        "tiny-20k-opt": 8192,
        "tiny-46k": 16384,
        "tiny-46k-opt": 24576,
    }
    assert grid.seeds["tiny-20k-opt"] == (0, 1)
    assert [grid.training[size].get("learning_rate") for size in grid.sizes] == [
        0.25,
        0.5,
        None,
        None,
    ]


def test_a_config_json_is_a_size_called_by_family_and_n(tmp_path):
    path = tmp_path / "config.json"
    keys = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 256}
    path.write_text(json.dumps({**keys, "model_type": "opt", "ffn_dim": 96}))
    assert list(study(sizes=[str(path)]).grids[0].sizes) == ["opt-29.5k"]


def test_an_override_names_layers_of_its_own_family():
    texts = [
        "w4a4:g32,dense_4h_to_h.input=int8:g32",
        "w4a4:g32,gpt_neox.layers.1.attention.dense.weight=none",
    ]
    text = TEXT.replace("[w4a4]", str(texts)).replace("group_sizes: [16, 32]\n", "")
    runs = Study.parse(text + "family: gpt_neox").runs(SHA)
    assert {run.recipe for run in runs} == {None, *texts}
    with pytest.raises(ConfigError, match=r"'dense_4h_to_h\.input' names no linear layer of tiny-20k;"):
        Study.parse(text + "family: [gpt_neox, llama]")


def test_workers_change_no_id():
    assert [r.run_id for r in study(workers=2).runs(SHA)] == [r.run_id for r in study().runs(SHA)]


def test_a_file_corpus_has_the_same_ids_wherever_it_lies():
    here, there = (study(corpus=f"file:{path}").runs(SHA) for path in ("text.txt", "/elsewhere/copy.txt"))
    assert [run.run_id for run in here] == [run.run_id for run in there]
    assert here[0].run_id != study(corpus="file:text.txt").runs("cd" * 32)[0].run_id


def test_whole_and_fractional_numbers_of_one_value_give_one_id():
    one, other = (study(training={"warmup_steps": 2, "learning_rate": rate}) for rate in (1, 1.0))
    assert [r.run_id for r in one.runs(SHA)] == [r.run_id for r in other.runs(SHA)]


SHAPE = (
    "[{hidden_size: 16, intermediate_size: 32, num_layers: 1, num_heads: 1, num_kv_heads: 1, family: llama}]"
)
REFUSED = {
    "annealing-nothing": (
        TEXT.replace("[w4a4]", "[w4a4, 'w4a4:g32,anneal=0.1']"),
        "annealing needs weights of quantizer 'statsq'",
    ),
    "annealing-early": (
        TEXT.replace("[w4a4]", "[w4a4, 'ofq-w4a4:g32,anneal=0.3']"),
        "before the run is one of its own",
    ),
    "unknown-key": ("recipe: [w4a4]\n" + TEXT, "unknown key 'recipe'; did you mean 'recipes'"),
    "duplicate-key": (TEXT + "corpus: python\n", "line 7 the key 'corpus' is given twice"),
    "not-yaml": ("sizes: [", "line 1"),
    "not-a-mapping": ("- a", "not list"),
    "unknown-size": (TEXT.replace("tiny-20k", "tiny-164"), "did you mean 'tiny-164k'"),
    "unknown-family": (TEXT.replace("[tiny-20k]", SHAPE.replace("llama", "x")), "unknown family 'x'"),
    "unknown-family-key": (TEXT + "family: [qwen2]", "unknown family 'qwen2'; did you mean 'qwen3'"),
    "no-family": (TEXT + "family: []", "family: the list is empty"),
    "family-that-cannot": (
        TEXT.replace("tiny-20k", "paper-74m") + "family: opt",
        "sizes: rope_theta=500000.0: opt has no such option",
    ),
    "tokens-of-no-family": (
        TEXT.replace("[8192, 16384]", "{tiny-20k-opt: 8192}"),
        "unknown size in tokens 'tiny-20k-opt'; did you mean 'tiny-20k'",
    ),
    "fractional-width": (
        TEXT.replace("[tiny-20k]", SHAPE.replace("hidden_size: 16", "hidden_size: 16.5")),
        "hidden_size=16.5: a model shape needs positive whole sizes",
    ),
    "negative-size": (TEXT.replace("[tiny-20k]", "[{hidden_size: -16}]"), "sizes"),
    "negative-tokens": (TEXT.replace("8192", "-1"), "tokens: -1 is not a positive count"),
    "zero-tokens": (TEXT.replace("8192", "0"), "tokens: 0 is not a count from 1"),
    "no-tokens": (TEXT.replace("[8192, 16384]", "[]"), "tokens: the list is empty"),
    "missing-key": ("recipes: [w4a4:g32]", "the key 'sizes' is missing; the key 'tokens' is missing"),
    "zero-group": (TEXT.replace("[16, 32]", "[0]"), "0 is not a positive group size"),
    "unknown-format": (TEXT.replace("[w4a4]", "[w4a4, 'w=int44:g32']"), "unknown format 'int44'"),
    "no-kernel": (TEXT.replace("[w4a4]", "[w4a4, 'w=int4:g8@quest']"), "has no kernel; there are"),
    "no-granularity": (TEXT.replace("group_sizes: [16, 32]\n", ""), "'w4a4' has no granularity"),
    "idle-groups": (TEXT.replace("w4a4", "w4a4:g32"), "group_sizes: no recipe takes them"),
    "unknown-mode": (TEXT + "modes: [cooldwn]", "did you mean 'cooldown'"),
    "negative-seed": (TEXT + "seeds: [-1]", "seeds: -1"),
    "true-seed": (TEXT + "seeds: [true]", "seeds: True"),
    "nested-seed": (TEXT + "seeds: [[1]]", "is not a single value"),
    "zero-workers": (TEXT + "workers: 0", "workers: 0"),
    "unknown-training": (TEXT.replace("eval_windows", "eval_window"), "did you mean 'eval_windows'"),
    "wrong-type": (TEXT.replace("warmup_steps: 2", "warmup_steps: 2.5"), "warmup_steps=2.5 is not a whole"),
    "not-finite": (TEXT.replace("0.003", ".inf"), "learning_rate=inf is not a number"),
    "wrong-value": (TEXT.replace("eval_windows: 8", "eval_windows: -8"), "eval_windows=-8: must be positive"),
    "zero-batch": (TEXT.replace("batch_sequences: 2", "batch_sequences: 0"), "batch_sequences=0"),
    "long-warmup": (TEXT.replace("warmup_steps: 2", "warmup_steps: 2000"), "the cooldown begins at step"),
    "list-in-training": (TEXT.replace("0.003", "[1.0e-3, 2.0e-3]"), "learning_rate=[0.001, 0.002] is a list"),
    "unknown-corpus": (TEXT.replace("python", "pyton"), "unknown corpus 'pyton'; did you mean 'python'"),
    "corpus-path": (TEXT.replace("python", "file.txt"), "known: python, file:PATH"),
    "unknown-layer": (
        TEXT.replace("[w4a4]", "[w4a4, 'w4a4:g32,down_prj.input=int8:g32']"),
        "'down_prj.input' names no linear layer of tiny-20k; did you mean 'down_proj.input'",
    ),
    "layer-beyond-the-last": (
        TEXT.replace("[w4a4]", "[w4a4, 'w4a4:g32,layers.2.mlp.up_proj.input=int8:g32']"),
        "'layers.2.mlp.up_proj.input' names no linear layer",
    ),
    "null-sizes": (TEXT.replace("[tiny-20k]", "null"), "sizes: nothing is given"),
    "half-a-shape": (
        TEXT.replace("[tiny-20k]", "[{hidden_size: 33}]"),
        "intermediate_size, num_layers, num_heads, num_kv_heads not given",
    ),
    "seed-of-no-size": (TEXT + "seeds: {tiny-20: [0]}", "did you mean 'tiny-20k'"),
    "too-many": (TEXT + f"seeds: {list(range(20_000))}", "more than 100000 runs; split the study"),
    "deep": ("sizes: " + "[" * 2000, "not readable"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_study_is_refused_in_one_line_that_names_the_file(text, message):
    with pytest.raises(ConfigError) as caught:
        Study.parse(text, "my.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("my.yaml")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match=r"unknown mode 'x'.*workers: -1"):
        Study.parse(TEXT + "modes: [x]\nworkers: -1")


def test_warnings_tell_of_few_tokens_few_steps_and_wide_groups():
    ratio, steps, group = study(group_sizes=[48]).warnings()
    assert "0.4 tokens a parameter" in ratio
    assert "128 steps" in steps
    assert "group size 48 is larger than in_features 32: one group there" in group


def test_jobs_are_trunks_then_runs_each_largest_first():
    work = jobs(study(sizes=["tiny-20k", "tiny-46k"], seeds=[0, 1]).runs(SHA))
    trunks = [job for job in work if job.kind == "trunk"]
    assert work[: len(trunks)] == trunks and len(trunks) == 4
    for part in (trunks, work[len(trunks) :]):
        assert [job.flops for job in part] == sorted((job.flops for job in part), reverse=True)
    assert trunks[0].steps == tuple(sorted({r.branch_step for r in study().runs(SHA)}))


def test_jobs_of_scratch_runs_have_trunks_of_their_own():
    work = jobs(study(modes=["scratch"]).runs(SHA))
    assert [job.label for job in work if job.kind == "trunk"] == [
        "tiny-20k trunk seed 0",
        "tiny-20k trunk w4a4:g16 seed 0",
        "tiny-20k trunk w4a4:g32 seed 0",
    ]


def test_plan_counts_each_token_once():
    work = jobs(study().runs(SHA))
    totals = plan(work)
    assert (totals["runs"], totals["baselines"], totals["trunks"]) == (6, 2, 1)
    # The trunk to the longest branch, and 20% of D for each run.
    assert totals["tokens"] == 205 * 64 + 3 * 51 * 64 + 3 * 26 * 64
    assert totals["sizes"]["tiny-20k"]["flops"] == totals["flops"] == sum(job.flops for job in work)
