"""Which layers a recipe quantizes, and what the quantized model computes."""

import pytest
import torch

from qscale.errors import ConfigError, SpecError
from qscale.kernels import fake_quant
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.models.surgery import quantize_model
from qscale.quantizers import QuantLinear


@pytest.fixture
def model():
    return build(shape_of("tiny-20k"), context=16, seed=0)


def _layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}


def test_built_model_has_the_counted_parameters(model):
    shape = shape_of("tiny-20k")
    total = sum(p.numel() for p in model.parameters())
    tables = sum(p.numel() for name, p in model.named_parameters() if "embed" in name or "lm_head" in name)
    assert (total - tables, total) == (shape.N, shape.N_total)


def test_initial_weights_are_a_function_of_the_seed_alone(model):
    torch.manual_seed(123)
    again = build(shape_of("tiny-20k"), context=16, seed=0)
    other = build(shape_of("tiny-20k"), context=16, seed=1)
    pairs = list(zip(model.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_w4a4_quantizes_seven_linears_a_block_and_nothing_else(model):
    replaced = quantize_model(model, "w4a4:g32")
    assert len(replaced) == 2 * 7
    assert set(replaced) == set(_layers(model))
    assert not isinstance(model.get_output_embeddings(), QuantLinear)


def test_parameters_are_shared_and_keep_their_names(model):
    before = dict(model.named_parameters())
    quantize_model(model, "w4a4:g32")
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize(
    ("recipe", "weight", "inputs"), [("w4a16:g16", True, False), ("w16a4:g16", False, True)]
)
def test_quant_linear_rounds_only_the_operands_of_the_recipe(model, recipe, weight, inputs):
    quantize_model(model, recipe)
    layer = next(iter(_layers(model).values()))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    w = fake_quant(layer.weight, "int4:g16") if weight else layer.weight
    expected = (fake_quant(x, "int4:g16") if inputs else x) @ w.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_quant_linear_are_those_of_its_rounded_operands(model):
    quantize_model(model, "w4a4:g16")
    layer = next(iter(_layers(model).values()))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    layer(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ fake_quant(layer.weight, "int4:g16"))
    torch.testing.assert_close(layer.weight.grad, upstream.T @ fake_quant(x, "int4:g16"))


def test_override_changes_one_layer_of_every_block(model):
    quantize_model(model, "w4a4:g32,down_proj.input=int8:g32")
    specs = {name.rpartition(".")[2]: str(m.input_quantizer.spec) for name, m in _layers(model).items()}
    assert specs["down_proj"] == "int8:g32"
    assert {spec for name, spec in specs.items() if name != "down_proj"} == {"int4:g32"}


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        ("w4a4:g32,up_prj.input=int8:g32", ConfigError, "names no linear layer"),
        ("w4a4:g32,rot=hadamard:32", ConfigError, "rotations are not trained yet"),
        ("w4a4:g32,q=lsq", SpecError, "unknown quantizer 'lsq'"),
        ("w=int4:g8@quest", SpecError, "int4:g8@quest"),
    ],
)
def test_recipe_that_cannot_be_built_is_an_error(model, recipe, error, message):
    with pytest.raises(error, match=message):
        quantize_model(model, recipe)
        model(input_ids=torch.zeros(1, 4, dtype=torch.long))
