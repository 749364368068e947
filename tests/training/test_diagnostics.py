"""Per-layer diagnostics against small computations by hand; nothing of the model may change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qscale.kernels import fake_quant, hadamard
from qscale.models.families import build
from qscale.models.ladder import ModelShape, shape_of
from qscale.models.surgery import quantize_model
from qscale.quantizers import QuantLinear, make_quantizer
from qscale.training.diagnostics import Oscillations, diagnose, relmse

SHAPE = shape_of("tiny-20k")


@pytest.fixture
def tokens():
    return torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(0))


def model(recipe=None):
    made = build(SHAPE, context=32, seed=0)
    if recipe is not None:
        quantize_model(made, recipe, SHAPE.role)
    return made


def inputs_of(found, name, tokens):
    seen = []
    handle = found.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        found.eval()(input_ids=tokens)
    handle.remove()
    return seen[0]


def error(q, x):
    return float(((q - x).double() ** 2).sum() / (x.double() ** 2).sum())


def test_errors_are_those_of_the_tensors(tokens):
    found = model("w4a8:g32")
    name = "model.layers.1.mlp.down_proj"
    row = next(row for row in diagnose(found, tokens, SHAPE) if row.layer == name)
    weight, x = found.get_submodule(name).weight.detach(), inputs_of(found, name, tokens)
    assert row.role == "fc2"
    assert row.weight_relmse == pytest.approx(error(fake_quant(weight, "int4:g32"), weight), rel=1e-12)
    assert row.input_relmse == pytest.approx(error(fake_quant(x, "int8:g32"), x), rel=1e-12)
    assert row.weight_sqnr == pytest.approx(-10 * torch.tensor(row.weight_relmse).log10().item(), rel=1e-6)
    assert row.input_peak == pytest.approx(float(x.abs().max() / x.abs().median()))
    z = (x.double() - x.double().mean()).flatten()
    assert row.input_kurtosis == pytest.approx(float((z**4).mean() / (z**2).mean() ** 2))
    assert (row.weight_clipped, row.input_clipped, row.gradient_norm) == (0.0, 0.0, None)


def test_plain_layers_have_inputs_but_no_errors(tokens):
    rows = diagnose(model(), tokens, SHAPE)
    assert len(rows) == 14
    assert all(row.weight_relmse is None and row.input_clipped is None for row in rows)
    assert all(row.input_kurtosis > 1 for row in rows)
    assert relmse(rows) == (None, None)


def test_rotated_layers_are_measured_in_their_basis(tokens):
    found = model("w4a4:g32,rot=hadamard:32")
    name = "model.layers.0.self_attn.o_proj"
    row = next(row for row in diagnose(found, tokens, SHAPE) if row.layer == name)
    weight = hadamard(found.get_submodule(name).weight.detach(), block=32)
    assert row.weight_relmse == pytest.approx(error(fake_quant(weight, "int4:g32"), weight), rel=1e-5)


def test_a_clip_shows_as_the_share_beyond_it(tokens):
    found = model("w=int4:g32,q=clip(0.5)")
    name = "model.layers.0.mlp.up_proj"
    row = next(row for row in diagnose(found, tokens, SHAPE) if row.layer == name)
    weight = found.get_submodule(name).weight.detach().view(-1, 32)
    scale = 0.5 * weight.abs().amax(dim=1, keepdim=True) / 7
    beyond = float(((weight / scale).round().abs() > 7).double().mean())
    assert row.weight_clipped == pytest.approx(beyond, abs=1e-3)
    assert 0.05 < beyond < 0.5


@pytest.mark.parametrize(
    "recipe", ["w4a4:g16,q=lsq", "w=int4:g16:stochastic,a=int4:g16:stochastic", "w4a4:g32"]
)
def test_a_look_changes_nothing(tokens, recipe):
    found = model(recipe).train()
    found(input_ids=tokens).logits.sum().backward()  # starts what starts from data
    before = copy.deepcopy(found.state_dict())
    gradients = {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}
    rows = diagnose(found, tokens, SHAPE)
    assert found.training and all(module.training for module in found.modules())
    for name, value in found.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, p in found.named_parameters():
        assert p.grad is None or torch.equal(p.grad, gradients[name]), name
    assert rows[0].gradient_norm == pytest.approx(float(gradients[f"{rows[0].layer}.weight"].norm()))


def test_mean_error_weighs_layers_by_their_elements(tokens):
    rows = diagnose(model("w4a16:g32"), tokens, SHAPE)
    mean = sum(row.weight_relmse * row.elements for row in rows) / sum(row.elements for row in rows)
    assert relmse(rows) == (pytest.approx(mean), None)
    assert {row.elements for row in rows} == {32 * 32, 32 * 64}


def _one_layer(values):
    linear = nn.Linear(len(values), 1, bias=False)
    linear.weight.data = torch.tensor([values])
    spec = "int4:channel"
    from qscale.formats import QuantSpec

    parsed = QuantSpec.parse(spec)
    quantizer = make_quantizer("absmax", parsed, operand="weight", shape=(1, len(values)))
    return nn.ModuleList([QuantLinear.from_linear(linear, quantizer, None)])


def test_oscillation_counts_turns_alone():
    layers = _one_layer([7.0, 1.4, 3.0, 0.4])
    meter = Oscillations(layers)
    weight = layers[0].weight
    codes = [(1.4, 3.0), (1.6, 3.6), (1.4, 4.6), (1.4, 5.6), (1.6, 6.4)]  # 1 2 1 1 2; 3 4 5 6 6
    rates = []
    for first, second in codes:
        with torch.no_grad():
            weight[0, 1], weight[0, 2] = first, second
        meter.update()
        rates.append(meter.rate("0"))
    one = 0.01 / 4  # one of four weights turned, once
    assert rates[:2] == [0.0, 0.0]
    assert rates[2] == pytest.approx(one)
    assert rates[3] == pytest.approx(one * 0.99)
    assert rates[4] == pytest.approx(one * 0.99**2 + one)
    with torch.no_grad():
        weight.mul_(3.7)  # the scale alone moves: no code does
    meter.update()
    assert meter.rate("0") == pytest.approx(rates[4] * 0.99, rel=1e-4)


def test_shape_of_another_family(tokens):
    shape = ModelShape.from_json({**SHAPE.to_json(), "family": "gpt_neox"})
    found = build(shape, context=32, seed=0)
    quantize_model(found, "w4a4:g32", shape.role)
    roles = [row.role for row in diagnose(found, tokens, shape)]
    assert roles == ["qkv", "o", "fc1", "fc2"] * 2
