"""Annealing in training: which weights move, in every mode, and that a resume changes no bit."""

from __future__ import annotations

import pytest
import torch

from qscale.data.batches import TrainingBatches
from qscale.errors import SpecError
from qscale.quantizers import QuantLinear
from qscale.training import checkpoint, engine, loop, paths
from qscale.training.how import How

RECIPE = "w4a4:g16,q=statsq/lsq,anneal=0.1:0.1"  # 40 steps: the last four
MODES = [{"mode": "scratch"}, {"mode": "cooldown"}, {"mode": "finetune", "finetune_fraction": 0.25}]


class _Norms:
    """A monitor that writes down the norms of gradients."""

    def __init__(self, norms):
        self.norms = norms

    def see(self, _step, _loss, gradient):
        self.norms.append(gradient)


class _StopAfter:
    """should_stop that says yes from the n-th time it is asked."""

    def __init__(self, polls):
        self.left = polls

    def __call__(self):
        self.left -= 1
        return self.left < 0


def _start(run, folder, corpus):
    """What the run leaves: its trunk, or the end of an unquantized run."""
    source = run.source()
    trunk = folder / "trunk"
    if source is None:
        assert loop.run_trunk(run, [run.branch_step], trunk, corpus)
        return trunk
    assert loop.run_trunk(source, [source.branch_step], trunk, corpus)
    assert loop.run_branch(source, folder / "source", trunk, corpus)
    return folder / "source"


def _weights(folder, step):
    return checkpoint.load_file(paths.checkpoints(folder) / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["mode"])
def test_only_free_weights_move_and_a_resume_within_changes_no_bit(config, corpus, tmp_path, mode):
    run = config(**mode, recipe=RECIPE)
    assert run.annealing_step == 36
    start = _start(run, tmp_path, corpus)
    whole = loop.run_branch(run, tmp_path / "whole", start, corpus)
    cut, states, events = tmp_path / "cut", {}, []
    for step in (36, 37, 39):  # the first of them before a mask is settled, the others within
        steps = step - max([run.branch_step, *states])
        assert loop.run_branch(run, cut, start, corpus, How(should_stop=_StopAfter(steps - 1))) is None
        states[step] = _weights(cut, step)
    record = loop.run_branch(run, cut, start, corpus, How(emit=events.append))
    pair = [paths.eval_losses(path).read_bytes() for path in (cut, tmp_path / "whole")]
    assert pair[0] == pair[1]
    assert record.loss == whole.loss
    masks = {name: mask for name, mask in states[39].items() if name.endswith("weight_quantizer.free")}
    assert len(masks) == 14
    for name, free in masks.items():
        weight = name.replace("weight_quantizer.free", "weight")
        assert states[36][name].all()
        assert torch.equal(states[37][name], free)
        moved = states[36][weight] != states[39][weight]
        assert not moved[~free].any()
        assert moved[free].float().mean() > 0.9
        assert 0.02 < free.float().mean() < 0.4  # of 15 boundaries, 0.1 either side
    share = torch.cat([mask.flatten() for mask in masks.values()]).double().mean()
    (told,) = [event for event in events if event["event"] == "annealing"]
    assert told == {"event": "annealing", "step": 39, "free": pytest.approx(float(share))}


def test_all_but_the_weights_of_statsq_goes_on_learning(config, corpus, tmp_path):
    run = config(mode="cooldown", recipe="w4a4:g16,q=statsq/lsq,anneal=0.1:0.0")
    training = engine.Training(run, corpus, tmp_path, How())
    training.quantize(run.recipe)
    training.step = run.annealing_step
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    assert training.advance(run.annealing_step + 2, lambda *_: 1e-3, run.steps)
    frozen = {f"{n}.weight" for n, m in training.model.named_modules() if isinstance(m, QuantLinear)}
    started = {name for name in before if name.endswith(".alpha")}
    assert len(frozen) == 14 and started
    for name, p in training.model.named_parameters():
        assert torch.equal(p, before[name]) == (name in frozen), name


def test_gradients_of_frozen_weights_are_not_in_the_norm_that_is_clipped(config, corpus, tmp_path):
    run, norms = config(mode="cooldown", recipe="w4a4:g16,q=statsq/absmax,anneal=0.1:0.0"), []
    training = engine.Training(run, corpus, tmp_path, How())
    training.quantize(run.recipe)
    training.step, training.monitor = 36, _Norms(norms)
    tokens = torch.from_numpy(TrainingBatches(corpus.train, 64, run.data_seed).batch(36, 4))
    engine.gradients(training.model, tokens, run)
    square = 0.0
    for module in training.model.modules():
        for name, p in module.named_parameters(recurse=False):
            frozen = isinstance(module, QuantLinear) and name == "weight"
            square += 0.0 if frozen else float(p.grad.double().square().sum())
    training.model.zero_grad()
    assert training.advance(37, lambda *_: 1e-3, run.steps)
    assert norms == [pytest.approx(square**0.5, rel=1e-5)]


def test_annealing_without_its_weights_is_refused_before_training(config, corpus, tmp_path):
    run = config(mode="cooldown", recipe="w4a4:g16,anneal=0.1")
    assert loop.run_trunk(run, [run.branch_step], tmp_path / "trunk", corpus)
    with pytest.raises(SpecError, match="needs weights of quantizer 'statsq'"):
        loop.run_branch(run, tmp_path / "run", tmp_path / "trunk", corpus)
    assert not (tmp_path / "run").exists()
