"""The comparison that every exactness test rests on can fail."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits


def test_assert_same_bits_when_one_zero_has_the_wrong_sign_then_fails():
    with pytest.raises(AssertionError, match=r"1 of 2 elements differ, first at 1: got 0\.0, wanted -0\.0"):
        assert_same_bits(torch.zeros(2), torch.tensor([0.0, -0.0]))


def test_assert_same_bits_when_the_last_bit_differs_then_fails_at_its_index():
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    y = x.clone()
    y.view(torch.int16)[1, 2] += 1
    with pytest.raises(AssertionError, match=r"1 of 6 elements differ, first at \[1, 2\]"):
        assert_same_bits(x, y)


def test_assert_same_bits_when_a_nan_meets_a_number_then_fails():
    with pytest.raises(AssertionError, match=r"got nan, wanted 1\.0"):
        assert_same_bits(torch.tensor([float("nan")]), torch.ones(1))


@pytest.mark.parametrize(
    "other", [torch.ones(2, dtype=torch.float16), torch.ones(1, 2)], ids=["dtype", "shape"]
)
def test_assert_same_bits_when_dtype_or_shape_differ_then_fails(other):
    with pytest.raises(AssertionError, match="wanted"):
        assert_same_bits(torch.ones(2), other)


def test_assert_same_bits_when_nan_payloads_differ_then_passes():
    nans = torch.tensor([0x7FC00000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert_same_bits(nans, torch.full((2,), float("-nan")))
