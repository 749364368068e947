"""Floating-point, MX, NVFP4 and codebook formats against the definition in fractions, on every backend."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES, specs, tensors

from qscale.formats import FORMATS, values
from qscale.formats.rounding import round_to_format

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))

ELEMENTS = [
    *("fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1", "fp4_e1m2", "fp4_e3m0"),
    *("fp_e4m3", "fp_e2m5", "fp_e6m1", "fp_e5m0", "fp_e0m4", "fp_e1m0"),
]
AWAY = ["fp8_e4m3", "fp4_e2m1", "fp4_e3m0", "fp_e0m4"]
DRAWN = [
    *ELEMENTS,
    *(
        "mxfp8_e4m3",
        "mxfp6_e2m3",
        "mxfp4",
        "mxint8",
        "nvfp4",
        "nf4",
        "fp4_bnb",
        "dint4",
        "fp_e8m7",
        "fp_e8m0",
    ),
]
RULES = ("floor", "ceil", "rceil", "even")
MX = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8"]
SPECS = [
    *("fp8_e4m3:g32", "fp8_e5m2:channel", "fp6_e2m3:g7", "fp6_e3m2:token", "fp4_e2m1:g16", "fp4_e3m0:g48"),
    *("fp4_e1m2:tensor", "fp_e7m10:g32", "fp_e8m3:g32", "fp_e8m0:g5", "fp_e0m5:g20", "fp8_e4m3:g32:away"),
    *("fp4_e3m0:g32:away", "fp4_e2m1:b3", "fp8_e4m3:g16:stochastic", "fp4_e3m0:channel:stochastic"),
    *(
        "fp8_e4m3:g16:scale_input",
        "fp4_e2m1:g16:scale_fp16",
        "fp_e8m2:g16:scale_bf16",
        "fp4_e2m1:g16:scale_e8m0",
    ),
    *("fp6_e3m2:g16:scale_e4m3", "fp8_e4m3:channel:scale_e4m3:onelevel", "fp_e8m1:g16:scale_e4m3"),
    *(f"{name}:{rule}" for name in MX for rule in RULES),
    *("mxfp4", "mxfp4:away", "mxfp4:stochastic", "mxint8:stochastic", "mxfp4:b32", "mxfp6_e3m2:b32:even"),
    *("nvfp4", "nvfp4:onelevel", "nvfp4:away", "nvfp4:stochastic", "nvfp4:b16", "nvfp4:b16:onelevel"),
    *("nf4:g64", "fp4_bnb:g16", "dint4:g16", "nf4:tensor", "dint4:b5", "nf4:channel:scale_e8m0"),
    *("nf4:g16:scale_e4m3", "dint4:g16:scale_e4m3:onelevel", "fp4_bnb:g16:scale_fp16", "nf4:g16:scale_bf16"),
]
TINY = 2.0**-149  # the smallest float32
CASES = {
    "zeros": [0.0, -0.0, 0.0],
    "tiny": [TINY, -2 * TINY, 0.0, -0.0],
    "subnormal scale": [2.0**-135, -(2.0**-136), 2.0**-137, -(2.0**-140), TINY],
    "subnormal beside one": [1.0, -TINY, TINY, -0.0],
    "a far smaller block": [1e30] + [0.0] * 31 + [1e20, -1e20, -0.0],
    "nan": [1.0, math.nan, -2.0],
    "infinity": [1.0, math.inf, -2.0, 0.0],
    "nan and infinity": [-math.inf, math.nan],
    "huge": [3.4e38, -3.4028235e38, 1e38, 6.5e4],
    "powers of two": [2.0**k * s for k in range(-9, 10) for s in (1, -1)],
    "ties": [6.0, 0.25, 0.75, 1.25, -1.75, 2.5, -3.5, 5.0, -0.25, -5.0],
    "codebook ties": [1.0, -0.5, 0.5, 0.0026041667442768812, -0.0026041667442768812],
}


@lru_cache
def rounded_patterns(name: str, ties: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Every bfloat16 up to the format's largest, few of those that are zeros, and the nearest values."""
    x = torch.arange(2**15).to(torch.int16).view(torch.bfloat16)
    grid = FORMATS[name].grid
    x = x[(x <= grid.max) & ((x >= grid.step / 8) | (torch.arange(2**15) % 97 == 0))]
    found = [float(round_to_format(Fraction(v), name, ties)) for v in x.tolist()]
    wanted = torch.tensor(found, dtype=torch.float64).to(torch.bfloat16)
    negative = -wanted + 0.0 if FORMATS[name].exponent_bits == 0 else -wanted  # fixed point has one zero
    return torch.cat([x, -x]), torch.cat([wanted, negative])


@pytest.mark.parametrize(
    ("name", "ties"), [*((name, "even") for name in ELEMENTS), *((name, "away") for name in AWAY)]
)
def test_element_exact_when_given_every_bfloat16_at_scale_one_then_it_is_the_nearest_value(check, name, ties):
    x, wanted = rounded_patterns(name, ties)
    largest = torch.full_like(x, FORMATS[name].grid.max)
    pairs = torch.stack([x, largest], dim=-1)  # so that the scale is one
    spec = f"{name}:g2" + (":away" if ties == "away" else "")
    check(pairs, spec, torch.stack([wanted, largest], dim=-1))


@pytest.mark.parametrize(
    "spec", ["mxfp8_e4m3", "mxfp4", "mxint8", "nvfp4:onelevel", "nf4:g16", "fp8_e5m2:g8"]
)
def test_format_exact_when_given_bfloat16_of_all_sizes_then_equals_the_definition(check, spec):
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).reshape(-1, 64)
    check(x[::8], spec)  # every eighth run of 64 neighbours


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_format_exact_when_values_are_special_then_equals_the_definition(check, name, dtype):
    for spec in SPECS:
        check(torch.tensor(CASES[name]).repeat(2, 1).to(dtype), spec)


@settings(max_examples=150, deadline=None)
@given(tensors(), specs(dialects=["qscale"], formats=DRAWN, group_sizes=st.integers(1, 90)))
def test_format_exact_when_drawn_at_random_then_equals_the_definition(check, x, spec):
    check(x, str(spec))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MX)
def test_mx_scale_exact_when_the_largest_is_near_a_power_of_two_or_a_carry_then_equals_the_definition(
    check, name, rule
):
    grid = FORMATS[name].grid
    turns = [1.0, grid.max, 1.75, 1.9375, 1.875, 1.992187500, 1.96875, 1.5]
    powers = [2.0**k for k in (-149, -130, -127, -126, -125, -119, -20, 0, 1, 100, 120, 126)]
    largest = torch.tensor([t * p for t in turns for p in powers if t * p < 3.4e38], dtype=torch.float32)
    nearby = torch.stack([largest.view(torch.int32) + k for k in (-2, -1, 0, 1, 2)]).clamp(min=0)
    largest = nearby.view(torch.float32).reshape(-1, 1)
    check(largest * torch.tensor([1.0, -0.5, 0.3, 1 / 64]), f"{name}:{rule}")


def test_mx_rules_when_blocks_are_normal_then_they_differ_as_often_as_published(quantize):
    # numerics.md, section 5: of blocks of 32 under MXFP4, N(0, 1)
    x = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0))
    y = {rule: quantize(x, f"mxfp4:{rule}") for rule in RULES}
    differ = {
        (a, b): (y[a] != y[b]).any(dim=1).double().mean().item()
        for a, b in (("floor", "rceil"), ("floor", "even"))
    }
    assert differ["floor", "rceil"] == pytest.approx(0.297, abs=0.02)
    assert differ["floor", "even"] == pytest.approx(0.169, abs=0.02)


def test_nvfp4_when_a_nan_is_in_one_block_then_the_tensor_scale_decides_how_far_it_reaches(quantize):
    x = torch.ones(2, 32)
    x[0, 3] = math.nan
    assert quantize(x, "nvfp4").isnan().all()
    assert quantize(x, "nvfp4:onelevel").isnan().sum() == 16


def test_nvfp4_when_a_block_is_too_small_for_its_tensor_then_it_gives_zeros_with_their_sign(quantize):
    x = torch.tensor([1e30] * 16 + [1e20, -1e20] + [-0.0] * 14)
    assert_same_bits(quantize(x, "nvfp4")[16:], torch.tensor([0.0] + [-0.0] * 15))


@pytest.mark.parametrize("spec", ["fp4_e2m1:g4", "mxfp4", "nvfp4", "fp4_e2m1:b4", "fp_e8m3:g4"])
def test_float_exact_when_a_group_is_zero_then_zeros_keep_their_sign(check, spec):
    x = torch.tensor([0.0, -0.0, -0.0, 0.0])
    check(x, spec, x)
    check(TINY * torch.tensor([1.0, -1.0, -1.0, 1.0]), spec, x)  # whose scale is zero, or far above them


@pytest.mark.parametrize("spec", ["nf4:g4", "fp4_bnb:g4", "dint4:g4", "mxint8", "fp_e0m4:g4"])
def test_codebook_and_fixed_point_exact_when_a_value_rounds_to_zero_then_it_is_the_positive_one(
    quantize, spec
):
    zeros = torch.tensor([0.0, -0.0, -0.0, 0.0])
    assert_same_bits(quantize(zeros, spec), torch.zeros(4))
    assert_same_bits(quantize(torch.tensor([1.0, -0.001, -0.0, 0.0]), spec)[1:], torch.zeros(3))


@pytest.mark.parametrize("name", ["nf4", "fp4_bnb", "dint4"])
def test_codebook_exact_when_values_are_the_table_or_its_midpoints_then_a_tie_goes_down(quantize, name):
    table = torch.tensor(values(name))
    middles = (table[1:].double() + table[:-1].double()).div(2).float()
    above = (middles.abs().view(torch.int32) + middles.sign().int()).view(torch.float32).copysign(middles)
    x = torch.stack([middles, above, torch.ones_like(middles)], dim=-1)
    got = quantize(x, f"{name}:g3")
    assert got[:, 0].tolist() == table[:-1].tolist()
    assert got[:, 1].tolist() == table[1:].tolist()


@pytest.mark.parametrize("name", ["nf4", "fp4_bnb", "dint4"])
def test_codebook_exact_when_values_fill_the_range_then_each_goes_to_the_nearest(quantize, name):
    table = torch.tensor(values(name))
    middles = (table[1:].double() + table[:-1].double()).div(2).float()
    ends_of_bins = torch.arange(-16, 17).div(15.75).clamp(-1, 1)
    around = [ends_of_bins.nextafter(torch.tensor(end)) for end in (-1.0, 1.0)]
    x = torch.cat([torch.linspace(-1, 1, 2**14 + 1), ends_of_bins, *around])
    assert_same_bits(quantize(x, f"{name}:channel"), table[torch.searchsorted(middles, x)])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (1,), (2, 3, 4, 5)], ids=str)
def test_format_exact_when_the_shape_is_unusual_then_it_is_kept(check, shape):
    for spec in ("fp8_e4m3:g3", "mxfp4", "nvfp4", "nf4:tensor", "nvfp4:b16", "dint4:b2", "mxfp4:stochastic"):
        check(torch.randn(shape), spec)


@pytest.mark.parametrize(
    "spec", ["fp8_e4m3:g48", "mxfp6_e3m2", "nvfp4", "nf4:channel", "nvfp4:b16:stochastic", "fp8_e5m2:b50"]
)
def test_format_exact_when_the_tensor_is_large_or_strided_then_one_and_two_threads_agree(quantize, spec):
    x = torch.randn(5001, 37, generator=torch.Generator().manual_seed(0)).t()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = quantize(x, spec)
        torch.set_num_threads(1)
        one = quantize(x.contiguous(), spec)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(one, two)
    assert two.is_contiguous()
