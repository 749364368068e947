"""Which layers a recipe quantizes, and what the quantized model computes."""

import pytest
import torch

from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.kernels import fake_quant, hadamard
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.models.surgery import quantize_model
from qscale.quantizers import QuantLinear, Shared, signs_of


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
        ("w4a4:g32,qkv.weight=int8:g32,fc3.input=int8:g32", ConfigError, "'fc3.input' names no linear"),
        ("w4a4:g32,q=lac", SpecError, "'lac' is for input, not weight; .* served by absmax, clip, lwc, lsq"),
        ("w4a4:g32,q=seq/absmax", SpecError, "'seq' serves int2"),
        ("w=mxfp4,q=lwc", SpecError, "'lwc' serves symmetric integers"),
        ("w=int4:g8@quest", SpecError, "int4:g8@quest"),
        ("w=int4:g8@aten", SpecError, "has no scale of its own"),
        ("w4a4:g32,keep=first+last", ConfigError, "touches no linear layer"),
    ],
)
def test_recipe_that_cannot_be_built_is_an_error(model, recipe, error, message):
    with pytest.raises(error, match=message):
        quantize_model(model, recipe)


def test_override_may_name_a_role_and_a_layer_wins_over_it(model):
    quantize_model(model, "w4a4:g32,fc1.input=int8:g32,up_proj.input=int6:g32,qkv.weight=none")
    layers = {name.rpartition(".")[2]: m for name, m in _layers(model).items()}
    assert str(layers["gate_proj"].input_quantizer.spec) == "int8:g32"
    assert str(layers["up_proj"].input_quantizer.spec) == "int6:g32"
    assert layers["v_proj"].weight_quantizer is None
    assert layers["o_proj"].weight_quantizer is not None


def test_one_layer_of_one_block_is_left_out(model):
    recipe = Recipe.parse("w4a4:g32,down_proj.input=int8:g32").without_input_of("layers.1.mlp.down_proj")
    quantize_model(model, recipe.without_input_of("layers.0.self_attn.k_proj"))
    specs = {n: q and str(q.spec) for n, m in _layers(model).items() for q in (m.input_quantizer,)}
    assert [name for name, spec in specs.items() if spec is None] == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert specs["model.layers.0.mlp.down_proj"] == "int8:g32"
    assert all(layer.weight_quantizer is not None for layer in _layers(model).values())


@pytest.mark.parametrize("roles", [{"layers.0.mlp.up_proj": "fc2"}, lambda _: "fc2"], ids=["map", "call"])
def test_roles_may_be_given(model, roles):
    if isinstance(roles, dict):
        roles = {f"model.{name}": role for name, role in roles.items()}
    quantize_model(model, "w4a4:g32,fc2.weight=int8:g32", roles)
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert str(layer.weight_quantizer.spec) == "int8:g32"


def test_role_that_is_none_of_the_four_is_refused(model):
    with pytest.raises(ConfigError, match="unknown role 'ffn'; known: qkv, o, fc1, fc2"):
        quantize_model(model, "w4a4:g32", lambda _: "ffn")


@pytest.mark.parametrize(("keep", "left"), [("first", {1}), ("last", {0})])
def test_kept_block_stays_unquantized(model, keep, left):
    quantize_model(model, f"w4a4:g32,keep={keep},kv=int4:g32")
    assert {int(name.split(".")[2]) for name in _layers(model)} == left
    with_kv = [n for n, m in model.named_modules() if hasattr(m, "kv_quantizers")]
    assert {int(name.split(".")[2]) for name in with_kv} == left


def test_layers_with_one_input_share_its_quantizer_and_others_do_not(model):
    quantize_model(model, "w4a4:g32,q=absmax/lac")
    block = model.model.layers[0]
    q, k, v, o = (getattr(block.self_attn, f"{part}_proj").input_quantizer for part in "qkvo")
    gate, up = block.mlp.gate_proj.input_quantizer, block.mlp.up_proj.input_quantizer
    assert q is k is v
    assert gate is up
    assert len({id(m) for m in (q, o, gate, model.model.layers[1].self_attn.q_proj.input_quantizer)}) == 4


def test_learned_parameters_have_one_dimension_and_get_gradients(model):
    before = set(model.parameters())
    quantize_model(model, "w4a4:g16,q=lwc/lsq")
    learned = {name: p for name, p in model.named_parameters() if p not in before}
    model(input_ids=torch.arange(8)[None], use_cache=False).logits.square().sum().backward()
    assert learned
    assert all(p.ndim == 1 and p.grad is not None for p in learned.values())
    assert all("_quantizer." in name for name in learned)


@pytest.mark.parametrize("signs", ["", ":signs"])
@pytest.mark.parametrize("block", ["16", "full", "128"])
def test_rotation_alone_changes_the_logits_by_rounding_only(model, block, signs):
    tokens = torch.arange(12)[None]
    plain = model(input_ids=tokens).logits
    quantize_model(model, f"w=int8:g16,a=int8:g16,rot=hadamard:{block}{signs}")
    for module in _layers(model).values():
        module.weight_quantizer.quantizer = None
        inner = module.input_quantizer
        (inner.quantizer if isinstance(inner, Shared) else inner).quantizer = None
    torch.testing.assert_close(model(input_ids=tokens).logits, plain, rtol=1e-4, atol=1e-4)


def test_rotated_layer_is_the_product_of_rotated_and_rounded_operands(model):
    quantize_model(model, "w4a4:g16,rot=hadamard:128:signs")
    layer = model.model.layers[0].mlp.down_proj  # 64 features: the block falls back to 64
    signs = signs_of("model.layers.0.mlp.down_proj", 64)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    operands = (fake_quant(hadamard(t, 64, signs), "int4:g16") for t in (x, layer.weight))
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(*operands), rtol=0, atol=0)


def test_keys_and_values_are_rounded_after_the_rotary_embedding(model):
    seen = {}
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        seen.setdefault("kv", (key, value))
        return sdpa(query, key, value, **options)

    tokens = torch.arange(12)[None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        model(input_ids=tokens, use_cache=False)
        plain = seen.pop("kv")
        quantize_model(model, "kv=int4:g16")
        model(input_ids=tokens, use_cache=False)
    for before, after in zip(plain, seen["kv"], strict=True):
        assert torch.equal(after, fake_quant(before.contiguous(), "int4:g16"))


def test_keys_and_values_without_a_looked_up_attention_are_refused(model):
    model.config._attn_implementation = "eager"
    with pytest.raises(ConfigError, match="is 'eager'; build the model with 'sdpa'"):
        quantize_model(model, "kv=int4:g16")
