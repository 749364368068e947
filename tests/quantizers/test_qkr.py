"""Logits from quantized products of query and key weights."""

import math

import pytest
import torch
from torch import nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.quantizers import Absmax, QueryKey
from qscale.quantizers.qkr import refuse_rotary


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_logits_are_those_of_each_head_with_its_product_rounded(kv_heads):
    torch.manual_seed(0)
    query, key = nn.Linear(24, 32, bias=False), nn.Linear(24, 8 * kv_heads, bias=False)
    x = torch.randn(2, 5, 24)
    got = QueryKey(query, key, 4, Absmax(QuantSpec.parse("int4:g16")), kv_heads).logits(x)
    assert got.shape == (2, 4, 5, 5)
    for head in range(4):
        of_key = head * kv_heads // 4
        w_q, w_k = query.weight[8 * head : 8 * head + 8], key.weight[8 * of_key : 8 * of_key + 8]
        product = fake_quant(w_q.T @ w_k, "int4:g16")
        torch.testing.assert_close(got[:, head], x @ product @ x.mT / math.sqrt(8))
    got.sum().backward()
    assert query.weight.grad.abs().sum() > 0


def test_unquantized_product_gives_the_logits_of_attention():
    torch.manual_seed(0)
    query, key = nn.Linear(24, 32, bias=False), nn.Linear(24, 32, bias=False)
    x = torch.randn(2, 5, 24)
    plain = QueryKey(query, key, 4, nn.Identity()).logits(x)
    q, k = (p(x).unflatten(-1, (4, 8)).transpose(1, 2) for p in (query, key))
    torch.testing.assert_close(plain, q @ k.mT / math.sqrt(8), rtol=1e-4, atol=1e-5)


def test_bias_adds_the_same_to_all_keys_or_is_there():
    torch.manual_seed(0)
    query, key, x = nn.Linear(24, 32), nn.Linear(24, 32), torch.randn(2, 5, 24)
    found = QueryKey(query, key, 4, nn.Identity()).logits(x)
    q, k = (p(x).unflatten(-1, (4, 8)).transpose(1, 2) for p in (query, key))
    logits = q @ k.mT / math.sqrt(8)
    assert not torch.allclose(found, logits, atol=1e-3)
    torch.testing.assert_close(found.softmax(-1), logits.softmax(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["query.weight", "key.weight", "query.bias", "x"])
def test_gradients_are_finite_differences_of_the_surrogate(name):
    """Straight through: what rounding adds is a constant."""
    torch.manual_seed(0)
    query, key, x = nn.Linear(12, 8), nn.Linear(12, 8), torch.randn(3, 12, requires_grad=True)
    spec, upstream = QuantSpec.parse("int4:g4"), torch.randn(2, 3, 3)
    module = QueryKey(query, key, 2, Absmax(spec), input_quantizer=Absmax(spec), key_quantizer=Absmax(spec))
    (module.logits(x) * upstream).sum().backward()
    tensors = {n: p.detach().double() for n, p in module.named_parameters()} | {"x": x.detach().double()}

    def rounding(of):
        return fake_quant(of.contiguous(), spec).double() - of.double()

    with torch.no_grad():
        added = [rounding(module.weight), rounding(x)]

    def surrogate(values):
        inputs, out = values["x"] + added[1], 0.0
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            w_q, w_k = values["query.weight"][rows], values["key.weight"][rows]
            product = w_q.T @ w_k + added[0].view(2, 12, 12)[head]
            logits = inputs @ product @ inputs.T + values["query.bias"][rows] @ w_k @ inputs.T
            out += float((logits / 2 * upstream[head].double()).sum())
        return out

    grad = x.grad if name == "x" else module.get_parameter(name).grad
    for index in range(0, grad.numel(), 5):
        step = torch.zeros_like(tensors[name]).flatten()
        step[index] = 1e-4
        up, down = (
            surrogate(tensors | {name: tensors[name] + sign * step.view_as(tensors[name])})
            for sign in (1, -1)
        )
        assert grad.flatten()[index].item() == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-4)
    assert key.bias.grad is None


def test_rotary_positions_and_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="LlamaForCausalLM has rotary positions"):
        refuse_rotary(build(shape_of("tiny-20k"), context=8, seed=0))
    refuse_rotary(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="do not go with"):
        QueryKey(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), 3, nn.Identity())
