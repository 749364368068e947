"""Training with the product of query and key weights: resume to the bit, in every mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qscale.models.ladder import shape_of
from qscale.training import checkpoint, loop, paths
from qscale.training.how import How

OPT = replace(shape_of("tiny-20k-opt"), num_heads=2, num_kv_heads=2, max_positions=64)


class _StopAfter:
    """should_stop that says yes from the n-th time it is asked."""

    def __init__(self, polls):
        self.left = polls

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(
    ("mode", "recipe"),
    [
        ({"mode": "scratch"}, "ofq-qkr-w4a4:g16,anneal=0.1"),
        ({"mode": "cooldown"}, "w4a4:g16,q=lsq,qkr=int4:g16"),
        ({"mode": "finetune", "finetune_fraction": 0.2}, "w=int4:g16:stochastic,qkr=int8:channel:stochastic"),
    ],
    ids=["scratch", "cooldown", "finetune"],
)
def test_a_run_stopped_and_resumed_gives_the_same_bytes(config, corpus, tmp_path, mode, recipe):
    run = config(model=OPT, **mode, recipe=recipe)
    first, start = run.source() or run, tmp_path / "trunk"
    assert loop.run_trunk(first, [first.branch_step], start, corpus)
    if first is not run:
        assert loop.run_branch(first, tmp_path / "source", start, corpus)
        start = tmp_path / "source"
    whole = loop.run_branch(run, tmp_path / "whole", start, corpus)
    cut = tmp_path / "cut"
    for polls in (2, 3):
        assert loop.run_branch(run, cut, start, corpus, How(should_stop=_StopAfter(polls))) is None
    record = loop.run_branch(run, cut, start, corpus)
    files = [paths.eval_losses(path).read_bytes() for path in (cut, tmp_path / "whole")]
    assert files[0] == files[1]
    assert record.loss == whole.loss < np.log(256) - 1
    assert record.relmse_weight is not None


def test_both_projections_learn_and_the_bias_of_keys_stays(config, corpus, tmp_path):
    run = config(model=OPT, mode="scratch", recipe="w4a4:g16,qkr=int4:g16", cooldown_fraction=0.5)
    assert loop.run_trunk(run, [5, 20], tmp_path, corpus)
    early, late = (
        checkpoint.load_file(paths.branch_checkpoint(tmp_path, step) / "model.safetensors")
        for step in (5, 20)
    )
    same = {name for name in early if torch.equal(early[name], late[name])}
    assert same == {f"model.decoder.layers.{i}.self_attn.k_proj.bias" for i in range(2)}
