"""The definition of rounding, checked against arithmetic that it does not use."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.formats import values
from qscale.formats.rounding import round_to_float32, round_to_format

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_round_to_format_when_e2m1_ties_then_even_and_away_are_those_of_numerics_section_2():
    ties = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
    assert [round_to_format(v, "fp4_e2m1") for v in ties] == [0, 1, 1, 2, 2, 4, 4]
    assert [round_to_format(v, "fp4_e2m1", "away") for v in ties] == [0.5, 1, 1.5, 2, 3, 4, 6]


def test_round_to_format_when_there_is_no_mantissa_then_a_tie_goes_to_the_even_exponent_field():
    # values 0, 1/4, 1/2, 1, 2, ...: codes 0, 1, 2, 3, 4, ...
    assert [round_to_format(v, "fp4_e3m0") for v in (0.125, 0.375, 0.75, 1.5)] == [0, 0.5, 0.5, 2]


@given(st.integers(-(10**6), 10**6))
def test_round_to_format_when_integers_are_given_then_python_rounds_alike(thousandths):
    value = Fraction(thousandths, 1000)
    assert round_to_format(value, "int8") == max(-127, min(127, round(value)))


@given(finite, st.sampled_from(["fp8_e4m3", "fp6_e3m2", "fp4_e1m2", "mxint8", "fp_e5m0"]))
def test_round_to_format_when_any_number_is_given_then_no_value_is_nearer(value, name):
    found = round_to_format(value, name)
    assert found in values(name)
    assert all(abs(found - Fraction(value)) <= abs(Fraction(v) - Fraction(value)) for v in values(name))


@settings(deadline=None)  # the first one lists every half
@given(st.floats(width=16, allow_nan=False, allow_infinity=False), st.floats(-(2.0**-12), 2.0**-12))
def test_round_to_format_when_the_format_is_half_precision_then_numpy_rounds_alike(base, offset):
    value = min(max(base * (1 + offset), -65504.0), 65504.0)
    with np.errstate(over="ignore"):
        wanted = np.float64(value).astype(np.float16)
    if np.isfinite(wanted):
        assert round_to_format(value, "fp_e5m10") == Fraction(float(wanted))


@given(finite)
def test_round_to_float32_when_any_double_is_given_then_numpy_rounds_alike(value):
    with np.errstate(over="ignore", under="ignore"):
        wanted = np.float64(value).astype(np.float32)
    largest = float(np.finfo(np.float32).max)
    assert round_to_float32(Fraction(value)) == Fraction(float(np.clip(wanted, -largest, largest)))


@pytest.mark.parametrize("ties", ["even", "away"])
def test_round_to_format_when_beyond_the_largest_then_it_saturates(ties):
    assert round_to_format(1e300, "fp8_e4m3", ties) == 448
    assert round_to_format(-1e300, "fp8_e5m2", ties) == -57344
