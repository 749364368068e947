"""Rotations across heads, against scipy's matrices."""

import math

import pytest
import torch
from scipy.linalg import hadamard as sylvester

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.quantizers import Absmax, QuantLinear, Rotated, signs_of


@pytest.mark.parametrize(("heads", "head", "block"), [(4, 8, 4), (4, 6, 2), (8, 2, 8), (12, 4, 4)])
@pytest.mark.parametrize("signs", [False, True])
def test_a_rotation_across_heads_is_a_kronecker_product_with_the_identity(heads, head, block, signs):
    width = heads * head
    D = signs_of("s", width) if signs else None
    rotated = Rotated(None, block, D, head)
    H = torch.from_numpy(sylvester(block) / math.sqrt(block))
    R = torch.kron(torch.kron(torch.eye(heads // block).double(), H), torch.eye(head).double())
    x = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0))
    # signs are those of the axis with element i of every head side by side
    beside = x.new_ones(width) if D is None else D.view(head, heads).t().reshape(-1)
    wanted = (x * beside).double() @ R.t()
    torch.testing.assert_close(rotated(x).double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rotated.from_basis(rotated.basis(x)), x, rtol=1e-5, atol=1e-6)


def test_a_layer_rotated_across_heads_computes_the_plain_product_and_its_gradients():
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 5)
    x = torch.randn(7, 32)
    signs = signs_of("s", 32)
    layer = QuantLinear.from_linear(linear, Rotated(None, 4, signs, 8), Rotated(None, 4, signs, 8))
    grads = []
    for module in (linear, layer):
        given = x.clone().requires_grad_()
        y = module(given)
        grads.append((y, *torch.autograd.grad(y.square().sum(), (given, linear.weight))))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_quantizer_comes_after_it_and_another_may_take_its_place():
    spec = QuantSpec.parse("int4:g8")
    x = torch.randn(3, 32)
    rotated = Rotated(None, 4, None, 8)
    before = rotated.around(Absmax(spec))
    assert torch.equal(before(x), fake_quant(rotated(x), spec))
    assert before.head == 8 and before.block == 4 and "head=8" in repr(before)
