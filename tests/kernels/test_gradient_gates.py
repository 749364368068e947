"""Where a gradient passes, and the slopes of scales and zero points, against other arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from bits import assert_same_bits
from kernels.gradients import differentiated, seeded, some_scales, upstream
from torch import Tensor

from qscale.formats import QuantSpec, values
from qscale.kernels import fake_quant, quantize


def between_borders(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    """Quotients of codes from low to high, a twentieth or more of a step away from codes and from borders."""
    code = torch.randint(low, high + 1, shape, generator=seeded(seed))
    beyond = 0.05 + 0.4 * torch.rand(shape, generator=seeded(seed + 1))
    sign = torch.randint(0, 2, shape, generator=seeded(seed + 2)) * 2 - 1
    return code + sign * beyond


def test_clipped_when_torch_has_the_same_groups_then_gradients_and_values_are_those_of_torch(implementation):
    scale = some_scales(8, 3)
    x = between_borders((8, 96), -10, 10, 1) * scale.repeat_interleave(32, 1)
    leaf = x.clone().requires_grad_()
    zero = torch.zeros(24, dtype=torch.int32)
    y = torch.fake_quantize_per_channel_affine(leaf.reshape(-1, 32), scale.reshape(-1), zero, 0, -7, 7)
    y.reshape(x.shape).backward(upstream(x))
    got_y, got_gx, _ = differentiated(implementation, x, "int4:g32", [scale], gradient="clipped")
    torch.testing.assert_close(got_y, y.detach().reshape(x.shape))
    assert torch.equal(got_gx, leaf.grad)
    assert 0 < (got_gx == 0).sum() < x.numel()


@pytest.mark.parametrize("spec", ["int4:g32:full", "int8:g32:asym", "int3:g32:asym"])
def test_clipped_when_scales_are_learned_then_gradients_are_those_of_torch(implementation, spec):
    integers = QuantSpec.parse(spec).int_arithmetic()
    scale = some_scales(8, 3)
    width = integers.qmax - integers.qmin
    zero = torch.randint(integers.qmin, integers.qmax + 1, (8, 3), generator=seeded(4)).float()
    zero = zero if "asym" in spec else torch.zeros(8, 3)
    wide = between_borders((8, 96), integers.qmin - width // 3, integers.qmax + width // 3, 2)
    x = (wide - zero.repeat_interleave(32, 1)) * scale.repeat_interleave(32, 1)
    leaves = [t.clone().requires_grad_() for t in (x.reshape(-1, 32), scale.reshape(-1), zero.reshape(-1))]
    y = torch._fake_quantize_learnable_per_channel_affine(*leaves, 0, integers.qmin, integers.qmax, 0.125)
    y.backward(upstream(x).reshape(-1, 32))
    given_ = [scale, zero] if "asym" in spec else [scale]
    got = differentiated(implementation, x, spec, given_, gradient="clipped", gradient_scale=0.125)
    for mine, theirs in zip(got, (y.detach(), *(leaf.grad for leaf in leaves)), strict=False):
        torch.testing.assert_close(mine, theirs.reshape(mine.shape), rtol=1e-4, atol=1e-4 * width)
    assert torch.equal(got[1].reshape(-1, 32), leaves[0].grad)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_lsq_when_computed_one_number_at_a_time_then_gradients_are_those_of_the_paper(implementation, bits):
    """Esser et al. 2020 as in ParetoQ: round, then clamp; one scale to a row; 1 / sqrt(numel * Qp)."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = some_scales(5, 1)
    x = between_borders((5, 70), low - 2, high + 2, 3) * scale
    grad_x, grad_scale = torch.zeros(5, 70, dtype=torch.float64), [0.0] * 5
    for row in range(5):
        for i in range(70):
            v, g = x[row, i].item() / scale[row].item(), upstream(x)[row, i].item()
            inside = low <= v <= high
            grad_x[row, i] = g if inside else 0.0
            slope = round(v) - v if inside else low if v < low else high
            grad_scale[row] += g * slope / math.sqrt(x.numel() * high)
    options = {"gradient": "lsq", "gradient_scale": "lsq"}
    _, got_x, got_scale = differentiated(implementation, x, f"int{bits}:channel:full", [scale], **options)
    assert torch.equal(got_x, grad_x.float())
    torch.testing.assert_close(
        got_scale[:, 0].double(), torch.tensor(grad_scale).double(), rtol=1e-4, atol=1e-5
    )


#: Elements, and the zero point that is given.
ELEMENTS = {
    "int4:g16": None,
    "int4:g16:full": None,
    "int3:g16@chen2025": None,
    "int4:g16:away": None,
    "int4:g16:asym": 5.3,
    "int4:g16:asym:floatzero": 5.3,
    "int8:g16:asym:floatzero": 100.7,
    "fp8_e4m3:g16": None,
    "fp4_e2m1:g16": None,
    "fp4_e1m2:g16": None,
    "nf4:g16": None,
    "dint4:g16": None,
}


class Elements:
    """x, scale and zero point of a spec in float64, one beside each element; some of x is out of range."""

    def __init__(self, implementation, text: str, **options) -> None:
        spec, zero_point = QuantSpec.parse(text), ELEMENTS[text]
        integers = spec.int_arithmetic()
        last = (0.0, 0.0) if spec.row.codebook else values(spec.format)[-2:]
        self.ends = (
            (integers.qmin, integers.qmax)
            if integers
            else (-values(spec.format)[-1], values(spec.format)[-1])
        )
        scale = some_scales(3, 2)
        zero = torch.full((3, 2), zero_point or 0.0)
        x = torch.randn(3, 32, generator=seeded(6)) * self.ends[1] * scale.repeat_interleave(16, 1)
        given_ = [scale, zero] if zero_point else [scale]
        y, *self.gradients = differentiated(implementation, x, text, given_, **options)
        zero = zero if "floatzero" in text else zero.round()
        self.inputs = [t.double() for t in (x, scale, zero)]
        self.place = self.beside(*self.inputs)[0]
        self.error = (y.double() - self.inputs[0]).abs() / scale.double().repeat_interleave(16, 1)
        self.code = (y / scale.repeat_interleave(16, 1)).double() + zero.double().repeat_interleave(16, 1)
        rounded, over = (self.place.round(), 0.0) if integers else (self.place, (last[1] - last[0]) / 2)
        self.inside = (rounded >= self.ends[0] - over) & (rounded <= self.ends[1] + over)

    def beside(self, x: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale, zero = (t.repeat_interleave(16, 1) for t in (scale, zero))
        return x / scale + zero, scale, zero

    def surrogate(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """y, what rounding adds being a constant; the code beyond the range is one too."""
        place, scale, zero = self.beside(x, scale, zero)
        code = torch.where(self.inside, place + (self.code - self.place), self.code)
        return ((code - zero) * scale * upstream(x)).sum()


@pytest.mark.parametrize("spec", ELEMENTS)
def test_clipped_when_what_rounding_adds_is_a_constant_then_gradients_are_finite_differences(
    implementation, spec
):
    elements_ = Elements(implementation, spec, gradient="clipped")
    assert 0 < elements_.inside.sum() < elements_.inside.numel()
    for which, got in enumerate(elements_.gradients):
        wanted = torch.empty(got.numel(), dtype=torch.float64)
        for i in range(got.numel()):
            y = []
            for step in (2.0**-10, -(2.0**-10)):
                moved = [t.clone() for t in elements_.inputs]
                moved[which].view(-1)[i] += step
                y.append(elements_.surrogate(*moved))
            wanted[i] = (y[0] - y[1]) * 2**9
        largest = wanted.abs().max().item()
        torch.testing.assert_close(got.double().reshape(-1), wanted, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("spec", ELEMENTS)
def test_lsq_when_a_code_is_out_of_range_before_it_is_rounded_then_the_gradient_stops(implementation, spec):
    elements_ = Elements(implementation, spec, gradient="lsq")
    inside = (elements_.place >= elements_.ends[0]) & (elements_.place <= elements_.ends[1])
    assert torch.equal(elements_.gradients[0], torch.where(inside, upstream(inside.float()), 0.0))
    zero = elements_.beside(*elements_.inputs)[2]
    terms = upstream(inside.float()) * torch.where(
        inside, elements_.code - elements_.place, elements_.code - zero
    )
    wanted = terms.reshape(3, 2, 16).sum(2).float()
    torch.testing.assert_close(elements_.gradients[1], wanted, rtol=1e-4, atol=1e-5 * elements_.ends[1])
    assert spec != "int4:g16" or not torch.equal(inside, elements_.inside)


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("spec", "half_step"),
    [("int4:g16", 0.5), ("int4:g16:asym:floatzero", 0.5), ("fp8_e4m3:g16", 16.0), ("fp4_e2m1:g16", 1.0)],
)
def test_trust_when_an_error_is_larger_than_so_many_half_steps_then_the_gradient_stops(
    implementation, spec, half_step, trust
):
    """Panferov et al. 2025: M = 1 where |xq - x| <= T, half a step of the scale for T."""
    elements_ = Elements(implementation, spec, gradient="trust", trust=trust)
    passes = elements_.error <= trust * half_step
    assert torch.equal(elements_.gradients[0], torch.where(passes, upstream(passes.float()), 0.0))
    assert passes.sum() == 0 if trust == 0 else 0 < passes.sum() < passes.numel()


@pytest.mark.parametrize("gradient", ["straight_through", "clipped", "trust"])
def test_scale_gradient_when_the_gate_of_x_differs_then_it_is_that_of_clipped(implementation, gradient):
    clipped = Elements(implementation, "int4:g16:asym", gradient="clipped")
    other = Elements(implementation, "int4:g16:asym", gradient=gradient)
    for mine, theirs in zip(other.gradients[1:], clipped.gradients[1:], strict=True):
        assert_same_bits(mine, theirs)


# Own scales


@pytest.mark.parametrize(
    "spec", ["int4:g32", "int8:g32:asym", "int4:b8:asym:floatzero", "fp8_e4m3:g32", "fp4_e2m1:g32", "nf4:g32"]
)
def test_own_scales_when_the_gate_is_clipped_then_the_largest_of_a_group_is_in_range(implementation, spec):
    """The scale is rounded, so the largest may be past the end before it is rounded itself."""
    x = torch.randn(64, 96, generator=seeded(8)).requires_grad_()
    with implementation():
        fake_quant(x, spec, gradient="clipped").sum().backward()
    assert_same_bits(x.grad, torch.ones(64, 96))


def test_own_scales_when_the_range_clips_then_the_gradient_stops_there(implementation):
    x = torch.tensor([[8.0, -8.0, 7.4, 7.6, 0.0, -7.6]], requires_grad=True)
    with implementation():
        fake_quant(x, "int4:channel@chen2025", gradient="clipped").sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "spec", ["int4:g16", "mxfp4", "nvfp4", "int3:b7:asym", "nf4:g16", "int4:tensor:scale_fp16"]
)
@pytest.mark.parametrize("gradient", ["clipped", "lsq", "trust"])
def test_own_scales_when_the_same_are_given_then_the_gradient_of_x_is_the_same_exact(
    implementation, spec, gradient
):
    x = torch.randn(5, 40, generator=seeded(9)).requires_grad_()
    with implementation():
        q = quantize(x.detach(), spec)
        scale = q.scale.float() * (1.0 if q.tensor_scale is None else q.tensor_scale)
        y = fake_quant(x, spec, gradient=gradient, trust=0.6)
        (own,) = torch.autograd.grad(y, x, upstream(x))
        given_ = spec + ":onelevel" if spec == "nvfp4" else spec
        z = fake_quant(x, given_, scale=scale, zero_point=q.zero_point, gradient=gradient, trust=0.6)
        (same,) = torch.autograd.grad(z, x, upstream(x))
    assert_same_bits(z, y)
    assert_same_bits(same, own)


def test_stochastic_when_backward_runs_then_it_draws_what_forward_drew(implementation):
    x = torch.full((1, 4000), 7.5)
    got = differentiated(
        implementation, x, "int4:channel:stochastic", [torch.ones(1, 1)], gradient="clipped", seed=5
    )
    with implementation():
        held = fake_quant(x, "int8:channel:stochastic", scale=torch.ones(1, 1), seed=5) > 7
    assert torch.equal(got[1] == 0, held)
    assert 1800 < held.sum() < 2200
