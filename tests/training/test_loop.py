"""Training for real, at a size of seconds: resume to the bit, pairs, divergence, errors."""

import json
import os
import time

import numpy as np
import pytest
import torch

from qscale.errors import CorpusError, StoreError
from qscale.training import checkpoint, engine, loop, paths
from qscale.training.evaluate import estimate, paired_delta
from qscale.training.how import How
from qscale.training.monitor import DivergedError


def _ladder(config, folder, corpus, **options):
    trunk = folder / f"trunk-{config.trunk_id}"
    assert loop.run_trunk(config, [config.branch_step], trunk, corpus)
    return loop.run_branch(config, folder / config.run_id, trunk, corpus, **options)


class _StopAfter:
    """should_stop that says yes from the n-th time it is asked."""

    def __init__(self, polls):
        self.left = polls

    def __call__(self):
        self.left -= 1
        return self.left < 0


def test_baseline_learns_and_its_record_is_complete(config, corpus, tmp_path):
    record = _ladder(config(), tmp_path, corpus)
    losses = np.load(paths.eval_losses(tmp_path / record.run_id))
    assert losses.shape == (32,)
    assert losses.dtype == np.float64
    assert record.loss == pytest.approx(losses.mean())
    assert record.loss_se == pytest.approx(losses.std(ddof=1) / 32**0.5)
    assert record.loss < np.log(256) - 1, "better than guessing"
    assert record.bits_per_byte == pytest.approx(record.loss / np.log(2))
    assert (record.N, record.D, record.G, record.delta) == (20640, 10240, None, None)
    assert type(record).loads(record.dumps()) == record


@pytest.mark.parametrize("mode", ["cooldown", "scratch"])
def test_delta_is_the_paired_difference(config, corpus, tmp_path, mode):
    baseline = _ladder(config(), tmp_path, corpus)
    quantized = config(mode=mode, recipe="w2a16:g16")
    path = paths.eval_losses(tmp_path / baseline.run_id)
    record = _ladder(quantized, tmp_path, corpus, baseline=baseline, baseline_losses=path)
    difference = np.load(paths.eval_losses(tmp_path / quantized.run_id)) - np.load(path)
    assert record.delta == pytest.approx(difference.mean())
    assert record.delta_se == pytest.approx(difference.std(ddof=1) / 32**0.5)
    assert record.delta != 0
    assert (record.G, record.G_weight, record.G_input) == (16, 16, None)
    assert record.baseline_run_id == baseline.run_id


def test_scratch_and_cooldown_differ_only_in_the_trunk(config, corpus, tmp_path):
    losses = [
        _ladder(config(mode=m, recipe="w4a4:g32"), tmp_path, corpus).loss for m in ("scratch", "cooldown")
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("polls", [1, 7, 33])
def test_trunk_stopped_and_resumed_gives_the_same_bytes(config, corpus, tmp_path, polls):
    run = config(mode="cooldown", recipe="w4a4:g16")
    whole = _ladder(run, tmp_path / "whole", corpus)
    trunk, folder = tmp_path / "cut" / "trunk", tmp_path / "cut" / "run"
    done = loop.run_trunk(run, [10, run.branch_step], trunk, corpus, How(should_stop=_StopAfter(polls)))
    assert done == (polls > 31)
    assert loop.run_trunk(run, [10, run.branch_step], trunk, corpus)
    stopped = loop.run_branch(run, folder, trunk, corpus, How(should_stop=_StopAfter(polls % 7)))
    assert stopped is None
    record = loop.run_branch(run, folder, trunk, corpus)
    files = [paths.eval_losses(path).read_bytes() for path in (folder, tmp_path / "whole" / run.run_id)]
    assert files[0] == files[1]
    assert record.loss == whole.loss
    steps = [json.loads(line)["step"] for line in paths.curve(trunk).read_text().splitlines()]
    assert steps == [10, 20, 30]


@pytest.mark.parametrize("mode", ["cooldown", "scratch"])
@pytest.mark.parametrize(
    "recipe",
    [
        "w=int4:g16:stochastic,a=int4:g16:stochastic",
        "w4a4:g16,q=lsq,kv=int4:g16",
        "quest-w4a4",
        "lwc-lac-w4a4:g16",
    ],
)
def test_what_quantizers_learn_and_draw_is_resumed_to_the_bit(config, corpus, tmp_path, recipe, mode):
    run = config(mode=mode, recipe=recipe)
    whole = _ladder(run, tmp_path / "whole", corpus)
    trunk, folder = tmp_path / "cut" / "trunk", tmp_path / "cut" / "run"
    assert not loop.run_trunk(run, [run.branch_step], trunk, corpus, How(should_stop=_StopAfter(7)))
    assert loop.run_trunk(run, [run.branch_step], trunk, corpus)
    assert loop.run_branch(run, folder, trunk, corpus, How(should_stop=_StopAfter(3))) is None
    record = loop.run_branch(run, folder, trunk, corpus)
    files = [paths.eval_losses(path).read_bytes() for path in (folder, tmp_path / "whole" / run.run_id)]
    assert files[0] == files[1]
    assert record.loss == whole.loss < np.log(256) - 1


@pytest.mark.parametrize("damage", ["", "\n", "\0\0\0\n"])
def test_curve_torn_by_a_kill_goes_on_whole(config, corpus, tmp_path, damage):
    run = config()
    assert loop.run_trunk(run, [20], tmp_path, corpus)
    whole = paths.curve(tmp_path).read_text()
    paths.curve(tmp_path).write_text(whole[:-9] + damage)
    assert loop.run_trunk(run, [20, 30], tmp_path, corpus)
    lines = [json.loads(line) for line in paths.curve(tmp_path).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 30], "20 was torn, and was not trained again"


def test_trunk_extended_backwards_and_forwards_equals_one_pass(config, corpus, tmp_path):
    run = config()
    assert loop.run_trunk(run, [10, 20, 30], tmp_path / "once", corpus)
    for steps in ([20], [10, 20], [10, 20, 30]):
        assert loop.run_trunk(run, steps, tmp_path / "grown", corpus)
    for step in (10, 20, 30):
        for name in ("model.safetensors", "optimizer.safetensors"):
            pair = [paths.branch_checkpoint(tmp_path / f, step) / name for f in ("once", "grown")]
            assert pair[0].read_bytes() == pair[1].read_bytes()


def test_rolling_checkpoints_keep_the_newest_two(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKPOINT_EVERY", 0.0)
    assert not loop.run_trunk(config(), [30], tmp_path, corpus, How(should_stop=_StopAfter(10)))
    steps = [checkpoint.step_of(path) for path in checkpoint.saved(paths.checkpoints(tmp_path))]
    assert len(steps) == 2 and steps[1] == steps[0] + 1 > 3


def test_divergence_is_recorded_with_its_step_and_no_loss(config, corpus, tmp_path):
    run = config(gradient_clip=0.0, warmup_steps=0)
    trunk = tmp_path / "trunk"
    assert loop.run_trunk(run, [run.branch_step], trunk, corpus)
    training = engine.Training(run, corpus, tmp_path / "x", How())
    training.restore([paths.branch_checkpoint(trunk, run.branch_step)])
    with torch.no_grad():
        next(training.model.parameters()).fill_(float("nan"))
    target = paths.branch_checkpoint(trunk, run.branch_step)
    training.save(target)
    record = loop.run_branch(run, tmp_path / "run", trunk, corpus)
    assert record.diverged
    assert (record.diverged_step, record.loss, record.delta) == (run.branch_step, None, None)
    with pytest.raises(DivergedError, match=f"step {run.branch_step}"):
        loop.run_trunk(run, [run.branch_step + 1], trunk, corpus)


def test_events_tell_the_progress(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_EMIT_EVERY", 0.0)
    events = []
    run = config()
    assert loop.run_trunk(run, [8], tmp_path, corpus, How(emit=events.append))
    assert [event["step"] for event in events] == list(range(1, 9))
    assert all(event["tokens_per_second"] > 0 for event in events)


def test_corpus_that_changed_is_refused(config, corpus, tmp_path):
    with pytest.raises(CorpusError, match="has changed"):
        loop.run_trunk(config(corpus_sha256="f" * 64), [8], tmp_path, corpus)


def test_too_few_tokens_or_held_out_sequences_are_refused(config, corpus, tmp_path):
    with pytest.raises(CorpusError, match="fewer than"):
        loop.run_trunk(config(tokens=256 * 10**6), [10**6], tmp_path, corpus)
    with pytest.raises(CorpusError, match="eval_windows=100000"):
        loop.run_branch(config(eval_windows=100000), tmp_path, tmp_path, corpus)


def test_full_disk_keeps_the_older_checkpoint_and_says_what_to_do(config, corpus, tmp_path, monkeypatch):
    assert loop.run_trunk(config(), [8], tmp_path, corpus)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StoreError, match="No space left on device; free some disk space"):
        loop.run_trunk(config(), [8, 16], tmp_path, corpus)
    assert [path.name for path in checkpoint.saved(tmp_path / "branches")] == ["step-00000008"]
    assert not list((tmp_path / "branches").glob(".*")), "no rubbish left"


def _damage(folder):
    (folder / "model.safetensors").write_bytes(b"junk")


def test_damaged_rolling_checkpoint_is_moved_aside_and_the_older_one_serves(
    config, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "_CHECKPOINT_EVERY", 0.0)
    assert not loop.run_trunk(config(), [30], tmp_path / "cut", corpus, How(should_stop=_StopAfter(16)))
    newest = checkpoint.saved(paths.checkpoints(tmp_path / "cut"))[-1]
    _damage(newest)
    resumed = []
    monkeypatch.setattr(engine, "_EMIT_EVERY", 0.0)
    assert loop.run_trunk(config(), [30], tmp_path / "cut", corpus, How(emit=resumed.append))
    assert resumed[0]["step"] == checkpoint.step_of(newest), "one step after the older checkpoint"
    assert loop.run_trunk(config(), [30], tmp_path / "whole", corpus)
    files = [paths.branch_checkpoint(tmp_path / name, 30) / "model.safetensors" for name in ("cut", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_one_turned_bit_of_a_checkpoint_is_found(config, corpus, tmp_path, name):
    run = config()
    assert loop.run_trunk(run, [run.branch_step], tmp_path, corpus)
    victim = paths.branch_checkpoint(tmp_path, run.branch_step) / name
    data = bytearray(victim.read_bytes())
    # The lowest bit of the last number, and of the last digit of the step: both can be read all the same.
    place = data.index(b",") - 1 if name == "state.json" else len(data) - 4
    data[place] ^= 1
    victim.write_bytes(data)
    with pytest.raises(StoreError, match="moved aside, run again"):
        loop.run_branch(run, tmp_path / "run", tmp_path, corpus)


def test_checkpoints_without_a_hash_are_read(config, corpus, tmp_path):
    run = config()
    assert loop.run_trunk(run, [run.branch_step], tmp_path, corpus)
    file = paths.branch_checkpoint(tmp_path, run.branch_step) / "state.json"
    state = json.loads(file.read_text())
    assert len(state.pop("sha256")) == 64
    file.write_text(json.dumps(state))
    assert loop.run_branch(run, tmp_path / "run", tmp_path, corpus) is not None


def test_the_checkpoint_just_written_stays_though_the_clock_has_gone_back(
    config, corpus, tmp_path, monkeypatch
):
    run = config()
    assert not loop.run_trunk(run, [run.branch_step], tmp_path, corpus, How(should_stop=_StopAfter(2)))
    first = checkpoint.saved(paths.checkpoints(tmp_path))
    for ahead, stop in ((7200, 2), (3600, 2)):
        for path in checkpoint.saved(paths.checkpoints(tmp_path)):
            os.utime(path, (time.time() + ahead,) * 2)
        assert not loop.run_trunk(run, [run.branch_step], tmp_path, corpus, How(should_stop=_StopAfter(stop)))
    steps = [checkpoint.step_of(path) for path in checkpoint.saved(paths.checkpoints(tmp_path))]
    assert len(steps) == 2 and steps[-1] > checkpoint.step_of(first[-1]) + 2


def test_damaged_branch_checkpoint_fails_once_and_is_made_again(config, corpus, tmp_path):
    run = config()
    assert loop.run_trunk(run, [run.branch_step], tmp_path / "trunk", corpus)
    _damage(paths.branch_checkpoint(tmp_path / "trunk", run.branch_step))
    with pytest.raises(StoreError, match="moved aside, run again"):
        loop.run_branch(run, tmp_path / "run", tmp_path / "trunk", corpus)
    record = _ladder(run, tmp_path / "whole", corpus)
    assert loop.run_trunk(run, [run.branch_step], tmp_path / "trunk", corpus)
    assert loop.run_branch(run, tmp_path / "run", tmp_path / "trunk", corpus).loss == record.loss


def test_finished_work_keeps_no_rolling_checkpoints(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKPOINT_EVERY", 0.0)
    run = config()
    record = _ladder(run, tmp_path, corpus)
    assert sorted(path.name for path in (tmp_path / f"trunk-{run.trunk_id}").iterdir()) == [
        "branches",
        "curve.jsonl",
    ]
    assert sorted(path.name for path in (tmp_path / record.run_id).iterdir()) == [
        "curve.jsonl",
        "diagnostics.jsonl",
        "eval_losses.npy",
        "final",
    ]


def test_paired_error_is_that_of_the_differences_not_of_the_losses():
    rng = np.random.default_rng(0)
    hard = rng.normal(2, 1, 400)
    pair = paired_delta(hard + 0.1 + rng.normal(0, 0.01, 400), hard)
    assert pair.mean == pytest.approx(0.1, abs=0.002)
    assert pair.se == pytest.approx(0.01 / 20, rel=0.1)
    assert estimate(hard).se > 50 * pair.se
    with pytest.raises(ValueError, match="sequences"):
        paired_delta(hard, hard[:-1])
