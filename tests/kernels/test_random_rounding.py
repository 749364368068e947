"""Stochastic rounding: the words, what they decide, and that nothing else does."""

from __future__ import annotations

import math

import pytest
import torch
from bits import assert_same_bits
from definitions import philox, random_word
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.formats import QuantSpec, values
from qscale.kernels.philox import philox as tensor_philox
from qscale.kernels.philox import random_words

# Random123 1.14, kat_vectors: philox4x32 of 10 rounds. Counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
SEEDS = [0, 1, -1, 2**33 + 5, -(2**63)]


@pytest.mark.parametrize("vector", KNOWN, ids=["zeros", "ones", "pi"])
def test_philox_when_given_a_published_counter_then_both_implementations_give_the_published_words(vector):
    counter, key, wanted = (tuple(int(word, 16) for word in part.split()) for part in vector)
    assert philox(counter, key) == wanted
    words = tensor_philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(word.item() for word in words) == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_random_words_when_counted_then_they_are_those_of_the_definition(seed):
    assert random_words(11, seed).tolist() == [random_word(i, seed) for i in range(11)]


def test_random_words_when_fewer_or_none_are_asked_for_then_they_are_the_first():
    assert random_words(0, 3).tolist() == []
    assert random_words(5, 3).tolist() == random_words(9, 3).tolist()[:5]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spec", ["int8:tensor", "int8:tensor:asym", "mxint8", "fp_e0m7:tensor"])
def test_rounding_when_the_way_gone_passes_the_word_then_it_goes_up_and_not_before(quantize, spec, seed):
    # A scale of one step: then an element is its way, and 24 bits of its word are what it must pass.
    at_top = 255.0 if "asym" in spec else 127.0
    count = 31 if spec == "mxint8" else 301
    ways = torch.tensor([random_word(i, seed) >> 8 for i in range(count)]).double() * 2.0**-24
    largest = torch.tensor([at_top])
    stay, go = (
        quantize(torch.cat([way.float(), largest]), f"{spec}:stochastic", seed=seed)
        for way in (ways, ways + 2.0**-24)
    )
    assert_same_bits(stay, torch.cat([torch.zeros(count), largest]))
    assert_same_bits(go, torch.cat([torch.ones(count), largest]))
    if "asym" not in spec:
        down = quantize(torch.cat([-(ways + 2.0**-24).float(), largest]), f"{spec}:stochastic", seed=seed)
        assert_same_bits(down, torch.cat([-torch.ones(count), largest]))


NEAR = ["fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "fp4_e3m0", "fp6_e2m3", "fp_e5m0", "fp_e0m4", "fp_e4m1", "int4"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NEAR), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))
def test_rounding_when_elements_are_about_as_far_as_their_words_then_equals_the_definition(
    check, name, draws, seed
):
    generator = torch.Generator().manual_seed(draws)
    all_values = torch.tensor([v for v in values(name) if v >= 0], dtype=torch.float64)
    place = torch.randint(0, len(all_values) - 1, (60,), generator=generator)
    lower, upper = all_values[place], all_values[place + 1]
    ways = torch.tensor([random_word(i, seed) >> 8 for i in range(60)]).double() * 2.0**-24
    x = (lower + (upper - lower) * ways).float()
    x = (x.view(torch.int32) + torch.randint(-1, 2, (60,), generator=generator)).clamp(min=0).to(torch.int32)
    x = x.view(torch.float32) * torch.randint(0, 2, (60,), generator=generator).mul(2).sub(1)
    check(torch.cat([x, all_values[-1:].float()]), f"{name}:tensor:stochastic", seed=seed)


# A value between two of the format, the largest of its group (at a scale of one), and the two.
UNBIASED = {
    "int4:channel": (2.3, 7.0, 2.0, 3.0),
    "int8:channel:scale_e4m3:onelevel": (-100.01, 127.0, -100.0, -101.0),
    "int4:channel:asym": (0.75, 15.0, 0.0, 1.0),
    "int4:channel:asym:floatzero": (0.75, 15.125, 0.125, 1.125),
    "fp8_e4m3:channel": (-300.0, 448.0, -288.0, -320.0),
    "fp8_e5m2:channel": (2.0**-17, 57344.0, 0.0, 2.0**-16),
    "fp4_e3m0:channel": (5.0, 16.0, 4.0, 8.0),
    "fp4_e2m1:b32": (-4.4, 6.0, -4.0, -6.0),
    "mxfp4": (0.9, 6.0, 0.5, 1.0),
    "mxint8": (0.01, 1.984375, 0.0, 0.015625),
    "nvfp4:onelevel": (2.5, 6.0, 2.0, 3.0),
}


@pytest.mark.parametrize("spec", UNBIASED)
def test_rounding_when_drawn_often_then_it_is_unbiased(quantize, spec):
    x, largest, lower, upper = UNBIASED[spec]
    block = QuantSpec.parse(spec).group_size or 16
    rows = torch.full((2**15 // block, block), x)
    rows[:, 0], rows[:, -1] = lower, largest
    y = quantize(rows, f"{spec}:stochastic", seed=11)[:, 1:-1]
    assert set(y.unique().tolist()) <= {lower, upper}
    gone = (x - lower) / (upper - lower)
    error = math.sqrt(gone * (1 - gone) / y.numel())
    assert ((y - lower) / (upper - lower)).double().mean().item() == pytest.approx(gone, abs=5 * error + 1e-7)


def test_rounding_when_values_are_in_the_format_then_chance_has_no_part(quantize):
    x = torch.tensor([[*values("fp4_e2m1"), 6.0, -6.0]] * 10)
    assert_same_bits(quantize(x, "fp4_e2m1:channel:stochastic", seed=5), x)
    integers = torch.arange(-7.0, 8.0)
    assert_same_bits(quantize(integers, "int4:tensor:stochastic", seed=5), integers)


def test_seed_when_it_is_another_then_so_are_the_bits_and_when_it_is_the_same_they_are_not(quantize):
    x = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    same, again, *others = (
        quantize(x, "int4:g8:stochastic", seed=seed) for seed in (7, 7, 8, -7, 7 + 2**32, 7 - 2**63)
    )
    assert_same_bits(same, again)
    assert all(not torch.equal(same, other) for other in others)
    assert_same_bits(quantize(x, "int4:g8:stochastic"), quantize(x, "int4:g8:stochastic", seed=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spec", ["int4:g32", "int4:b7:asym", "fp8_e4m3:tensor", "nvfp4"])
def test_words_when_the_tensor_is_a_slice_then_elements_are_counted_in_what_is_given(quantize, spec, dtype):
    whole = torch.randn(3, 41, 90, generator=torch.Generator().manual_seed(0)).to(dtype)
    for x in (whole[1], whole[:, ::2, 5:], whole.transpose(0, 1), whole[..., 7]):
        got = quantize(x, f"{spec}:stochastic", seed=3)
        assert_same_bits(got, quantize(x.contiguous(), f"{spec}:stochastic", seed=3))


def test_words_when_rows_are_added_at_the_end_then_those_before_keep_theirs(quantize):
    x = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    few, many = (quantize(x[:rows], "int4:g10:stochastic", seed=3) for rows in (20, 50))
    assert_same_bits(few, many[:20].contiguous())
