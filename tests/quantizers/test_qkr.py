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
    got = QueryKey(query, key, 4, Absmax(QuantSpec.parse("int4:g16")), kv_heads)(x)
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
    plain = QueryKey(query, key, 4, nn.Identity())(x)
    q, k = (p(x).unflatten(-1, (4, 8)).transpose(1, 2) for p in (query, key))
    torch.testing.assert_close(plain, q @ k.mT / math.sqrt(8), rtol=1e-4, atol=1e-5)


def test_rotary_positions_and_biases_are_refused():
    with pytest.raises(ConfigError, match="LlamaForCausalLM has rotary positions"):
        refuse_rotary(build(shape_of("tiny-20k"), context=8, seed=0))
    refuse_rotary(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="have no bias"):
        QueryKey(nn.Linear(8, 8), nn.Linear(8, 8), 2, nn.Identity())
    with pytest.raises(ConfigError, match="do not go with"):
        QueryKey(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), 3, nn.Identity())
