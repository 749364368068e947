"""LRQ: its formula, where it starts, its gradient, and that what it learns is no worse."""

import pytest
import torch
from ptq.drawn import draw, layer
from ptq.trained import loss, trained, windows
from ptq.uneven import TOKENS, logits, make

from qscale.errors import SpecError
from qscale.kernels import fake_quant
from qscale.ptq.layers import Rounded
from qscale.ptq.methods.lrq import LRQ, Rounding
from qscale.ptq.run import quantize_trained
from qscale.ptq.tuning import Tuning
from qscale.quantizers import QuantLinear


def test_it_starts_from_the_searched_scales():
    weight, _ = draw(5, 20)
    weight[:, 3] *= 8
    got = Rounding(layer(weight, "int3:g8"), 2)()
    wanted = torch.empty_like(weight).double()
    for row in range(5):
        for start in range(0, 20, 8):
            w = weight[row, start : start + 8].double()
            tried = [w.abs().max() / 3 * (1 - i / 100) for i in range(100)]
            values = [(w / s).round().clamp(-3, 3) * s for s in tried]
            best = min(values, key=lambda v: float((v - w).abs().pow(2.4).sum()))
            wanted[row, start : start + 8] = best
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(got, fake_quant(weight, "int3:g8"))


@pytest.mark.parametrize("spec", ["int4:g8", "int4:g8:asym", "int4:channel", "int4:tensor", "int4:b4"])
def test_the_rounding_is_its_formula(spec):
    weight, _ = draw(8, 16)
    part = Rounding(layer(weight, spec), 2)
    generator = torch.Generator().manual_seed(1)
    for parameter in (part.left, part.row, part.column):
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    divisor = (part.left.double() @ part.right.double() + part.row.double() + part.column.double()).exp()
    divided = weight.double() / divisor
    scale = part.log_scale.double().exp()
    zero = torch.zeros_like(scale) if part.zero is None else part.zero.double()
    if spec == "int4:b4":
        scale, zero = (t.repeat_interleave(4, 0).repeat_interleave(4, 1) for t in (scale, zero))
    elif spec.startswith("int4:g8"):
        scale, zero = (t.repeat_interleave(8, 1) for t in (scale, zero))
    low, high = (0, 15) if "asym" in spec else (-7, 7)
    wanted = (((divided / scale).round() + zero).clamp(low, high) - zero) * scale
    torch.testing.assert_close(part().double(), wanted.expand(8, 16), rtol=1e-4, atol=1e-5)


def test_the_gradient_passes_through_the_rounding_inside_the_range():
    weight, _ = draw(6, 16)
    part = Rounding(layer(weight, "int3:g8"), 2)
    generator = torch.Generator().manual_seed(1)
    part.left.copy_(0.3 * torch.randn(part.left.shape, generator=generator))
    for parameter in part.parameters:
        parameter.requires_grad_(True)
    incoming = torch.randn(6, 16, generator=generator)
    got = torch.autograd.grad((part() * incoming).sum(), part.parameters)
    log_scale, left, right, row, column = (p.detach().double().requires_grad_(True) for p in part.parameters)
    scale = log_scale.exp().repeat_interleave(8, 1)
    u = weight.double() / (scale * (left @ right + row + column).exp())
    rounded = (u + (u.round() - u).detach()).clamp(-3, 3)
    wanted = torch.autograd.grad(
        (rounded * scale * incoming.double()).sum(), (log_scale, left, right, row, column)
    )
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def _tuning(weight, x, spec, rounded):
    """A block that is one layer."""
    tuning = Tuning(
        name="b",
        inputs=[x[:10], x[10:]],
        targets=[(part @ weight.t()) for part in (x[:10], x[10:])],
        call=lambda hidden, weights: hidden @ weights["fc.weight"].t(),
    )
    tuning.layers["fc"] = layer(weight, spec, name="b.fc")
    tuning.rounded["fc"] = Rounded(weight=rounded, bits=4.5)
    return tuning


@pytest.mark.parametrize(
    "spec", ["int4:g8", "int2:g5:asym", "int3:tensor", "nf4:g8", "mxfp4", "nvfp4", "dint4:channel", "int4:b4"]
)
@pytest.mark.parametrize("rate", [5e-3, 1.0])
def test_it_never_ends_worse_than_it_started(spec, rate):
    weight, x = draw(16, 16)
    weight[2] = 0.0
    nearest = layer(weight, spec).nearest(weight)
    block = _tuning(weight, x, spec, nearest)
    part = Rounding(block.layers["fc"], 4)
    first, best = block.learn(part.parameters, lambda: {"fc": part()}, steps=60, rate=rate)
    assert best <= first and block.error({"fc": part()}) == best
    before = block.error({})
    LRQ(steps=60, rate=rate).tune(block)
    after = block.error({})
    assert after <= before and bool(block.rounded["fc"].weight.isfinite().all())
    assert float(block.rounded["fc"].weight[2].abs().max()) == 0.0
    if rate == 5e-3 and spec.startswith("int"):
        assert after < before


def test_a_block_that_is_better_as_it_was_stays():
    weight, x = draw(16, 16)
    block = _tuning(weight, x, "int4:g8", weight.clone())
    LRQ(steps=5).tune(block)
    assert torch.equal(block.rounded["fc"].weight, weight) and block.rounded["fc"].bits == 4.5
    assert "helps nothing" in block.rounded["fc"].notes[-1]


def test_the_error_is_a_part_of_what_the_block_adds():
    weight, x = draw(16, 16)
    block = _tuning(weight, x, "int4:g8", weight + 0.1)
    x, w = x.double(), weight.double()
    wanted = float((x @ (w + 0.1).t() - x @ w.t()).square().sum() / (x @ w.t() - x).square().sum())
    assert block.error({}) == pytest.approx(wanted, rel=1e-4)


def test_scales_that_cannot_be_held_are_refused():
    with pytest.raises(SpecError, match="torchao"):
        LRQ().check(layer(torch.randn(4, 32), "int4:g32@torchao"))


def _block_error(model, plain):
    """Of the first block's output; both get the same inputs."""
    outputs = []
    for one in (model, plain):
        handle = one.model.layers[0].register_forward_hook(lambda _, __, out: outputs.append(out))
        logits(one, TOKENS)
        handle.remove()
    first, second = (out[0] if isinstance(out, tuple) else out for out in outputs)
    return float((first.double() - second.double()).square().sum())


@pytest.mark.parametrize(
    "recipe", ["w3a16:g32", "w3a8:g32", "w3a16:g32,rot=hadamard:32:signs", "w=nvfp4,a=nvfp4"]
)
def test_a_block_gives_nearer_what_it_gave(recipe):
    plain, nearest, model = make(), make(), make()
    quantize_trained(nearest, recipe, "rtn", TOKENS)
    report = quantize_trained(model, recipe, "lrq(steps=40,rate=0.002)", TOKENS)
    assert _block_error(model, plain) < _block_error(nearest, plain)
    assert report.bits_per_weight == quantize_trained(make(), recipe, "rtn", TOKENS).bits_per_weight


@pytest.mark.parametrize("family", ["qwen3", "gpt_neox", "opt"])
def test_a_pass_is_deterministic_and_leaves_nothing_behind(family):
    method = "smoothquant(inputs=all)+gptq+lrq(steps=8)"
    models = [make(family), make(family).to(torch.bfloat16), make(family)]
    reports = [quantize_trained(model, "w3a8:g32", method, TOKENS) for model in models]
    assert torch.equal(logits(models[0]), logits(models[2]))
    assert reports[0].to_json() == reports[2].to_json()
    for model in models:
        assert all(m.weight_quantizer is None for m in model.modules() if isinstance(m, QuantLinear))
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert bool(logits(model).isfinite().all())


def test_a_trained_model_loses_less_than_by_rounding_to_nearest():
    model, plain = trained(), trained()
    quantize_trained(model, "w3a16:g32", "lrq(steps=60,rate=0.002)", windows(3, 32))
    quantize_trained(plain, "w3a16:g32", "rtn", windows(3, 32))
    assert loss(model) < loss(plain)
