"""Query-key reparameterisation of OPT: the same function, quantized products, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.kernels import fake_quant
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.models.query_key import QueryKeyAttention
from qscale.models.surgery import quantize_model
from qscale.quantizers import QuantLinear
from qscale.training.config import RunConfig
from qscale.training.diagnostics import Oscillations, diagnose, relmse

SHAPE = replace(shape_of("tiny-20k-opt"), num_heads=2, num_kv_heads=2)  # two blocks, width 32
QKR = "w4a4:g16,qkr=int4:g16"


def made(recipe=None, seed=0):
    """A model whose biases are not zero."""
    model = build(SHAPE, context=16, seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    if recipe is not None:
        quantize_model(model, recipe, SHAPE.role)
    return model


@pytest.fixture
def tokens():
    return torch.randint(0, 256, (3, 16), generator=torch.Generator().manual_seed(0))


def attentions(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, QueryKeyAttention)}


def unquantized(model):
    """The model with nothing left but the product form."""
    for module in attentions(model).values():
        module.query_key.weight_quantizer = nn.Identity()
    return model


def test_unquantized_product_leaves_the_logits(tokens):
    plain = made()(input_ids=tokens).logits
    model = unquantized(made("qkr=int8:g16"))
    assert len(attentions(model)) == 2
    found = model(input_ids=tokens).logits
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0  # padded on the left
    padded = [m(input_ids=tokens, attention_mask=mask).logits[0, 5:] for m in (made(), model)]
    torch.testing.assert_close(padded[1], padded[0], rtol=0, atol=1e-5)


def test_parameters_are_shared_and_keep_their_names():
    model = made()
    before = dict(model.named_parameters())
    quantize_model(model, QKR, SHAPE.role)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    still = {name for name, p in after.items() if not p.requires_grad}
    assert still == {f"model.decoder.layers.{i}.self_attn.k_proj.bias" for i in range(2)}


@pytest.mark.parametrize("left", ["", ",q_proj.input=none", ",k_proj.input=none", ",qkv.input=none"])
def test_quantized_attention_is_that_of_a_small_computation(left):
    model = made(QKR + left)
    layer = model.model.decoder.layers[1].self_attn
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
    rounded = fake_quant(x, "int4:g16")
    queries, keys = (x if left[1:4] in (part, "qkv") else rounded for part in ("q_p", "k_p"))
    values = x if "qkv" in left else rounded
    v = (values @ fake_quant(layer.v_proj.weight, "int4:g16").T + layer.v_proj.bias).view(2, 5, 2, 16)
    heads = []
    for head in range(2):
        rows = slice(16 * head, 16 * head + 16)
        w_q, w_k = layer.q_proj.weight[rows], layer.k_proj.weight[rows]
        logits = queries @ fake_quant((w_q.T @ w_k).contiguous(), "int4:g16") @ keys.mT
        logits = logits + (layer.q_proj.bias[rows] @ w_k @ keys.mT)[:, None, :]
        logits = (logits / math.sqrt(16)).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(logits.softmax(-1) @ v[:, :, head])
    expected = layer.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_cache_of_inputs_goes_on_where_it_was(tokens):
    model = made("w=int4:g16,a=int4:g16,qkr=int4:g16").eval()
    with torch.no_grad():
        whole = model(input_ids=tokens, use_cache=False).logits
        first = model(input_ids=tokens[:, :10], use_cache=True)
        rest = model(input_ids=tokens[:, 10:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, rtol=1e-3, atol=1e-4)
    assert first.past_key_values.layers[0].keys.shape == (3, 1, 16, 32), "once for all heads"


@pytest.mark.parametrize("quantizer", ["statsq/lsq", "lsq", "lwc/lac"])
def test_quantizers_of_weights_serve_the_product(tokens, quantizer):
    model = made(f"{QKR},q={quantizer}")
    assert len(attentions(model)) == 2
    model(input_ids=tokens, use_cache=False).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    learned = [name for name, _ in model.named_parameters() if ".query_key." in name]
    assert len(learned) == (0 if quantizer.startswith("statsq") else 2)


def test_the_input_is_quantized_once_for_queries_keys_and_values(tokens):
    model, calls = made(QKR), []
    layer = model.model.decoder.layers[0].self_attn
    shared = layer.v_proj.input_quantizer
    assert layer.query_key.input_quantizer is layer.query_key.key_quantizer is shared
    shared.quantizer.register_forward_hook(lambda *_: calls.append(1))
    model(input_ids=tokens, use_cache=False)
    assert len(calls) == 1


def test_kept_blocks_keep_their_attention():
    model = made(f"{QKR},keep=first")
    assert list(attentions(model)) == ["model.decoder.layers.1.self_attn"]
    first = model.model.decoder.layers[0].self_attn
    assert not isinstance(first.q_proj, QuantLinear)
    assert first.k_proj.bias.requires_grad


def test_bfloat16_rounds_the_product_from_full_precision(tokens):
    model, seen = made(QKR), []
    quantizer = model.model.decoder.layers[0].self_attn.query_key.weight_quantizer
    quantizer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(input_ids=tokens, use_cache=False).logits
    model(input_ids=tokens, use_cache=False)
    assert torch.equal(*seen)
    assert torch.isfinite(half).all()


@pytest.mark.parametrize("name", ["tiny-20k", "tiny-20k-qwen3", "tiny-20k-gpt_neox"])
def test_rotary_families_are_refused_before_and_in_surgery(name):
    shape = shape_of(name)
    with pytest.raises(ConfigError, match="has rotary positions"):
        quantize_model(build(shape, context=16, seed=0), QKR, shape.role)
    fields = {"corpus": "python", "corpus_sha256": "0" * 64, "tokens": 12800, "batch_sequences": 1}
    fields |= {"mode": "cooldown", "recipe": QKR, "init_seed": 0, "data_seed": 0, "learning_rate": 1.0}
    RunConfig(model=SHAPE, **fields)
    with pytest.raises(ConfigError, match="qkr cannot be; leave it out, or use a family without them: opt"):
        RunConfig(model=shape, **fields)


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        (f"{QKR},q_proj.weight=none", ConfigError, "'q_proj.weight' would do nothing, as qkr=int4:g16"),
        (f"{QKR},layers.1.self_attn.k_proj.weight=int8:g16", ConfigError, "would do nothing"),
        (f"{QKR},rot=hadamard:16", SpecError, "the product is not rotated"),
        ("qkr=int4:g16,kv=int4:g16", SpecError, "there are no keys"),
        ("qkr=int4:token", SpecError, "use channel"),
        ("w=int2:g16,qkr=int4:g16,q=seq/absmax", SpecError, "'seq' serves int2"),
    ],
)
def test_what_cannot_be_is_refused(recipe, error, message):
    with pytest.raises(error, match=message):
        made(recipe)


def test_other_attentions_are_refused():
    model = made()
    model.config._attn_implementation = "eager"
    with pytest.raises(ConfigError, match="is 'eager'; build the model with 'sdpa'"):
        quantize_model(model, QKR)
    with pytest.raises(ConfigError, match="has no attention of OPT's kind"):
        quantize_model(nn.ModuleList([nn.Linear(16, 16)]), QKR)


def test_parts_of_the_recipe():
    recipe = Recipe.parse(QKR)
    assert str(recipe) == QKR
    assert str(recipe.only("weight")) == "w4a16:g16,qkr=int4:g16"
    assert str(recipe.only("input")) == "w16a4:g16"
    rows = SHAPE.group_length(Recipe.parse("w4a4:g16,qkr=int4:channel"), "weight")
    weights = sum(linear.weights for linear in SHAPE.linears())
    assert rows == pytest.approx((2 * 1024 * 32 + (weights - 2 * 1024) * 16) / weights)


def test_diagnostics_have_the_product_for_both_projections(tokens):
    model = made(QKR)
    rows = {row.layer.removeprefix("model.decoder.layers."): row for row in diagnose(model, tokens, SHAPE)}
    assert [name for name in rows if name.startswith("0.")] == [
        *("0.self_attn.v_proj", "0.self_attn.out_proj", "0.self_attn.query_key"),
        *("0.fc1", "0.fc2"),
    ]
    row, layer = rows["1.self_attn.query_key"], model.model.decoder.layers[1].self_attn
    w_q, w_k = (p.weight.detach().view(2, 16, 32) for p in (layer.q_proj, layer.k_proj))
    product = (w_q.transpose(1, 2) @ w_k).reshape(64, 32)
    error = (fake_quant(product, "int4:g16") - product).double().square().sum()
    assert row.weight_relmse == pytest.approx(float(error / product.double().square().sum()), rel=1e-5)
    assert (row.role, row.elements, row.gradient_norm) == ("qkv", 2 * 32 * 32, None)
    assert row.input_relmse == rows["1.self_attn.v_proj"].input_relmse
    assert None not in relmse(rows.values())
    meter = Oscillations(model)
    meter.update()
    meter.update()
    assert meter.rate("model.decoder.layers.1.self_attn.query_key") == 0.0
