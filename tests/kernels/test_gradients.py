"""Given scales, codes and gradients: every backend to the bit, and all of them against other arithmetic."""

from __future__ import annotations

import math
import re

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qscale.errors import BackendError, SpecError
from qscale.formats import FORMATS, QuantSpec, values
from qscale.formats.calls import CODEBOOKS, ROUNDINGS, SCALE_KINDS
from qscale.kernels import fake_quant, quantize, use_backend, use_isa
from qscale.kernels.fake_quantize import scale_shape
from qscale.kernels.ops import group_count
from qscale.kernels.reference import GATES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
OPS = torch.ops.qscale
seeds = st.integers(0, 2**32 - 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# To the bit: compiled kernels and the reference


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """NaNs, infinities and subnormals among them."""
    info = torch.iinfo(INTEGERS[dtype])
    drawn = torch.randint(info.min, info.max + 1, shape, generator=generator, dtype=torch.int64)
    return drawn.to(INTEGERS[dtype]).view(dtype)


def drawn_floats(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, spread: int = 40) -> Tensor:
    """Any bits, the same without NaN and infinity, or ordinary numbers of a few or many magnitudes."""
    generator = seeded(draw(seeds))
    kind = draw(st.sampled_from(["any", "finite", "ordinary", "ordinary", "wide"]))
    if kind in ("any", "finite"):
        x = any_bits(shape, dtype, generator)
        return x if kind == "any" else x.masked_fill(~x.isfinite(), 1.0)
    x = torch.randn(shape, generator=generator)
    powers = torch.randint(-spread, spread + 1, shape, generator=generator)
    return (x if kind == "ordinary" else torch.ldexp(x, powers)).to(dtype)


@st.composite
def elements(draw: st.DrawFn) -> tuple[str, tuple[float, ...], list[int]]:
    """A family, the arguments of its element, and the kinds of scale that it takes."""
    family = draw(st.sampled_from(["fake_quant_int", "fake_quant_float", "fake_quant_codebook"]))
    kinds = sorted(SCALE_KINDS.values())
    if family == "fake_quant_codebook":
        return family, (draw(st.sampled_from(sorted(CODEBOOKS.values()))),), [0, *kinds[3:]]
    if family == "fake_quant_float":
        names = ["fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp4_e2m1", "fp4_e3m0", "mxint8", "fp_e0m3", "fp_e0m1"]
        wide = ["fp_e1m0", "fp_e1m10", "fp_e5m10", "fp_e8m0", "fp_e8m7"]
        grid = FORMATS[draw(st.sampled_from(names + wide))].grid
        return family, (grid.mantissa_bits, grid.min_exponent, grid.max), kinds
    half = 2 ** draw(st.integers(1, 7))
    ends = [(1 - half, half - 1), (-half, half - 1), (0, 2 * half - 1)]
    low, high = draw(
        st.sampled_from(ends[half == 2 :]) | st.tuples(st.integers(-300, 0), st.integers(1, 300))
    )
    denominator = draw(st.sampled_from([half, half - 0.5, max(1, half - 1), 0.5]))
    return family, (low, max(1, high), float(denominator), draw(st.integers(0, 2))), [0, *kinds[3:]]


@st.composite
def op_calls(draw: st.DrawFn, long: bool = False) -> tuple[str, tuple, Tensor, Tensor, Tensor | None, Tensor]:
    """A family and its numbers, then x, scale, zero point and gradient."""
    family, element, kinds = draw(elements())
    kind = draw(st.sampled_from(kinds))
    level = int(kind == SCALE_KINDS["e4m3"] and draw(st.booleans()))
    group = draw(st.just(-1) | st.integers(900, 6000) if long else st.just(-1) | st.integers(1, 200))
    rows = draw(st.sampled_from([1, 1, 2, 5, 32]))
    rounding = 0 if "codebook" in family else draw(st.sampled_from(sorted(ROUNDINGS.values())))
    last = draw(st.integers(1000, 9000) if long else st.integers(0, 150))
    shape = (*draw(st.lists(st.integers(0, 4), max_size=1 if long else 2)), last)
    dtype = draw(st.sampled_from(DTYPES))
    x, grad = drawn_floats(draw, shape, dtype), drawn_floats(draw, shape, dtype)
    numbers = (*element, kind, level, group, rows, rounding, draw(st.integers(-(2**63), 2**63 - 1)))
    count = group_count(torch.Size(shape), group, rows)
    if draw(st.booleans()):
        own, zero, whole = getattr(OPS, f"{family}_scales_reference")(x, *numbers)
        factor = torch.exp2(torch.rand(count, generator=seeded(draw(seeds))) * 3 - 2)
        scale = own * whole * factor
    else:
        scale, zero = drawn_floats(draw, (count,), torch.float32), drawn_floats(draw, (count,), torch.float32)
    if draw(st.booleans()):
        zero = torch.randint(-20, 300, (count,), generator=seeded(draw(seeds))) / draw(
            st.sampled_from([1.0, 4.0])
        )
    return family, numbers, x, scale, None if draw(st.booleans()) else zero, grad


def assert_ops_agree(isa: str, name: str, *arguments: object) -> None:
    with use_isa(isa):
        got = getattr(OPS, name)(*arguments)
    wanted = getattr(OPS, f"{name}_reference")(*arguments)
    got, wanted = (t if isinstance(t, tuple) else (t,) for t in (got, wanted))
    for mine, theirs in zip(got, wanted, strict=True):
        assert_same_bits(mine, theirs)


@settings(max_examples=80, deadline=None)
@given(case=op_calls())
def test_own_scales_when_drawn_at_random_then_the_reference_has_their_bits_exact(isa, case):
    family, numbers, x, *_ = case
    assert_ops_agree(isa, f"{family}_scales", x, *numbers)
    assert_ops_agree(isa, family, x, *numbers)


@settings(max_examples=120, deadline=None)
@given(case=op_calls())
def test_given_scales_when_drawn_at_random_then_the_reference_has_the_bits_exact(isa, case):
    family, numbers, x, scale, zero, _ = case
    assert_ops_agree(isa, f"{family}_given", x, scale, zero, *numbers)
    assert_ops_agree(isa, f"{family}_codes", x, scale, zero, *numbers)


gates = st.sampled_from(sorted(GATES.values()))
trusts = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.inf, math.nan])


@settings(max_examples=120, deadline=None)
@given(case=op_calls(), gate=gates, trust=trusts)
def test_gradients_when_drawn_at_random_then_the_reference_has_their_bits_exact(isa, case, gate, trust):
    family, numbers, x, scale, zero, grad = case
    assert_ops_agree(isa, f"{family}_gradient", grad, x, scale, zero, gate, trust, *numbers)


@settings(max_examples=25, deadline=None)
@given(case=op_calls(long=True), gate=gates)
def test_gradients_when_groups_are_long_then_the_reference_has_their_bits_exact(isa, case, gate):
    family, numbers, x, scale, zero, grad = case
    assert_ops_agree(isa, f"{family}_given", x, scale, zero, *numbers)
    assert_ops_agree(isa, f"{family}_codes", x, scale, zero, *numbers)
    assert_ops_agree(isa, f"{family}_gradient", grad, x, scale, zero, gate, 0.5, *numbers)


def added_in_order(rows: list[Tensor]) -> float:
    """Row by row, in a row 1024 at a time, of those the second half to the first until one is left."""
    total = 0.0
    for row in rows:
        for chunk in row.double().split(1024):
            terms = [*chunk.tolist(), *[0.0] * ((1 << (len(chunk) - 1).bit_length()) - len(chunk))]
            while len(terms) > 1:
                half = len(terms) // 2
                terms = [a + b for a, b in zip(terms[:half], terms[half:], strict=True)]
            total += terms[0]
    return total


def cancelling(rows: int, length: int, seed: int) -> Tensor:
    """Numbers of many magnitudes beside their negatives, in any order: what is left is what rounding left."""
    some = torch.randn(rows, length // 2, generator=seeded(seed))
    some = torch.ldexp(some, torch.randint(0, 100, some.shape, generator=seeded(seed + 1)))
    both = torch.cat([some, -some, torch.ones(rows, length % 2)], 1)
    return both[:, torch.randperm(length, generator=seeded(seed + 2))]


@pytest.mark.parametrize(
    ("shape", "group", "width", "edge"),
    [((3, 5000), "channel", 5000, 1), ((5, 3000), "b2048", 2048, 5), ((1, 40), "g33", 33, 1)],
)
def test_gradients_when_the_order_of_a_sum_matters_then_it_is_the_defined_one_exact(
    implementation, shape, group, width, edge
):
    x = torch.full(shape, 0.25)
    grad = torch.cat([cancelling(shape[0], n, n) for n in (width, shape[1] - width) if n], 1)
    scale = torch.ones(-(-shape[0] // edge), -(-shape[1] // width), requires_grad=True)
    with implementation():
        fake_quant(x, f"int4:{group}", scale=scale).backward(grad)
    groups = [band for part in (grad * -0.25).split(width, 1) for band in part.split(edge)]
    wanted = torch.tensor([added_in_order([*band]) for band in groups], dtype=torch.float64).float()
    assert_same_bits(scale.grad.t().reshape(-1), wanted)
    other = torch.stack([band.reshape(-1).double().cumsum(0)[-1] for band in groups]).float()
    assert not torch.equal(other, wanted)


# Against other arithmetic


def between_borders(shape: tuple[int, ...], low: int, high: int, seed: int) -> Tensor:
    """Quotients of codes from low to high, a twentieth or more of a step away from codes and from borders."""
    code = torch.randint(low, high + 1, shape, generator=seeded(seed))
    beyond = 0.05 + 0.4 * torch.rand(shape, generator=seeded(seed + 1))
    sign = torch.randint(0, 2, shape, generator=seeded(seed + 2)) * 2 - 1
    return code + sign * beyond


def differentiated(implementation, x: Tensor, spec: str, given: list[Tensor], **options) -> list[Tensor]:
    """y, and the gradients of x and of what is given under a gradient of randn."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *given)]
    named = dict(zip(("scale", "zero_point"), leaves[1:], strict=False))
    with implementation():
        y = fake_quant(leaves[0], spec, **named, **options)
        y.backward(upstream(x))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def upstream(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=seeded(99)).to(x.dtype)


def some_scales(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(7)) + 0.1


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


# Shapes and types


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


# What is saved


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


# Special values under a given scale


def test_given_scale_when_x_has_nan_and_infinity_then_they_stay_alone(implementation):
    x = torch.tensor([[math.nan, math.inf, -math.inf, 1.0, -0.2]])
    y, grad_x, _ = differentiated(implementation, x, "int4:channel", [torch.tensor(1.0)], gradient="clipped")
    assert_same_bits(y, torch.tensor([[math.nan, 7.0, -7.0, 1.0, 0.0]]))
    assert (grad_x[0, :3] == 0).all()
    assert_same_bits(grad_x[0, 3:], upstream(x)[0, 3:])


@pytest.mark.parametrize("scale", [0.0, -0.0])
def test_given_scale_when_it_is_zero_then_every_element_is(implementation, scale):
    x = torch.tensor([[1.0, -2.0, 0.0, 3e38]])
    for spec in ("int4:channel", "fp8_e4m3:channel", "nf4:channel"):
        y = differentiated(implementation, x, spec, [torch.tensor(scale)], gradient="clipped")[0]
        assert (y == 0).all()


# Errors


def refused(message: str, spec: str, error: type[Exception] = SpecError, **options) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fake_quant(torch.ones(2, 40), spec, **options)


ONE = torch.ones(())


@pytest.mark.parametrize(
    ("message", "spec", "options"),
    [
        ("points of shape [3, 2] beside x of shape [2, 40]; wanted [2, 3], or what can be expanded to it",
         "int4:g16", {"scale": torch.ones(3, 2)}),
        ("of shape [2, 3] beside x of shape [80]; wanted [1]", "int4:tensor", {"scale": torch.ones(2, 3)}),
        ("of shape [4] beside x of shape [2, 40]; wanted [1, 3]", "int4:b16", {"scale": torch.ones(4)}),
        ("of shape [5] beside x", "int4:g16:asym", {"scale": ONE, "zero_point": torch.ones(5)}),
        ("int4:g16 rounds without chance: a seed goes with :stochastic", "int4:g16", {"seed": 1}),
        ("unknown gradient 'ste'; known: straight_through, clipped, lsq, trust", "int4:g16",
         {"gradient": "ste"}),
        ("nvfp4: a given scale is the whole of it; give the spec with :onelevel", "nvfp4", {"scale": ONE}),
        ("int4:g16:scale_e4m3: a given scale is the whole of it", "int4:g16:scale_e4m3", {"scale": ONE}),
        ("int4:g16:asym: a zero point is given and no scale", "int4:g16:asym", {"zero_point": ONE}),
        ("int4:g16: a zero point is given with the scale where the spec is :asym", "int4:g16",
         {"scale": ONE, "zero_point": ONE}),
        ("int4:g16:asym: a zero point is given with the scale", "int4:g16:asym", {"scale": ONE}),
        ("int4:g8@torchao: dialect 'torchao' has its own scales, rounding and gradient", "int4:g8@torchao",
         {"gradient": "clipped"}),
        ("int4:g8@torchao: dialect 'torchao' has its own scales", "int4:g8@torchao", {"scale": ONE}),
        ("fake_quant has no kernel for int4:g8@quest", "int4:g8@quest", {"scale": ONE}),
    ],
)  # fmt: skip
def test_fake_quant_when_options_do_not_go_together_then_the_error_says_which(message, spec, options):
    refused(message, spec, **options)


def test_fake_quant_when_the_dtype_has_no_kernel_then_options_change_nothing():
    with pytest.raises(BackendError, match="needs float32, bfloat16 or float16"):
        fake_quant(torch.ones(4, dtype=torch.float64), "int4:g4", scale=ONE)
