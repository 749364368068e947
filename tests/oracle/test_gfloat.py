"""Elements against gfloat on every fourth bfloat16, all ties among them: to even and away, saturating."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from bits import assert_same_bits
from oracle.installed import library

from qscale.formats.grids import FORMATS
from qscale.kernels.dialects import casts
from qscale.kernels.dialects.elements import element_of

VERSION = "0.5.2"
ELEMENTS = {
    "fp8_e4m3": "e4m3",
    "fp8_e5m2": "e5m2",
    "fp6_e2m3": "e2m3",
    "fp6_e3m2": "e3m2",
    "fp4_e2m1": "e2m1",
}
MODES = {"even": "TiesToEven", "away": "TiesToAway"}


def finite_bfloat16():
    x = torch.arange(-(2**15), 2**15, 4).to(torch.int16).view(torch.bfloat16).float()
    return x[x.isfinite()]


@cache
def rounded(name, rounding):
    """Values as gfloat rounds them, and the codes."""
    gfloat = library("gfloat", VERSION)
    formats = library("gfloat", VERSION, "gfloat.formats")
    row = getattr(formats, f"format_info_ocp_{ELEMENTS[name]}")
    mode = getattr(gfloat.RoundMode, MODES[rounding])
    values = gfloat.round_ndarray(row, finite_bfloat16().double().numpy(), mode, sat=True)
    return torch.from_numpy(values).float(), torch.from_numpy(gfloat.encode_ndarray(row, values))


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_cast_exact_when_given_bfloat16_of_all_sizes_then_has_the_codes_of_gfloat(name, rounding):
    x = finite_bfloat16()
    _, codes = rounded(name, rounding)
    assert_same_bits(casts.gfloat_cast(x, element_of(name), rounding), codes.to(torch.uint8))


@pytest.mark.parametrize("ties", ["even", "away"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_element_exact_when_given_bfloat16_at_scale_one_then_rounds_as_gfloat(quantize, name, ties):
    top = FORMATS[name].grid.max
    x = finite_bfloat16().clamp(-top, top)
    pairs = torch.stack([x, torch.full_like(x, top)], dim=-1)
    values, _ = rounded(name, ties)
    got = quantize(pairs, f"{name}:g2" + (":away" if ties == "away" else ""))
    assert_same_bits(got[:, 0], values)


def test_comparison_when_ties_go_elsewhere_then_fails():
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same_bits(rounded("fp4_e2m1", "even")[0], rounded("fp4_e2m1", "away")[0])
