"""fake_quant against its definition computed in float64, for every implementation of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from definitions import rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.formats import QuantSpec

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECS = ["int2:g7", "int3:g32", "int4:g32", "int4:g128@chen2025", "int8:channel", "int8:tensor@chen2025"]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def definition(x: torch.Tensor, text: str) -> torch.Tensor:
    """The docstring in float64, a loop over the groups of a row.

    A quotient of two float32 and a product of two float32, taken in float64 and rounded to float32, have the
    bits of the float32 operation: 53 >= 2 * 24 + 2. The scale may be subnormal; then its quotient is at least
    2**-31 of itself away from a midpoint, far more than float64 loses.
    """
    spec = QuantSpec.parse(text)
    arithmetic = spec.int_arithmetic()
    axis = x.numel() if spec.strategy == "tensor" else (x.shape[-1] if x.dim() else 1)
    group = axis if spec.strategy == "tensor" else spec.group_length(axis)
    with np.errstate(all="ignore"):
        rows = x.reshape(-1, axis).float().numpy().astype(np.float64)
        out = np.empty_like(rows)
        for start in range(0, axis, group):
            values = rows[:, start : start + group]
            largest = np.abs(values).max(axis=1, keepdims=True)
            scale = (largest / arithmetic.denominator).astype(np.float32).astype(np.float64)
            scale[scale == 0] = 1.0
            codes = np.rint((values / scale).astype(np.float32).astype(np.float64))
            product = np.clip(codes, arithmetic.qmin, arithmetic.qmax) * scale
            out[:, start : start + group] = np.where(np.isfinite(largest), product, np.nan)
        return rounded(out.astype(np.float32), x.dtype).reshape(x.shape)


def every_pattern(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("spec", ["int4:g2", "int8:g2", "int4:g2@chen2025", "int2:g1"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_fake_quant_exact_when_given_every_16_bit_value_beside_seven_then_equals_the_definition(
    quantize, dtype, spec
):
    x = torch.stack([every_pattern(dtype), torch.full((2**16,), 7.0, dtype=dtype)], dim=-1)
    assert_same_bits(quantize(x, spec), definition(x, spec))


@pytest.mark.parametrize("spec", ["int4:g32", "int3:g48@chen2025", "int8:channel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_fake_quant_exact_when_given_every_16_bit_value_among_its_like_then_equals_the_definition(
    quantize, dtype, spec
):
    x = every_pattern(dtype).reshape(-1, 128)
    assert_same_bits(quantize(x, spec), definition(x, spec))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[torch.Tensor, str]:
    """Random floats of every size from random bit patterns, or ordinary ones; shapes, groups and specs."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = [*draw(st.lists(st.integers(0, 5), max_size=2)), draw(st.integers(0, 150))]
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([0, 1, 8, 60]))
    span = draw(st.sampled_from(["channel", "token", "tensor"]) | st.integers(1, 200).map(lambda g: f"g{g}"))
    bits = draw(st.integers(2, 8))
    dialect = draw(st.sampled_from(["", "@chen2025"]))
    generator = torch.Generator().manual_seed(seed)
    if draw(st.booleans()):
        powers = torch.randint(-spread, spread + 1, shape, generator=generator)
        x = torch.ldexp(torch.randn(shape, generator=generator), powers).to(dtype)
    else:
        integer = torch.int32 if dtype is torch.float32 else torch.int16
        info = torch.iinfo(integer)
        x = torch.randint(info.min, info.max + 1, shape, generator=generator, dtype=torch.int64)
        x = x.to(integer).view(dtype)
        x = x.masked_fill(~x.isfinite(), 0.0) if draw(st.booleans()) else x
    return x, f"int{bits}:{span}{dialect}"


@settings(max_examples=150, deadline=None)
@given(inputs())
def test_fake_quant_exact_when_drawn_at_random_then_equals_the_definition(quantize, case):
    x, spec = case
    assert_same_bits(quantize(x, spec), definition(x, spec) if x.numel() else x)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from(["", "@chen2025"]))
def test_fake_quant_exact_when_elements_are_near_ties_then_equals_the_definition(
    quantize, seed, bits, dialect
):
    generator = torch.Generator().manual_seed(seed)
    denominator = QuantSpec.parse(f"int{bits}:g64{dialect}").int_arithmetic().denominator
    largest = torch.rand(40, 1, generator=generator) + 1.0
    halves = torch.randint(-denominator, denominator, (40, 63), generator=generator) + 0.5
    x = torch.cat([halves * (largest / denominator), largest], dim=1)
    x.view(torch.int32)[:, :63] += torch.randint(-2, 3, (40, 63), generator=generator, dtype=torch.int32)
    x = torch.ldexp(x, torch.randint(-140, 120, (40, 1), generator=generator))
    spec = f"int{bits}:g64{dialect}"
    assert_same_bits(quantize(x, spec), definition(x, spec))


TINY = 2.0**-149  # the smallest float32
CASES = {
    "zeros": [0.0, -0.0, 0.0],
    "scale underflows": [TINY, -2 * TINY, 0.0, -0.0],
    "scale is subnormal": [10 * TINY, -9 * TINY, 4 * TINY, TINY],
    "subnormal beside one": [1.0, -TINY, TINY],
    "negative zero": [-0.0, 1.0, -1e-9, 1e-9],
    "nan": [1.0, float("nan"), -2.0],
    "negative nan": [1.0, -float("nan"), 0.0],
    "infinity": [1.0, float("inf"), -2.0, 0.0],
    "minus infinity": [1.0, float("-inf")],
    "nan and infinity": [float("inf"), float("nan")],
    "largest": [3.4028234663852886e38, -3.4028234663852886e38, 1e38],
    "largest of half": [65504.0, -65504.0, 60000.0, 65520.0],
    "ties": [7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5],
}


@dtypes
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", CASES)
def test_fake_quant_exact_when_values_are_special_then_equals_the_definition(quantize, name, spec, dtype):
    x = torch.tensor(CASES[name]).repeat(3, 5).to(dtype)
    assert_same_bits(quantize(x, spec), definition(x, spec))


def test_fake_quant_exact_when_the_scale_underflows_then_zeros_keep_their_sign(quantize):
    x = torch.tensor([TINY, -TINY, 0.0, -0.0])
    assert_same_bits(quantize(x, "int4:g4"), torch.tensor([0.0, -0.0, 0.0, -0.0]))


def test_fake_quant_exact_when_a_group_has_a_nan_then_only_that_group_is_nan(quantize):
    x = torch.tensor([1.0, float("nan"), 3.0, 4.0, float("inf")])
    y = quantize(x, "int4:g2")
    assert y.isnan().tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (1,), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_fake_quant_exact_when_the_shape_is_unusual_then_it_is_kept(quantize, shape, spec):
    x = torch.randn(shape)
    assert_same_bits(quantize(x, spec), definition(x, spec) if x.numel() else x)


LAYOUTS = {
    "transposed": lambda x: x.t(),
    "strided": lambda x: x[:, ::3],
    "expanded": lambda x: x[:1].expand(4, -1),
    "permuted": lambda x: x.reshape(2, 20, 45).permute(1, 2, 0),
    "offset": lambda x: x[:, 1:],
    "channels last": lambda x: x.reshape(2, 3, 10, 30).to(memory_format=torch.channels_last),
}


@dtypes
@pytest.mark.parametrize("name", LAYOUTS)
def test_fake_quant_exact_when_input_is_not_contiguous_then_output_is_and_equals_the_definition(
    quantize, name, dtype
):
    x = LAYOUTS[name](torch.randn(40, 45, generator=torch.Generator().manual_seed(1)).to(dtype))
    before = x.clone()
    y = quantize(x, "int4:g32")
    assert y.is_contiguous()
    assert_same_bits(y, definition(x, "int4:g32"))
    assert_same_bits(x, before)


@dtypes
def test_fake_quant_exact_when_the_tensor_is_large_then_one_and_two_threads_agree(quantize, dtype):
    x = torch.randn(37, 5001).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = quantize(x, "int4:g48")
        torch.set_num_threads(1)
        one = quantize(x, "int4:g48")
    finally:
        torch.set_num_threads(before)
    assert_same_bits(one, two)
    assert_same_bits(one, definition(x, "int4:g48"))
