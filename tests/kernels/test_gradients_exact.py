"""Own scales, given scales, codes and gradients drawn at random: every backend to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.gradients import DTYPES, seeded
from torch import Tensor

from qscale.formats import FORMATS
from qscale.formats.calls import CODEBOOKS, ROUNDINGS, SCALE_KINDS
from qscale.kernels import fake_quant, use_isa
from qscale.kernels.ops import group_count
from qscale.kernels.reference import GATES

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
OPS = torch.ops.qscale
seeds = st.integers(0, 2**32 - 1)


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
    assert_ops_agree(isa, f"{family}_codes", x, scale, zero, False, *numbers)


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
    assert_ops_agree(isa, f"{family}_codes", x, scale, zero, False, *numbers)
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
