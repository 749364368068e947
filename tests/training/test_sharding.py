"""Two processes with half of each parameter (FSDP) against one with all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import job, train_together
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from qscale.errors import ConfigError
from qscale.training import evaluate, loop, paths, ranks
from qscale.training.how import How
from qscale.training.ranks import Ranks

#: Nats. Gradients are added up in another order: after 12 steps losses differ by 1e-6 or less, unless a
#: code lies so near a boundary that rounding turns it over.
TOLERANCE = 2e-3
STEPS = 12


def alone(run, folder, corpus, how=None):
    trunk = folder / "trunk"
    assert loop.run_trunk(run, [9, run.branch_step], trunk, corpus, how)
    return loop.run_branch(run, folder / "run", trunk, corpus, how)


def rows_of(folder):
    return [json.loads(line) for line in paths.diagnostics(folder).read_text().splitlines()]


def assert_same_files(one, two):
    """The same names, shapes, types and counts of steps, and nearly the same weights."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        plain, sharded = load_file(one / file), load_file(two / file)
        assert plain.keys() == sharded.keys()
        for name, tensor in plain.items():
            assert (tensor.shape, tensor.dtype) == (sharded[name].shape, sharded[name].dtype), name
            if name.endswith(".step") or tensor.dtype == torch.bool:
                assert torch.equal(tensor, sharded[name]), name
        # Adam's first steps are signs: where a gradient is nearly 0 they may differ by two rates
        apart = torch.cat(
            [(plain[name] - sharded[name]).abs().flatten() for name in plain if plain[name].ndim]
        )
        assert float((apart > 1e-4).float().mean()) < 0.02


def test_sharded_processes_train_as_one_does(config, corpus, text, tmp_path):
    looks = {"diagnose_every": 3, "oscillations": True}
    runs = {
        "absmax": config(mode="scratch", recipe="w4a4:g16", tokens=STEPS * 256),
        "lsq": config(
            mode="scratch",
            recipe="lsq-w4a4:g16",
            tokens=STEPS * 256,
            accumulation=2,
            parametrization="mup",
            mup_width=16,
        ),
        "clipped": config(mode="scratch", recipe="w=int4:channel,a=int4:token,q=lwc/lac", tokens=STEPS * 256),
    }
    two = tmp_path / "two"
    found = train_together([job(run, two / name, **looks) for name, run in runs.items()], text, sharded=True)
    for (name, run), record in zip(runs.items(), found, strict=True):
        one = tmp_path / "one" / name
        wanted = alone(run, one, corpus, How(**looks))
        assert record["run_id"] == wanted.run_id == run.run_id
        assert record["loss"] == pytest.approx(wanted.loss, abs=TOLERANCE), name
        losses = [np.load(paths.eval_losses(folder / "run")) for folder in (one, two / name)]
        np.testing.assert_allclose(losses[1], losses[0], atol=5 * TOLERANCE)
        assert_same_files(*(paths.branch_checkpoint(folder / "trunk", 9) for folder in (one, two / name)))
        for part in ("trunk", "run"):
            pairs = zip(rows_of(one / part), rows_of(two / name / part), strict=True)
            for plain, sharded in pairs:
                assert (plain["step"], plain["layer"]) == (sharded["step"], sharded["layer"])
                for key in ("weight_relmse", "input_relmse", "gradient_norm", "oscillation"):
                    assert sharded[key] == pytest.approx(plain[key], rel=0.02, abs=2e-3), key


def test_checkpoints_pass_between_sharded_processes_and_one(config, corpus, text, tmp_path):
    scratch = config(mode="scratch", recipe="lsq-w4a4:g16", tokens=STEPS * 256)
    cooled = config(mode="cooldown", recipe="lsq-w4a4:g16", tokens=16 * 256)
    tuned = config(mode="finetune", recipe="w4a4:g16", finetune_fraction=0.25, tokens=16 * 256)
    source, one, two = tuned.source(), tmp_path / "one", tmp_path / "two"
    wanted = {
        "scratch": alone(scratch, one / "scratch", corpus),
        "cooled": alone(cooled, one / "cooled", corpus),
        "source": alone(source, one / "source", corpus),
    }
    wanted["tuned"] = loop.run_branch(tuned, one / "tuned", one / "source" / "run", corpus)
    jobs = {
        "scratch": job(scratch, two / "scratch"),
        "cooled": job(cooled, two / "cooled", trunk=one / "cooled" / "trunk"),  # what one wrote, read by two
        "source": job(source, two / "source"),
        "tuned": job(tuned, two / "tuned", trunk=two / "source" / "run"),
    }
    for name, record in zip(jobs, train_together(list(jobs.values()), text, sharded=True), strict=True):
        assert record["loss"] == pytest.approx(wanted[name].loss, abs=TOLERANCE), name
    # and what two wrote, read by one
    back = loop.run_branch(scratch, one / "back", two / "scratch" / "trunk", corpus)
    assert back.loss == pytest.approx(wanted["scratch"].loss, abs=TOLERANCE)
    tuned_back = loop.run_branch(tuned, one / "tuned back", two / "source" / "run", corpus)
    assert tuned_back.loss == pytest.approx(wanted["tuned"].loss, abs=TOLERANCE)


class Counting(nn.Module):
    """Logits from tokens, row by row; counts its passes."""

    passes = 0

    def forward(self, input_ids, **_):
        self.passes += 1
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids % 7, 7).float())


class OneOf(Ranks):
    """A process that keeps to itself what it would tell the others."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world

    def join(self, parts, order):
        return dict(zip(order.tolist(), parts.tolist(), strict=True))


@pytest.mark.parametrize(("sequences", "passes"), [(1, 1), (64, 1), (65, 1), (150, 1), (200, 2)])
def test_every_process_evaluates_as_many_batches(sequences, passes):
    rows = np.random.default_rng(0).integers(0, 7, (sequences, 6))
    wanted = evaluate.sequence_losses(Counting(), rows)
    found = {}
    for rank in range(3):
        model = Counting()
        found |= evaluate.sequence_losses(model, rows, ranks=OneOf(rank, 3))
        assert model.passes == passes
    assert [found[i] for i in range(sequences)] == wanted.tolist()


def launched(**changes):
    plugin = {
        "fsdp_version": 2,
        "cpu_offload": OffloadPolicy(),
        "ignored_modules": None,
        "auto_wrap_policy": None,
        "transformer_cls_names_to_wrap": None,
        "activation_checkpointing": False,
    }
    own = {key: changes.pop(key) for key in list(changes) if key in plugin}
    backend = SimpleNamespace(backend=SimpleNamespace(value=changes.get("dynamo", "NO")))
    accelerator = SimpleNamespace(
        mixed_precision=changes.get("mixed_precision", "no"),
        state=SimpleNamespace(dynamo_plugin=backend, parallelism_config=None),
    )
    return SimpleNamespace(**plugin | own), accelerator


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp_version": 1}, "launch with --fsdp_version 2"),
        ({"cpu_offload": CPUOffloadPolicy()}, "--fsdp_offload_params: not supported"),
        ({"activation_checkpointing": True}, "qscale train has --checkpoint-activations"),
        ({"mixed_precision": "bf16"}, "qscale train has --precision"),
        ({"dynamo": "INDUCTOR"}, "qscale train has --compile"),
        ({"ignored_modules": "head"}, "--fsdp_ignored_modules"),
    ],
)
def test_what_a_launch_with_fsdp_may_not_ask_for(changes, message):
    ranks._check_fsdp(*launched())
    with pytest.raises(ConfigError, match=message):
        ranks._check_fsdp(*launched(**changes))
