"""What a step is made of: parts, precision, compilation, recomputation, rates, other processes."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from processes import job, train_together

from qscale.errors import ConfigError
from qscale.models.families import build
from qscale.training import engine, loop, paths
from qscale.training.calibration import Trial
from qscale.training.engine import Training, gradients
from qscale.training.how import How
from qscale.training.monitor import DivergedError, Monitor
from qscale.training.optimizer import make_optimizer, set_rate
from qscale.training.ranks import AcceleratedRanks
from qscale.training.schedule import branch_rate


def ladder(config, folder, corpus, how=None, **options):
    trunk = folder / f"trunk-{config.trunk_id}"
    assert loop.run_trunk(config, [config.branch_step], trunk, corpus, how)
    return loop.run_branch(config, folder / config.run_id, trunk, corpus, how, **options)


def weights_after(config, corpus, folder, steps=6, how=None):
    training = Training(config, corpus, folder, how or How())
    training.quantize(config.trunk_recipe)
    training.advance(steps, branch_rate, steps)
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


def most_apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_parts_of_a_step_add_up_to_the_gradient_of_the_whole(config, corpus):
    tokens = torch.randint(0, 256, (4, 65), generator=torch.Generator().manual_seed(0))
    found = []
    for parts in (1, 2, 4):
        model = build(config().model, context=64, seed=0)
        nats = gradients(model, tokens, config(accumulation=parts))
        found.append((nats, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for nats, gradient in found[1:]:
        assert nats == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "recipe", [None, "w4a4:g16", "lsq-w4a4:g16", "quest-w4a4", "mxfp4", "w4a4:g16,rot=hadamard:16"]
)
def test_bfloat16_trains_nearly_as_float32(config, corpus, tmp_path, recipe):
    mode = "baseline" if recipe is None else "scratch"
    losses = []
    for precision in ("float32", "bfloat16"):
        run = config(mode=mode, recipe=recipe, precision=precision)
        losses.append(ladder(run, tmp_path / precision, corpus).loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


@pytest.mark.parametrize(
    "recipe", ["w4a4:g16", "lsq-w4a4:g16", "quest-w4a4", "w4a4:g16,q=statsq/lac,rot=hadamard:16"]
)
def test_recomputed_activations_change_no_bit(config, corpus, tmp_path, recipe):
    run = config(mode="scratch", recipe=recipe)
    plain = weights_after(run, corpus, tmp_path / "a")
    again = weights_after(run, corpus, tmp_path / "b", how=How(checkpoint_activations=True))
    assert most_apart(plain, again) == 0


def test_recomputed_activations_do_not_go_with_random_rounding(config, corpus, tmp_path):
    run = config(mode="scratch", recipe="w4a16:g16,fc2.input=int4:g16:stochastic")
    with pytest.raises(ConfigError, match="rounds at random"):
        weights_after(run, corpus, tmp_path, how=How(checkpoint_activations=True))


def test_looks_at_layers_change_no_bit_and_are_kept(config, corpus, tmp_path):
    run = config(mode="scratch", recipe="w=int4:g16:stochastic,a=int4:g16")
    plain = weights_after(run, corpus, tmp_path / "a")
    looked = weights_after(run, corpus, tmp_path / "b", how=How(diagnose_every=2, oscillations=True))
    assert most_apart(plain, looked) == 0
    rows = [json.loads(line) for line in paths.diagnostics(tmp_path / "b").read_text().splitlines()]
    assert sorted({row["step"] for row in rows}) == [2, 4, 6]
    assert len(rows) == 3 * 14
    assert all(row["gradient_norm"] > 0 and 0 < row["weight_relmse"] < 0.1 for row in rows)
    assert rows[-1]["oscillation"] >= 0


def test_record_keeps_the_measured_errors_and_baselines_their_weights(config, corpus, tmp_path):
    baseline = ladder(config(), tmp_path, corpus)
    assert (baseline.relmse_weight, baseline.relmse_input) == (None, None)
    assert (paths.final_weights(tmp_path / baseline.run_id) / "model.safetensors").is_file()
    record = ladder(config(mode="cooldown", recipe="w4a16:g16"), tmp_path, corpus)
    assert 0.003 < record.relmse_weight < 0.02
    assert record.relmse_input is None
    assert not paths.final_weights(tmp_path / record.run_id).exists()
    rows = paths.diagnostics(tmp_path / record.run_id).read_text().splitlines()
    assert len(rows) == 14 and json.loads(rows[0])["step"] == 40


def test_finetune_goes_on_from_the_end_of_the_shorter_run(config, corpus, tmp_path):
    run = config(mode="finetune", recipe="w2a16:g16", finetune_fraction=0.25)
    source, baseline = run.source(), run.baseline()
    assert (source.steps, run.branch_step, baseline.steps) == (30, 30, 40)
    ladder(source, tmp_path, corpus)
    full = ladder(baseline, tmp_path, corpus)
    folder = tmp_path / run.run_id
    losses = paths.eval_losses(tmp_path / full.run_id)
    record = loop.run_branch(
        run, folder, tmp_path / source.run_id, corpus, baseline=full, baseline_losses=losses
    )
    assert record.mode == "finetune" and record.D == full.D
    assert record.delta == pytest.approx(record.loss - full.loss)
    assert [json.loads(line)["step"] for line in paths.curve(folder).read_text().splitlines()] == [40]
    again = tmp_path / "again"
    assert (
        loop.run_branch(run, again, tmp_path / source.run_id, corpus, How(should_stop=lambda: True)) is None
    )
    assert loop.run_branch(run, again, tmp_path / source.run_id, corpus).loss == record.loss


def test_finetune_rate_warms_up_and_ends_at_zero(config):
    run = config(
        tokens=400 * 256, mode="finetune", recipe="w4a4:g16", finetune_fraction=0.5, finetune_rate=0.5
    )
    rates = [branch_rate(run, step) for step in range(200, 400)]
    peak = 0.5 * run.learning_rate
    assert rates[:5] == pytest.approx([peak * i / 5 for i in range(1, 6)])  # warmup_steps, as it is shorter
    assert rates[5] == pytest.approx(peak)
    assert rates[-1] == pytest.approx(peak / 195)
    assert all(a > b for a, b in pairwise(rates[5:]))


def test_cosine_has_its_own_start_and_shape(config, corpus, tmp_path):
    run = config(schedule="cosine", final_rate=0.1)
    assert run.branch_step == 0
    rates = [branch_rate(run, step) for step in range(run.steps)]
    middle = 5 + 35 / 2
    assert rates[4] == pytest.approx(run.learning_rate)
    halves = [branch_rate(run, int(middle - 0.5)), branch_rate(run, int(middle + 0.5))]
    assert sum(halves) / 2 == pytest.approx(0.55 * run.learning_rate, rel=1e-3)
    end = 0.1 + 0.9 * (1 + math.cos(math.pi * 34 / 35)) / 2
    assert rates[-1] == pytest.approx(end * run.learning_rate)
    scratch = config(schedule="cosine", mode="scratch", recipe="w4a4:g16")
    losses = [ladder(one, tmp_path, corpus).loss for one in (run, scratch)]
    assert losses[0] < np.log(256) - 1 and losses[0] != losses[1]
    with pytest.raises(ConfigError, match="no cooldown to be switched on at"):
        config(schedule="cosine", mode="cooldown", recipe="w4a4:g16")


def test_mup_scales_the_rates_of_matrices_alone(config):
    model = build(config().model, context=64, seed=0)
    run = config(parametrization="mup", mup_width=16)
    optimizer = make_optimizer(run, model)
    set_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        wanted = 16 / p.shape[1] if p.ndim > 1 and "embed" not in name else 1.0
        assert rates[id(p)] == wanted, name
        assert decays[id(p)] == (0.1 if p.ndim > 1 else 0.0), name


def test_monitor_forgives_a_spike_and_no_plateau():
    monitor = Monitor()
    for step in range(300):
        monitor.see(step, 9.0 if step % 97 == 0 else 3.0, 1.0)
    with pytest.raises(DivergedError, match=r"rose to .* from .* at best"):
        for step in range(300, 500):
            monitor.see(step, 6.0, 1.0)
    with pytest.raises(DivergedError, match="the gradient's norm is inf"):
        Monitor().see(7, 3.0, math.inf)


def test_monitor_is_resumed_with_the_run(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKPOINT_EVERY", 0.0)
    run = config()
    training = Training(run, corpus, tmp_path, How())
    training.advance(20, branch_rate, 20)
    again = Training(run, corpus, tmp_path, How())
    assert again.restore([paths.checkpoints(tmp_path) / "step-00000019"])
    assert (again.step, again.monitor.seen) == (19, 19)
    again.advance(20, branch_rate, 20)
    assert dataclasses.astuple(again.monitor) == dataclasses.astuple(training.monitor)


def test_compiling_is_worth_it_only_for_long_runs():
    trial = Trial(plain=0.02, compiled=0.015, compiling=30.0, steps=10_000)
    assert not trial.worth_it and "not compiled" in trial.sentence
    assert dataclasses.replace(trial, steps=13_000).worth_it


@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
def test_compiled_steps_are_those_of_eager_up_to_rounding(config, corpus, tmp_path, monkeypatch):
    recipe = "w4a4:g16"
    # traced and differentiated as ever, but not turned into C++, which takes a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    run = config(mode="scratch", recipe=recipe)
    plain = weights_after(run, corpus, tmp_path / "a", steps=3)
    compiled = weights_after(
        config(mode="scratch", recipe=recipe, compiled=True), corpus, tmp_path / "b", steps=3
    )
    # Adam's first steps are signs: where a gradient is nearly 0 they may differ by two rates
    apart = torch.cat([(plain[name] - compiled[name]).abs().flatten() for name in plain])
    assert float((apart > 1e-4).float().mean()) < 0.02


@pytest.mark.parametrize(("recipe", "steps"), [("w4a4:g16", 40), ("lsq-w4a4:g16", 12)])
def test_two_processes_train_as_one(config, corpus, text, tmp_path, recipe, steps):
    run = config(mode="scratch", recipe=recipe, tokens=steps * 256)
    folder = tmp_path / "two"
    (found,) = train_together([job(run, folder)], text)
    alone = ladder(run, tmp_path / "one", corpus)
    # gradients are added up in another order: equal up to what the steps make of rounding
    assert found["loss"] == pytest.approx(alone.loss, abs=0.01)
    pair = [paths.eval_losses(path) for path in (folder / "run", tmp_path / "one" / run.run_id)]
    two, one = (np.load(path) for path in pair)
    assert two.shape == one.shape == (32,)
    np.testing.assert_allclose(two, one, atol=0.05)


def test_a_tracker_is_told_the_curve(config, corpus, tmp_path):
    pytest.importorskip("tensorboard")
    ranks = AcceleratedRanks("cpu", ("tensorboard",), tmp_path / "logs")
    assert (ranks.world, ranks.is_main) == (1, True)
    assert not (tmp_path / "logs").exists()  # a new study wants an empty folder
    ranks.start_trackers()
    weights_after(config(), corpus, tmp_path / "run", steps=20, how=How(ranks=ranks))
    ranks.accelerator.end_training()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next((tmp_path / "logs").rglob("events.out.tfevents*")).parent
    events = EventAccumulator(str(folder)).Reload()
    curve = [json.loads(line) for line in paths.curve(tmp_path / "run").read_text().splitlines()]
    told = [(event.step, event.value) for event in events.Scalars("run/loss")]
    assert told == [(row["step"], pytest.approx(row["loss"])) for row in curve]
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord'"):
        AcceleratedRanks("cpu", ("tensorbord",))
