"""Gradients of given scales and zero points: their shapes, dtypes and factor, and which are computed."""

from __future__ import annotations

import math

import pytest
import torch
from bits import assert_same_bits
from kernels.gradients import DTYPES, differentiated, seeded, some_scales, upstream

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, use_backend
from qscale.kernels.fake_quantize import scale_shape


def test_scale_when_it_is_expanded_then_it_gets_the_sum_of_the_gradients(implementation):
    """LAC: one factor to a group, for all tokens."""
    x = torch.randn(6, 64, generator=seeded(10)).requires_grad_()
    gamma = torch.tensor([0.5, 0.9], requires_grad=True)
    largest = x.detach().abs().reshape(6, 2, 32).amax(2)
    with implementation():
        fake_quant(x, "int4:g32@chen2025", scale=gamma * largest / 8, gradient="clipped").backward(
            upstream(x)
        )
    each = differentiated(
        implementation, x, "int4:g32@chen2025", [gamma.detach() * largest / 8], gradient="clipped"
    )
    torch.testing.assert_close(gamma.grad, (each[2] * largest / 8).sum(0))


SHAPES = {
    "": ((), "int4:tensor", 1),
    "one": ((2, 3, 40), "int4:g16", ()),
    "groups": ((2, 3, 40), "int4:g16", (3,)),
    "rows": ((2, 3, 40), "int4:g16", (2, 3, 1)),
    "all": ((2, 3, 40), "int4:g16", (2, 3, 3)),
    "squares": ((2, 20, 40), "int4:b16", (2, 2, 3)),
    "squares of a row": ((40,), "int4:b16", (3,)),
    "tensor": ((2, 3, 40), "int4:tensor", (1,)),
    "no rows": ((0, 40), "int4:g16", (0, 3)),
    "no groups": ((3, 0), "int4:g16", (3, 0)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_scale_when_its_shape_expands_to_the_groups_then_it_gets_a_gradient_of_its_shape(
    implementation, name
):
    shape, spec, of_scale = SHAPES[name]
    x, scale = torch.randn(shape, generator=seeded(11)), torch.full(of_scale if name else (), 0.3)
    y, grad_x, grad_scale = differentiated(implementation, x, spec, [scale], gradient="clipped")
    assert (y.shape, grad_x.shape, grad_scale.shape) == (x.shape, x.shape, scale.shape)
    group = QuantSpec.parse(spec).group_size or -1
    flat = x.reshape(-1) if spec.endswith("tensor") else x
    full = torch.full(scale_shape(flat.shape, group, group if ":b" in spec else 1), 0.3)
    every = differentiated(implementation, x, spec, [full], gradient="clipped")
    assert_same_bits(y, every[0])
    torch.testing.assert_close(
        grad_scale, every[2].sum_to_size(scale.shape) if scale.dim() else every[2].sum()
    )


@pytest.mark.parametrize("scale_dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_when_dtypes_differ_then_each_is_of_its_own(implementation, dtype, scale_dtype):
    x = torch.randn(4, 40, generator=seeded(12)).to(dtype)
    scale = torch.full((4, 3), 0.25, dtype=scale_dtype)
    zero = torch.full((4, 3), 7.0, dtype=scale_dtype)
    y, *grads = differentiated(implementation, x, "int4:g16:asym", [scale, zero], gradient="clipped")
    assert [t.dtype for t in (y, *grads)] == [dtype, dtype, scale_dtype, scale_dtype]
    _, _, of_scale, _ = differentiated(implementation, x, "int4:g16:asym", [scale.float(), zero.float()])
    assert_same_bits(grads[1], of_scale.to(scale_dtype))


def test_scale_when_it_is_bfloat16_and_expanded_then_its_gradient_is_added_up_in_float32(implementation):
    x = torch.full((200, 1), 9.0)
    scale = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.full((200, 1), 1.0)
    gradient[::2] = -1.001  # -1 in bfloat16
    with implementation():
        fake_quant(x, "int4:channel", scale=scale).backward(gradient)
    assert scale.grad.item() == pytest.approx(-0.7, rel=0.01)


def test_gradients_when_x_is_not_contiguous_then_they_are_the_same(implementation):
    x, scale = torch.randn(40, 6, generator=seeded(13)), some_scales(6, 3)
    plain = differentiated(implementation, x.t().contiguous(), "int4:g16", [scale], gradient="lsq")
    leaf, own = x.clone().requires_grad_(), scale.t().contiguous().t().requires_grad_()
    with implementation():
        y = fake_quant(leaf.t(), "int4:g16", scale=own, gradient="lsq")
        y.backward(upstream(x.t()))
    assert y.is_contiguous()
    for mine, theirs in zip((y.detach(), leaf.grad.t(), own.grad), plain, strict=True):
        assert_same_bits(mine, theirs)


def test_gradients_when_only_some_are_wanted_then_the_others_stay_none(implementation):
    x, scale = torch.randn(3, 16), some_scales(3, 1)
    for leaf in (x, scale):
        leaf.requires_grad_()
        with implementation():
            fake_quant(x, "int4:channel", scale=scale, gradient="clipped").sum().backward()
        assert [t.grad is not None for t in (x, scale)] == [t.requires_grad for t in (x, scale)]
        leaf.requires_grad_(False)
        leaf.grad = None


def auto():
    return use_backend("auto")


@pytest.mark.parametrize(
    ("spec", "largest"),
    [("int4:channel", 7), ("int4:channel:asym", 15), ("int3:channel@chen2025", 3), ("fp4_e2m1:channel", 6)],
)
def test_gradient_scale_when_it_is_lsq_then_it_is_one_over_the_root_of_numel_and_largest(spec, largest):
    x, given_ = torch.randn(4, 50, generator=seeded(5)), [some_scales(4, 1)]
    given_ += [torch.full((4, 1), 7.3)] if "asym" in spec else []
    plain, scaled = (
        differentiated(auto, x, spec, given_, gradient="clipped", gradient_scale=factor)
        for factor in (1.0, "lsq")
    )
    assert torch.equal(plain[1], scaled[1])
    for one, other in zip(plain[2:], scaled[2:], strict=True):
        torch.testing.assert_close(other, one / math.sqrt(200 * largest))
