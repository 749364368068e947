"""LREC: factors learned after the closed form of a low-rank correction."""

import pytest
import torch
from ptq.drawn import draw, layer, statistics
from ptq.trained import loss, trained, windows
from ptq.uneven import TOKENS, logits, make

from qscale.ptq.layers import Rounded
from qscale.ptq.methods import Method
from qscale.ptq.methods.low_rank import LowRank
from qscale.ptq.run import quantize_trained
from qscale.ptq.tuning import Tuning


def _tuning(weight, x, rounded):
    """A block that is one layer beside a skip connection."""
    tuning = Tuning(
        name="b",
        inputs=list(x.split(16)),
        targets=[part + part @ weight.t() for part in x.split(16)],
        call=lambda hidden, weights: hidden + hidden @ weights["fc.weight"].t(),
    )
    tuning.layers["fc"] = layer(weight, "int2:g8", name="b.fc")
    tuning.rounded["fc"] = rounded
    return tuning


def _best(weight, rounded, x, rank):
    """Eckart and Young: what no correction of a rank can take away, as a part of the output's power."""
    X, residual = x.double(), (weight - rounded).double()
    left = torch.linalg.svdvals(X @ residual.t())[rank:].square().sum()
    return float(left / (X @ weight.double().t()).square().sum())


def test_parts_make_up_the_weight():
    weight, x = draw(16, 16)
    nearest = layer(weight, "int2:g8").nearest(weight)
    corrected = LowRank(rank=3).correct(
        layer(weight), weight, Rounded(weight=nearest, bits=4.5), statistics(x)
    )
    Q, A, B = corrected.parts
    assert torch.equal(Q, nearest) and A.shape == (16, 3) and B.shape == (3, 16)
    torch.testing.assert_close(Q + A @ B, corrected.weight, rtol=1e-5, atol=1e-5)
    assert float(A.norm()) == pytest.approx(float(B.norm()), rel=1e-5)


def test_one_layer_cannot_be_learned_better_than_its_closed_form():
    weight, x = draw(16, 16)
    found, nearest = statistics(x), layer(weight, "int2:g8").nearest(weight)
    step = LowRank(rank=3, lrec=50)
    corrected = step.correct(layer(weight), weight, Rounded(weight=nearest, bits=4.5), found)
    block = _tuning(weight, x, corrected)
    before = block.error({})
    step.tune(block)
    assert before == pytest.approx(_best(weight, nearest, x, 3), rel=1e-3)
    assert block.error({}) <= before and block.error({}) == pytest.approx(before, rel=1e-3)


def test_a_worse_start_is_learned_towards_the_best():
    weight, x = draw(16, 16)
    nearest = layer(weight, "int2:g8").nearest(weight)
    step = LowRank(rank=3, weighted=False, lrec=600, rate=5e-3)
    corrected = step.correct(layer(weight), weight, Rounded(weight=nearest, bits=4.5), statistics(x))
    block = _tuning(weight, x, corrected)
    before, best = block.error({}), _best(weight, nearest, x, 3)
    step.tune(block)
    assert best <= block.error({}) * (1 + 1e-6)
    assert block.error({}) - best < 0.5 * (before - best)
    Q, A, B = block.rounded["fc"].parts
    assert torch.equal(Q, nearest) and torch.equal(Q + A @ B, block.rounded["fc"].weight)
    assert block.rounded["fc"].bits == corrected.bits


@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_it_never_ends_worse_than_the_closed_form(rate):
    for seed in range(4):
        weight, x = draw(12, 12, seed=seed)
        nearest = layer(weight, "int2:g8").nearest(weight)
        step = LowRank(rank=2, weighted=bool(seed % 2), lrec=20, rate=rate)
        corrected = step.correct(layer(weight), weight, Rounded(weight=nearest, bits=4.5), statistics(x))
        block = _tuning(weight, x, corrected)
        before = block.error({})
        step.tune(block)
        assert block.error({}) <= before


def test_without_steps_or_corrections_nothing_is_learned():
    weight, x = draw(8, 8)
    block = _tuning(weight, x, Rounded(weight=weight, bits=4.5))
    LowRank(lrec=5).tune(block)
    assert torch.equal(block.rounded["fc"].weight, weight)
    assert not LowRank().tunes and LowRank(lrec=1).tunes
    assert str(Method.parse("gptq+low_rank(rank=2,lrec=5)")) == "gptq+low_rank(rank=2,lrec=5)"


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt"])
def test_a_pass_is_deterministic_and_counts_the_factors(family):
    method = "gptq+low_rank(rank=2,lrec=10)"
    models = [make(family), make(family)]
    reports = [quantize_trained(model, "w3a8:g32,rot=hadamard:32", method, TOKENS) for model in models]
    assert torch.equal(logits(models[0]), logits(models[1]))
    plain = quantize_trained(make(family), "w3a8:g32,rot=hadamard:32", "gptq+low_rank(rank=2)", TOKENS)
    assert reports[0].bits_per_weight == plain.bits_per_weight


def test_a_trained_model_loses_less_than_by_the_closed_form():
    losses = []
    for method in ("rtn", "low_rank(rank=2)", "low_rank(rank=2,lrec=60)"):
        model = trained()
        quantize_trained(model, "w2a16:g32", method, windows(3, 32))
        losses.append(loss(model))
    assert losses[2] < losses[1] < losses[0]
