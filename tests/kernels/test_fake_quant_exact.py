"""fake_quant against its definition: what holds for every format, and integers."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from definitions import definition, rounded
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES, specs, tensors

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, use_backend

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
sixteen_bits = pytest.mark.parametrize("dtype", DTYPES[1:], ids=["bfloat16", "float16"])

INTEGERS = [f"int{bits}" for bits in range(2, 9)]
DRAWN = [
    *INTEGERS,
    *(
        "fp8_e4m3",
        "fp8_e5m2",
        "fp6_e2m3",
        "fp4_e2m1",
        "fp4_e1m2",
        "fp4_e3m0",
        "fp_e0m4",
        "fp_e5m0",
        "fp_e8m3",
    ),
    *("mxfp8_e5m2", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4", "nf4", "fp4_bnb", "dint4"),
]
SPECS = [
    *("int2:g7", "int3:g32", "int4:g32", "int4:g128@chen2025", "int8:channel", "int8:tensor@chen2025"),
    *("int4:g32:away", "int8:tensor:away", "int4:b4", "int5:g6:full", "int8:channel:full:away"),
    *("int4:g32:asym", "int2:g5:asym", "int8:token:asym:away", "int8:tensor:asym", "int3:b3:asym"),
    *("int4:g32:asym:floatzero", "int8:g7:asym:floatzero:away", "int2:channel:asym:floatzero"),
    *("int4:g32:stochastic", "int4:g32:asym:stochastic", "int8:b5:asym:floatzero:stochastic"),
    *("int4:g16:scale_input", "int2:g16:scale_fp16", "int8:g16:scale_bf16", "int6:g16:scale_e8m0"),
    *("int4:g16:scale_e4m3", "int4:g16:scale_e4m3:onelevel", "int4:b8:asym:scale_e4m3"),
    *("int4:g16:asym:floatzero:scale_fp16", "int4:g8:asym:scale_e4m3:onelevel", "int8:g16:asym:scale_e8m0"),
]


def in_float64(x: torch.Tensor, text: str) -> torch.Tensor:
    """The docstring for symmetric integers in float64, fast enough for many elements.

    A quotient of two float32 and a product of two float32, taken in float64 and rounded to float32, have the
    bits of the float32 operation: 53 >= 2 * 24 + 2. The scale may be subnormal; then its quotient is at least
    2**-31 of itself away from a midpoint, far more than float64 loses.
    """
    spec = QuantSpec.parse(text)
    arithmetic = spec.int_arithmetic()
    group = spec.group_length(x.shape[-1])
    out = []
    with np.errstate(all="ignore"):
        wide = x.float().numpy().astype(np.float64)
        for values in np.split(wide, range(group, x.shape[-1], group), axis=1):
            largest = np.abs(values).max(axis=1, keepdims=True)
            scale = (largest / arithmetic.denominator).astype(np.float32).astype(np.float64)
            quotients = (values / np.where(scale == 0, np.inf, scale)).astype(np.float32)
            codes = np.clip(np.rint(quotients.astype(np.float64)), arithmetic.qmin, arithmetic.qmax)
            out.append(np.where(np.isfinite(largest), (codes + 0.0) * scale, np.nan))  # one zero
        return rounded(np.concatenate(out, axis=1).astype(np.float32), x.dtype)


def every_pattern(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("spec", ["int4:g2", "int8:g2", "int4:g2@chen2025", "int2:g1", "int4:g2:full"])
@sixteen_bits
def test_fake_quant_exact_when_given_every_16_bit_value_beside_seven_then_equals_the_definition(
    check, dtype, spec
):
    x = torch.stack([every_pattern(dtype), torch.full((2**16,), 7.0, dtype=dtype)], dim=-1)
    check(x, spec, in_float64(x, spec))


@pytest.mark.parametrize("spec", ["int4:g32", "int3:g48@chen2025", "int8:channel"])
@sixteen_bits
def test_fake_quant_exact_when_given_every_16_bit_value_among_its_like_then_equals_the_definition(
    check, dtype, spec
):
    x = every_pattern(dtype).reshape(-1, 128)
    check(x, spec, in_float64(x, spec))


seeds = st.sampled_from([0, 1, -1, 2**40 + 7, -(2**63)])


@settings(max_examples=250, deadline=None)
@given(tensors(), specs(dialects=["qscale"], formats=DRAWN, group_sizes=st.integers(1, 90)), seeds)
def test_fake_quant_exact_when_any_spec_is_drawn_then_equals_the_definition(check, x, spec, seed):
    check(x, str(spec), **({"seed": seed} if spec.rounding == "stochastic" else {}))


@settings(max_examples=150, deadline=None)
@given(
    tensors(),
    specs(dialects=["qscale", "qscale", "chen2025"], formats=INTEGERS, group_sizes=st.integers(1, 90)),
    seeds,
)
def test_fake_quant_exact_when_integers_are_drawn_then_equals_the_definition(check, x, spec, seed):
    check(x, str(spec), **({"seed": seed} if spec.rounding == "stochastic" else {}))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 8),
    st.sampled_from(["", "@chen2025", ":away", ":full", ":asym", ":asym:away", ":asym:floatzero"]),
)
def test_fake_quant_exact_when_elements_are_near_ties_then_equals_the_definition(check, seed, bits, more):
    generator = torch.Generator().manual_seed(seed)
    denominator = QuantSpec.parse(f"int{bits}:g24{more}").int_arithmetic().denominator
    largest = torch.rand(4, 1, generator=generator) + 1.0
    most = math.ceil(denominator)
    halves = torch.randint(-most, most, (4, 23), generator=generator) + 0.5
    x = torch.cat([halves * (largest / denominator), largest], dim=1)
    x.view(torch.int32)[:, :23] += torch.randint(-2, 3, (4, 23), generator=generator, dtype=torch.int32)
    x = torch.ldexp(x, torch.randint(-140, 120, (4, 1), generator=generator))
    check(x, f"int{bits}:g24{more}")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.data())
def test_fake_quant_exact_when_rows_are_long_then_every_implementation_agrees(check, seed, dtype, data):
    generator = torch.Generator().manual_seed(seed)
    shape = data.draw(st.sampled_from([(3, 1031), (2, 19, 130), (40, 64), (1, 5000)]))
    x = torch.randn(shape, generator=generator)
    x = torch.ldexp(x, torch.randint(-30, 30, (*shape[:-1], 1), generator=generator)).to(dtype)
    spec = str(data.draw(specs(dialects=["qscale"], formats=DRAWN, group_sizes=st.integers(1, 700))))
    with use_backend("reference"):
        wanted = fake_quant(x, spec)
    check(x, spec, wanted)


TINY = 2.0**-149  # the smallest float32
CASES = {
    "zeros": [0.0, -0.0, 0.0],
    "scale underflows": [TINY, -2 * TINY, 0.0, -0.0],
    "scale is subnormal": [10 * TINY, -9 * TINY, 4 * TINY, TINY],
    "ends a step apart": [3 * TINY, 4 * TINY],
    "subnormal beside one": [1.0, -TINY, TINY],
    "negative zero": [-0.0, 1.0, -1e-9, 1e-9],
    "one value": [0.3],
    "one negative value": [-0.3],
    "all above zero": [5.0, 5.5, 7.25, 6.0],
    "all below zero": [-5.0, -5.5, -7.25, -6.0],
    "far from zero": [1e6 + 1, 1e6, 1e6 + 2],
    "nan": [1.0, float("nan"), -2.0],
    "negative nan": [1.0, -float("nan"), 0.0],
    "infinity": [1.0, float("inf"), -2.0, 0.0],
    "minus infinity": [1.0, float("-inf")],
    "nan and infinity": [float("inf"), float("nan")],
    "a nan far away": [1.0, -3.0, 0.5] * 10 + [float("nan")],
    "largest": [3.4028234663852886e38, -3.4028234663852886e38, 1e38],
    "largest above zero": [3.4028234663852886e38, 3.4028234663852886e38, 1e38],
    "largest of half": [65504.0, -65504.0, 60000.0, 65520.0],
    "scales beyond half and E4M3": [1e30, -0.0, -1e30, 3e29] * 4 + [1e-30, 2e-30, -1e-30],
    "ties": [7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5],
    "ties above a zero point": [-8.0, 7.0, 0.5, 1.5, -0.5, -1.5, 6.5, -7.5],
}


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_fake_quant_exact_when_values_are_special_then_equals_the_definition(check, name, dtype):
    for spec in SPECS:
        check(torch.tensor(CASES[name]).repeat(3, 5).to(dtype), spec)


@pytest.mark.parametrize(
    "spec", ["int4:g4", "int4:g4:away", "int4:g4:full", "int4:g4:asym", "int4:b4:asym:floatzero"]
)
def test_fake_quant_exact_when_the_scale_underflows_then_integers_are_the_zero_that_they_have(check, spec):
    check(torch.tensor([TINY, 0.0, 0.0, -0.0]), spec, torch.zeros(4))


def test_fake_quant_exact_when_integers_round_to_zero_then_it_is_the_positive_one(check):
    check(torch.tensor([7.0, -0.3, -0.0, 0.3]), "int4:g4", torch.tensor([7.0, 0.0, 0.0, 0.0]))
    check(torch.tensor([7.5, -7.5, -0.3, -0.0]), "int4:g4:asym", torch.tensor([7.0, -8.0, 0.0, 0.0]))


# By hand: s is 1, or 2 where the comment says so.
BY_HAND = {
    "int2:g4:full": ([1.5, -1.5, 0.5, -0.6], [1.0, -2.0, 0.0, -1.0]),
    "int3:g4:asym": ([4.0, -3.0, 1.4, -0.5], [4.0, -3.0, 1.0, 0.0]),
    "int2:g4:asym": ([1.0, 3.0, 2.5, 1.6], [1.0, 3.0, 2.0, 2.0]),
    "int2:g3:asym": ([-0.75, -3.0, -2.4], [-1.0, -3.0, -2.0]),
    "int2:g4:asym:floatzero": ([10.25, 13.25, 12.0, 11.5], [10.25, 13.25, 12.25, 11.25]),
    "int2:g2:asym:floatzero": ([-7.0, -7.0], [-7.0, -7.0]),  # 2/3 of 7 above and below
    "int3:g3:scale_e8m0": ([5.0, 3.0, -2.9], [4.0, 4.0, -2.0]),  # 5/3 becomes 2
    "int2:g2:scale_e4m3:onelevel": ([2.1, -1.2], [2.0, -2.0]),  # 2.1 becomes 2
    "int2:g2:scale_e4m3": ([896.0, -500.0], [896.0, -896.0]),  # 448 * 2
    "int2:g2:scale_fp16": ([1e30, -4e4], [65504.0, -65504.0]),  # saturates
    "int2:g3:scale_e4m3:onelevel": ([1e30, -300.0, 200.0], [448.0, -448.0, 0.0]),
}


@pytest.mark.parametrize("spec", BY_HAND)
def test_fake_quant_exact_when_computed_by_hand_then_that_is_the_result(check, spec):
    x, wanted = (torch.tensor(values) for values in BY_HAND[spec])
    check(x, spec, wanted)
    check(x, spec)


@pytest.mark.parametrize(
    "kind", ["scale_fp16", "scale_bf16", "scale_e4m3:onelevel", "scale_e4m3", "scale_e8m0"]
)
def test_scale_exact_when_the_range_is_near_a_tie_of_its_type_then_equals_the_definition(check, kind):
    few = torch.arange(0, 2**15, 517).to(torch.int16)
    patterns = {
        "scale_fp16": few.view(torch.float16),
        "scale_bf16": few.view(torch.bfloat16),
        "scale_e8m0": torch.ldexp(torch.ones(29), torch.arange(-140, 150, 10)),
    }
    e4m3 = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    exact = patterns.get(kind, e4m3).double()
    exact = exact[exact.isfinite()].sort().values
    ties = torch.cat([(exact[1:] + exact[:-1]) / 2, exact, torch.tensor([464.0, 65520.0, 3.4e38])]).float()
    nearby = torch.stack([ties.view(torch.int32) + k for k in (-1, 0, 1)]).clamp(min=0).view(torch.float32)
    x = nearby.reshape(-1, 1) * torch.tensor([1.0, -0.5, 0.3])
    check(x[x.isfinite().all(1)], f"nf4:g3:{kind}")
    check(x[x.isfinite().all(1)], f"int2:g3:{kind}")


def test_fake_quant_exact_when_a_group_has_a_nan_then_only_that_group_is_nan(quantize):
    x = torch.tensor([1.0, float("nan"), 3.0, 4.0, float("inf")])
    for more in ("", ":asym", ":asym:floatzero", ":scale_e4m3:onelevel"):
        assert quantize(x, f"int4:g2{more}").isnan().tolist() == [True, True, False, False, True]
    assert quantize(x, "int4:g2:scale_e4m3").isnan().all()


def test_squares_when_they_are_cut_off_then_each_has_the_scale_of_its_own_elements(quantize):
    x = torch.tensor([[1.0, 0.4, 5.0], [0.4, 0.4, 2.0], [9.0, 3.0, 7.0]])
    wanted = torch.tensor([[1.0, 0.0, 5.0], [0.0, 0.0, 0.0], [9.0, 0.0, 7.0]])
    assert_same_bits(quantize(x, "int2:b2"), wanted)
    assert_same_bits(quantize(x.expand(4, 2, 3, 3), "int2:b2"), wanted.expand(4, 2, 3, 3).contiguous())


def test_squares_when_there_is_one_row_then_they_are_groups(quantize):
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert_same_bits(quantize(x, "int4:b32"), quantize(x, "int4:g32"))
    assert_same_bits(quantize(x, "mxfp4:b32"), quantize(x, "mxfp4"))


def test_squares_when_they_cover_the_matrix_then_there_is_one_scale(quantize):
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert_same_bits(quantize(x, "int4:b9"), quantize(x, "int4:tensor"))
    assert_same_bits(quantize(x, f"int4:b{2**62}:asym"), quantize(x, "int4:tensor:asym"))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 5), (1,), (2, 3, 4, 5), (2, 0, 3)], ids=str)
def test_fake_quant_exact_when_the_shape_is_unusual_then_it_is_kept(check, shape):
    for spec in [*SPECS, "mxfp4:b32", "nvfp4"]:
        check(torch.randn(shape), spec)


LAYOUTS = {
    "transposed": lambda x: x.t(),
    "strided": lambda x: x[:, ::3],
    "expanded": lambda x: x[:1].expand(4, -1),
    "permuted": lambda x: x.reshape(2, 20, 45).permute(1, 2, 0),
    "offset": lambda x: x[:, 1:],
    "channels last": lambda x: x.reshape(2, 3, 10, 30).to(memory_format=torch.channels_last),
}
LAID_OUT = ["int4:g32", "int4:b7:asym", "int8:tensor:stochastic"]


@lru_cache
def of_layout(name: str, dtype: torch.dtype) -> torch.Tensor:
    return LAYOUTS[name](torch.randn(40, 45, generator=torch.Generator().manual_seed(1)).to(dtype))


@dtypes
@pytest.mark.parametrize("name", LAYOUTS)
def test_fake_quant_exact_when_input_is_not_contiguous_then_output_is_and_equals_the_definition(
    check, name, dtype
):
    for spec in LAID_OUT:
        check(of_layout(name, dtype), spec)


@pytest.mark.parametrize(
    "spec", ["int4:g48", "int8:b7:asym", "int4:tensor:scale_e4m3", "int4:g48:asym:floatzero:stochastic"]
)
@dtypes
def test_fake_quant_exact_when_the_tensor_is_large_then_one_and_two_threads_agree(quantize, dtype, spec):
    x = torch.randn(37, 5001, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = quantize(x, spec)
        torch.set_num_threads(1)
        one = quantize(x, spec)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(one, two)


def free_memory() -> float:
    """GiB that can be had, where Linux says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


# Places of 32 bits do not reach: bytes and random words of one, elements of the other.
LARGE = {
    "2**31 bytes": (torch.float32, 2**29 // 1000 + 2, "int4:g48:stochastic"),
    "2**31 elements": (torch.bfloat16, 2**31 // 1000 + 2, "int8:g48"),
}


@pytest.mark.parametrize("name", LARGE)
def test_fake_quant_exact_when_the_tensor_is_beyond_32_bits_then_the_last_rows_equal_the_definition(name):
    dtype, rows, spec = LARGE[name]
    needed = rows * 1000 * dtype.itemsize / 2**30 + 2
    if free_memory() < needed:
        pytest.skip(f"needs {needed:.0f} GiB of free memory; there are {free_memory():.0f}")
    # Zeros that are not written take no memory.
    words = np.zeros((rows, 1000), np.float32 if dtype is torch.float32 else np.int16)
    x = torch.from_numpy(words).view(dtype)
    some = [0, rows // 2, rows - 3, rows - 2, rows - 1]
    x[some] = torch.randn(len(some), 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = fake_quant(x, spec)
    for row in some:
        wanted = definition(x[row], spec, first=1000 * row)
        assert_same_bits(y[row], wanted)


ONE_STEP = ["int2", "int3", "int4", "int5", "int6", "int7", "int8", "int4:full", "int8:full", "fp8_e4m3"]
ONE_STEP += ["fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1", "fp_e3m6", "fp_e2m10", "nf4", "fp4_bnb", "dint4"]


@pytest.mark.parametrize("text", ONE_STEP)
def test_fake_quant_exact_when_bfloat16_meets_every_scale_then_equals_true_division(check, text):
    # The vector kernels divide by one Newton step, which round_trips.h shows to be enough for these.
    name, _, option = text.partition(":")
    significands = torch.arange(128, 256).float()
    smaller = torch.cat([significands * 2.0**-binade for binade in range(14)])
    rows = [torch.cat([a.reshape(1), smaller[smaller <= a], -a.reshape(1)]) for a in significands]
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(torch.bfloat16)
    spec = f"{name}:channel{':' * bool(option)}{option}"
    with use_backend("reference"):
        wanted = fake_quant(x, spec)
    check(x, spec, wanted)
