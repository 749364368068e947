"""The values of each element format: against published tables and against what defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qscale.errors import SpecError
from qscale.formats import FORMATS, values

# OCP 8-bit floating point 1.0 table 1, OCP MX 1.0 tables 2 to 5; fp4_e1m2 and fp4_e3m0 as IEEE 754 continues.
TABLE = {  # largest, smallest normal, step, bias, how many magnitudes
    "fp8_e4m3": (448.0, 2.0**-6, 2.0**-9, 7, 127),
    "fp8_e5m2": (57344.0, 2.0**-14, 2.0**-16, 15, 124),
    "fp6_e2m3": (7.5, 1.0, 2.0**-3, 1, 32),
    "fp6_e3m2": (28.0, 0.25, 2.0**-4, 3, 32),
    "fp4_e2m1": (6.0, 1.0, 0.5, 1, 8),
    "fp4_e1m2": (3.5, 2.0, 0.5, 0, 8),
    "fp4_e3m0": (16.0, 0.25, 0.25, 3, 8),
    "mxint8": (127 / 64, 2.0, 2.0**-6, 0, 128),
    "fp_e4m3": (480.0, 2.0**-6, 2.0**-9, 7, 128),
    "fp_e8m7": ((2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133, 127, 255 * 128),  # bfloat16
}


@pytest.mark.parametrize("name", TABLE)
def test_grid_when_the_format_is_published_then_its_numbers_are_those(name):
    grid = FORMATS[name].grid
    assert (grid.max, grid.smallest_normal, grid.step, grid.bias, grid.count) == TABLE[name]


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.grid and row.num_bits <= 9])
def test_values_when_listed_then_they_ascend_symmetrically_and_zero_is_there_once(name):
    found, grid = values(name), FORMATS[name].grid
    assert list(found) == sorted(set(found)) == [-v for v in reversed(found)]
    assert (found[-1], len(found)) == (grid.max, 2 * grid.count - 1)
    assert all(math.isfinite(v) for v in found)


def test_values_of_e2m1_and_integers_and_codebooks():
    assert values("mxfp4")[7:] == (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    assert values("int3") == (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    assert len(values("nf4")) == 16
    assert len(values("fp4_bnb")) == len(values("dint4")) == 15
    assert values("nf4")[-1] == values("fp4_bnb")[-1] == values("dint4")[-1] == 1.0


def test_values_of_dint4_are_sixths_and_a_half_of_one_on_either_side_of_zero():
    sixths = [float(np.float32(i / 6)) for i in (0, 0.5, 1, 2, 3, 4, 5, 6)]
    assert list(values("dint4")) == [*(-v for v in reversed(sixths[1:])), *sixths]


def test_values_when_the_format_is_unknown_then_the_error_lists_the_known():
    with pytest.raises(SpecError, match=r"unknown format 'fp9'; known: int2.*fp_e<0-8>m<0-10>"):
        values("fp9")


def test_formats_when_general_then_every_split_of_exponent_and_mantissa_is_there_but_none_at_all():
    general = [name for name in FORMATS if name.startswith("fp_e")]
    assert len(general) == 9 * 11 - 1
    assert "fp_e0m0" not in FORMATS
