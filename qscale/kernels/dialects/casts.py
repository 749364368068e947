"""Casts of single elements: ml_dtypes 0.6.0, torch 2.13.0 and gfloat 0.5.2, from float32 to codes (uint8).

Inside the range all of them round half to even; they differ in overflow, infinity, NaN and the sign of zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.kernels.dialects.elements import Element, Rounding, encode, round_to

_E8M0_NAN = 255


def ml_dtypes_cast(x: Tensor, element: Element) -> Tensor:
    """What rounds past the largest value becomes infinity, else NaN; with neither code it saturates.

    A NaN of a format that has no code for it becomes a zero of the other sign.
    """
    values = round_to(x, element)
    if element.nan_code is None:
        clamped = values.clamp(-element.largest, element.largest)
        return encode(torch.where(x.isnan(), (-torch.zeros_like(x).copysign(x)), clamped), element)
    over = torch.inf if element.inf_code is not None else torch.nan
    values = torch.where(values.abs() > element.largest, torch.full_like(x, over).copysign(x), values)
    return encode(values, element)


def torch_cast(x: Tensor, element: Element) -> Tensor:
    """As ``ml_dtypes_cast``, but E4M3 saturates, infinities included, and a NaN of E5M2 has every bit set."""
    codes = ml_dtypes_cast(x, element)
    if element.name == "e4m3fn":
        return encode(round_to(x, element).clamp(-element.largest, element.largest), element)
    if element.name == "e5m2":
        return torch.where(x.isnan(), codes | 1, codes)
    return codes


def gfloat_cast(x: Tensor, element: Element, rounding: Rounding = "even", *, saturate: bool = True) -> Tensor:
    """Saturating, or as ``ml_dtypes_cast``; a NaN has every bit set, and not its sign.

    Without codes for NaN, NaN and infinity are not defined: 0 here.
    """
    values = round_to(x, element, rounding)
    if element.nan_code is None:
        values = torch.where(x.isfinite(), values, 0.0)
    if saturate:
        values = values.clamp(-element.largest, element.largest)
        codes = encode(values, element)
    else:
        codes = ml_dtypes_cast(values, element)
    if element.nan_code is None:
        return codes
    nan = x.isnan() | (values.abs() > element.largest if element.inf_code is None else x.isnan())
    return torch.where(nan, (1 << element.num_bits) - 1, codes).to(torch.uint8)


def torch_cast_e8m0(x: Tensor) -> Tensor:
    """Biased exponents: half up (from the smallest exponent down), the sign dropped; infinity becomes NaN."""
    bits = x.view(torch.int32) & 0x7FFFFFFF
    field, fraction = bits >> 23, bits & 0x7FFFFF
    up = (fraction > 0x400000) | ((fraction == 0x400000) & (field > 0))
    code = (field + up.to(torch.int32)).clamp(max=_E8M0_NAN)
    return torch.where(x.isfinite(), code, _E8M0_NAN).to(torch.uint8)


def ml_dtypes_cast_e8m0(x: Tensor) -> Tensor:
    """Biased exponents, as above for positive values; zero, negatives, infinity and NaN become NaN."""
    return torch.where(x > 0, torch_cast_e8m0(x), _E8M0_NAN).to(torch.uint8)
