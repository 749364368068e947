"""What is kept between forward and backward."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

from qscale.kernels import fake_quant
from qscale.kernels.reference import GATES


def saved_by(x: Tensor, spec: str, **options) -> list[Tensor]:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fake_quant(x, spec, **options)
    return saved


@pytest.mark.parametrize(
    "spec",
    ["int2:g32", "int4:g32@chen2025", "int8:tensor", "int4:b16:asym", "fp8_e4m3:g32", "mxfp4", "nvfp4"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_saved_when_the_gradient_is_straight_through_then_nothing_is(spec, seed):
    spec = f"{spec}:stochastic" if seed and "@" not in spec else spec
    assert saved_by(torch.randn(3, 100, requires_grad=True), spec, seed=seed * ("stoch" in spec)) == []


@pytest.mark.parametrize("gradient", ["clipped", "lsq", "trust"])
@pytest.mark.parametrize("spec", ["int4:g32", "int8:tensor", "fp8_e4m3:b16", "nvfp4"])
def test_saved_when_the_gradient_needs_x_then_x_itself_is(spec, gradient):
    x = torch.randn(3, 128, requires_grad=True)
    (saved,) = saved_by(x, spec, gradient=gradient)
    assert saved.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("gradient", GATES)
def test_saved_when_scales_are_given_then_x_itself_and_one_number_a_group_are(gradient):
    x = torch.randn(3, 128, requires_grad=True)
    scale, zero = torch.tensor(0.1, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    saved = saved_by(x, "int4:g32:asym", scale=scale, zero_point=zero, gradient=gradient)
    assert [t.numel() for t in saved] == [x.numel(), 12, 12]
    assert saved[0].data_ptr() == x.data_ptr()


def test_backward_when_it_is_differentiated_again_then_it_refuses_but_straight_through():
    x = torch.randn(2, 8, requires_grad=True)
    for options in ({"gradient": "clipped"}, {"scale": torch.tensor(0.5)}):
        (grad,) = torch.autograd.grad(
            fake_quant(x, "int4:g4", **options).square().sum(), x, create_graph=True
        )
        with pytest.raises(RuntimeError, match="differentiate twice"):
            grad.sum().backward()
    (grad,) = torch.autograd.grad(fake_quant(x, "int4:g4").square().sum(), x, create_graph=True)
    grad.sum().backward()
    assert_same_bits(x.grad, torch.full((2, 8), 2.0))
