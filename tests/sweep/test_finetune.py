"""Studies in the mode finetune: what a run waits for, and what it goes on from."""

from __future__ import annotations

import pytest
from sweep.studies import SHA, TEXT, board_at, finish

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.ladder import shape_of
from qscale.sweep.board import Board
from qscale.sweep.grid import Study
from qscale.sweep.jobs import jobs
from qscale.training import paths

TUNED = TEXT.replace("tokens: [8192, 16384]", "tokens: [16384]") + (
    "modes: [cooldown, finetune]\nfinetune_fractions: [0.25, 0.5]\n"
)


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study", TUNED)


def tuned(board, fraction):
    found = [job for job in board.runs.values() if job.config.finetune_fraction == fraction]
    return found[0]


def leave_weights(board, run):
    folder = paths.final_weights(board.store.run_folder(run))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")


def test_fractions_are_an_axis_with_shorter_baselines_to_go_on_from():
    runs = Study.parse(TUNED).runs(SHA)
    plain = [run for run in runs if run.recipe is None]
    assert sorted(run.steps for run in plain) == [128, 192, 256]
    for run in runs:
        if run.mode == "finetune":
            assert run.source() in plain and run.baseline() in plain
            assert run.source().steps == run.branch_step
    assert sum(run.mode == "finetune" for run in runs) == 4
    assert sum(run.mode == "cooldown" for run in runs) == 2


def test_a_run_waits_for_the_end_of_the_one_it_goes_on_from(board):
    job = tuned(board, 0.25)
    assert job.trunk_id is None
    assert board.state(job) == "waiting"
    finish(board.store, board.runs[job.baseline_id].config)
    assert board.state(job) == "waiting", "the source is not there"
    finish(board.store, board.runs[job.source_id].config)
    fresh = Board(board.store, board.jobs)
    assert fresh.state(job) == "waiting", "the source left no weights: it is run again"
    assert fresh.state(fresh.runs[job.source_id]) != "done"
    leave_weights(board, job.source_id)
    assert Board(board.store, board.jobs).state(job) == "ready"


def test_a_source_without_weights_is_put_aside_for_another_run(board):
    job = tuned(board, 0.5)
    source = board.runs[job.source_id]
    finish(board.store, source.config)
    board.repair(source)
    assert board.store.record(source.id) is None
    finish(board.store, source.config)
    leave_weights(board, source.id)
    board.repair(source)
    assert board.store.record(source.id) is not None


def test_tokens_of_a_fraction_are_counted_once(board):
    job = tuned(board, 0.25)
    assert job.tokens == 64 * 64  # a quarter of 256 steps of 2 x 32 tokens
    assert job.label.endswith("finetune 0.25 seed 0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "modes: [finetune]\n", "needs finetune_fractions"),
        (TEXT + "modes: [finetune]\nfinetune_fractions: [1.5]\n", "1.5 is not a part between 0 and 1"),
        (TEXT + "decompose: [operand]\n", "did you mean 'operands'"),
        (TEXT + "modes: [finetune]\nfinetune_fractions: [0.999]\n", "warm-up ends|never begins"),
    ],
)
def test_a_fraction_that_makes_no_run_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(text, "my.yaml")


def test_recipes_are_taken_apart():
    text = TEXT.replace("[16, 32]", "[16]") + "decompose: [operands, inputs]\n"
    study = Study.parse(text)
    assert study.grids[0].recipes["tiny-20k"] == (
        "w4a4:g16",
        "w4a16:g16",
        "w16a4:g16",
        "w4a4:g16,qkv.input=none",
        "w4a4:g16,o.input=none",
        "w4a4:g16,fc1.input=none",
        "w4a4:g16,fc2.input=none",
    )
    assert len(jobs(study.runs(SHA))) == 1 + 2 * 8


@pytest.mark.parametrize(
    ("recipe", "left"),
    [
        ("w4a4:g16", ["0.mlp.down_proj", "1.mlp.down_proj"]),
        ("w4a4:g16,keep=last", ["0.mlp.down_proj"]),
        ("w4a4:g16,fc2.input=none,layers.1.mlp.down_proj.input=int8:g16", ["1.mlp.down_proj"]),
    ],
)
def test_recipes_are_taken_apart_by_layer(recipe, left):
    text = TEXT.replace("[w4a4]", f"['{recipe}']").replace("group_sizes: [16, 32]\n", "")
    first, *others = Study.parse(text + "decompose: [layers]\n").grids[0].recipes["tiny-20k"]
    base = Recipe.parse(recipe)
    assert first == str(base)
    names = [name for name, _ in shape_of("tiny-20k").layers()]
    without = {str(base.without_input_of(name)): name for name in names}
    got = [without[other] for other in others]
    assert [name for name in got if name.endswith("down_proj")] == [f"layers.{name}" for name in left]
    blocks = 1 if base.keep else 2
    assert len(got) == 6 * blocks + len(left)
