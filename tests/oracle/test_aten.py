"""The dialect ``aten`` and ``fake_quant`` against the torch that is installed, on drawn inputs."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.kernels.dialects import aten


@st.composite
def calls(draw, dtypes=(torch.float32, torch.bfloat16, torch.float16), powers_of_two=None):
    """``(x, scale, zero_point, qmin, qmax)``; sixteenths of the scale, so that ties are many."""
    channels, length, bits = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(2, 8))
    half = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = torch.rand(channels, generator=generator) + 0.01
    if draw(st.booleans()) if powers_of_two is None else powers_of_two:
        scale = 2.0 ** torch.randint(-6, 7, (channels,), generator=generator)
    steps = torch.randint(-24 * half, 24 * half, (channels, length), generator=generator) / 16
    zero_point = torch.randint(-half, half, (channels,), generator=generator, dtype=torch.int32)
    x = (steps * scale.unsqueeze(-1)).to(draw(st.sampled_from(dtypes)))
    return x, scale, zero_point, -half, half - 1


@given(calls())
@settings(deadline=None)
def test_per_channel_matches_torch_exact(call):
    x, scale, zero_point, qmin, qmax = call
    leaf = x.clone().requires_grad_()
    y = torch.fake_quantize_per_channel_affine(leaf, scale, zero_point, 0, qmin, qmax)
    gy = torch.randn_like(x)
    y.backward(gy)
    assert_same_bits(aten.fake_quantize(*call), y.detach())
    assert_same_bits(aten.fake_quantize_backward(gy, *call), leaf.grad)


@given(calls())
@settings(deadline=None)
def test_per_tensor_matches_torch_exact(call):
    x, scale, zero_point, qmin, qmax = call
    one = (scale[:1], zero_point[:1])
    leaf = x.clone().requires_grad_()
    y = torch.fake_quantize_per_tensor_affine(leaf, *one, qmin, qmax)
    gy = torch.randn_like(x)
    y.backward(gy)
    flat = x.reshape(1, -1)
    assert_same_bits(aten.fake_quantize(flat, *one, qmin, qmax).reshape(x.shape), y.detach())
    gx = aten.fake_quantize_backward(gy.reshape(1, -1), flat, *one, qmin, qmax)
    assert_same_bits(gx.reshape(x.shape), leaf.grad)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fake_quant_exact_when_scales_are_powers_of_two_then_equals_torch(quantize, dtype, bits):
    # Elsewhere they differ: torch multiplies by a rounded reciprocal, qscale divides.
    largest = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(bits)
    scale = 2.0 ** torch.randint(-6, 7, (64,), generator=generator)
    steps = torch.randint(-16 * largest, 16 * largest + 1, (64, 32), generator=generator) / 16
    steps[:, 0] = largest  # so that qscale finds this scale
    x = (steps * scale.unsqueeze(-1)).to(dtype)
    zero = torch.zeros(64, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero, 0, -largest, largest)
    y = quantize(x.reshape(2, -1), f"int{bits}:g32").reshape(x.shape)
    assert_same_bits(y + 0.0, theirs + 0.0)  # torch gives no -0


@pytest.mark.parametrize("per_tensor", [False, True])
@given(calls(dtypes=(torch.float32,), powers_of_two=True), st.sampled_from([1.0, 0.125]))
@settings(deadline=None)
def test_learnable_gradients_match_torch(per_tensor, call, grad_factor):
    # Powers of two: elsewhere torch's own result depends on the CPU, by whether products and sums are fused.
    x, scale, zero_point, qmin, qmax = call
    if per_tensor:
        x, scale, zero_point = x.reshape(1, -1), scale[:1], zero_point[:1]
    leaves = [t.clone().float().requires_grad_() for t in (x, scale, zero_point)]
    if per_tensor:
        y = torch._fake_quantize_learnable_per_tensor_affine(*leaves, qmin, qmax, grad_factor)
    else:
        y = torch._fake_quantize_learnable_per_channel_affine(*leaves, 0, qmin, qmax, grad_factor)
    gy = torch.randn_like(x)
    y.backward(gy)
    got = aten.learnable_backward(
        gy, x, scale, zero_point, qmin, qmax, grad_factor=grad_factor, per_tensor=per_tensor
    )
    assert_same_bits(got[0], leaves[0].grad)
    for mine, theirs in zip(got[1:], (leaves[1].grad, leaves[2].grad), strict=True):  # sums: any order
        torch.testing.assert_close(mine, theirs.reshape(mine.shape), rtol=1e-4, atol=1e-3)
