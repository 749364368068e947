"""Elements and E8M0 scales against ml_dtypes on every bfloat16, in every implementation that runs here."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from oracle.installed import library

from qscale.kernels.dialects import casts, elements

VERSION = "0.6.0"
CODES = {
    **{f"float8_{name}": name for name in ("e4m3fn", "e5m2", "e4m3", "e4m3fnuz", "e5m2fnuz")},
    "float6_e2m3fn": "e2m3",
    "float6_e3m2fn": "e3m2",
    "float4_e2m1fn": "e2m1",
}
#: Formats by the type of ml_dtypes that has their elements.
FORMATS = {
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp6_e2m3": "float6_e2m3fn",
    "fp6_e3m2": "float6_e3m2fn",
    "fp4_e2m1": "float4_e2m1fn",
}
MX = {
    "mxfp8_e4m3": "float8_e4m3fn",
    "mxfp8_e5m2": "float8_e5m2",
    "mxfp6_e2m3": "float6_e2m3fn",
    "mxfp6_e3m2": "float6_e3m2fn",
    "mxfp4": "float4_e2m1fn",
}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def no_remarks_on_nan():
    with np.errstate(all="ignore"):
        yield


@cache
def every_bfloat16():
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).float()


def scalar(name):
    return getattr(library("ml_dtypes", VERSION), name)


def cast(values, name):
    """Values in, their roundings out; NumPy arrays of float32."""
    return values.astype(scalar(name)).astype(np.float32)


def largest(name):
    return float(library("ml_dtypes", VERSION).finfo(scalar(name)).max)


@pytest.mark.parametrize("name", CODES)
def test_cast_exact_when_given_every_bfloat16_then_has_the_codes_of_ml_dtypes(name):
    kind, x = scalar(name), every_bfloat16()
    theirs = torch.from_numpy(x.numpy().astype(kind).view(np.uint8).copy())
    mine = casts.ml_dtypes_cast(x, elements.ELEMENTS[CODES[name]])
    compared = ~x.isnan() if name.startswith("float8") else torch.ones_like(x, dtype=torch.bool)
    assert_same_bits(mine[compared], theirs[compared])


def test_cast_to_e8m0_exact_when_given_every_bfloat16_then_has_the_codes_of_ml_dtypes():
    kind, x = scalar("float8_e8m0fnu"), every_bfloat16()
    theirs = torch.from_numpy(x.numpy().astype(kind).view(np.uint8).copy())
    assert_same_bits(casts.ml_dtypes_cast_e8m0(x), theirs)


@dtypes
@pytest.mark.parametrize("name", FORMATS)
def test_element_exact_when_given_every_bfloat16_at_scale_one_then_rounds_as_ml_dtypes(quantize, name, dtype):
    x, top = every_bfloat16(), largest(FORMATS[name])
    saturated = x.clamp(-top, top)  # what lies outside is for the scale to bring in, not for the element
    saturated[x.isinf()] = torch.inf
    pairs = torch.stack([saturated, torch.full_like(x, top)], dim=-1).to(dtype)
    got = quantize(pairs, f"{name}:g2")[:, 0]
    wanted = torch.from_numpy(cast(saturated.clamp(-top, top).numpy(), FORMATS[name]))
    wanted[~x.isfinite()] = torch.nan  # a group that holds none gives none
    assert_same_bits(got, wanted.to(dtype))


@dtypes
@pytest.mark.parametrize("name", MX)
def test_mx_exact_when_given_every_bfloat16_then_is_the_scale_and_the_elements_of_ml_dtypes(
    quantize, name, dtype
):
    blocks, wanted = block_scaled(name)
    assert_same_bits(quantize(blocks.to(dtype), name), wanted.to(dtype))


@cache
def block_scaled(name):
    """All of them in blocks, and the blocks rounded."""
    x = every_bfloat16()
    order = torch.randperm(2**16, generator=torch.Generator().manual_seed(0))
    blocks = torch.cat([x, x[order]]).reshape(-1, 32)  # neighbours, and values of all sizes
    return blocks, torch.from_numpy(rounded_blocks(blocks.numpy(), MX[name]))


def rounded_blocks(blocks, name):
    """Elements and scales by the types of ml_dtypes, what lies between in float64."""
    top, values = largest(name), blocks.astype(np.float64)
    absmax = np.abs(values).max(-1, keepdims=True)
    finite = np.isfinite(absmax)
    exponent = np.frexp(np.where(finite, absmax, 1.0))[1] - np.frexp(top)[1]
    exponent = np.where(absmax == 0, -127, exponent.clip(-127, 127))
    scale = cast(np.ldexp(1.0, exponent).astype(np.float32), "float8_e8m0fnu").astype(np.float64)
    scaled = (values / scale).clip(-top, top)
    found = cast(scaled.astype(np.float32), name) * scale
    return np.where(finite, found, np.nan).astype(np.float32)
