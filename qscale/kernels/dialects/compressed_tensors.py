"""compressed-tensors 0.20.0: every step in the input's dtype ("dt"), clamp before rounding, true division.

``codes`` are the quantized values in dt, as ``quantize`` gives them before any cast; NaN inputs stay NaN.
The zero point is added to ``x / s`` even where it is zero, which makes an input of -0 into +0; small
negative values still give -0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import E2M1, E4M3, Element, round_to

#: Block scales of NVFP4 that E4M3 rounds to zero become this.
_NVFP4_ZERO_SCALE = 0.125
_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def integers(x: Tensor, num_bits: int, group_size: int | None, *, symmetric: bool = True) -> Quantized:
    """``s = a / ((qmax - qmin) / 2)``, ``q = RNE(clamp(x / s + zp, qmin, qmax))``, ``y = (q - zp) * s``.

    Asymmetric: ``s = (max - min) / (qmax - qmin)``, min and max taking in 0, and
    ``zp = RNE(clamp(qmin - min / s))``, int8. A scale of 0 becomes the eps of dt, its zero point 0.
    """
    half = 2 ** (num_bits - 1)
    groups = _shared.in_groups(x, group_size)
    zero = _shared.number(0.0, groups)
    low = torch.minimum(groups.amin(-1, keepdim=True), zero)
    high = torch.maximum(groups.amax(-1, keepdim=True), zero)
    if symmetric:
        scale = _no_zeros(torch.maximum(-low, high) / _shared.number(half - 0.5, groups))
        return _affine(x, groups, scale, torch.zeros_like(scale, dtype=torch.int8), half)
    scale = _no_zeros((high - low) / _shared.number(2 * half - 1, groups))
    zero_point = (-half - low / scale).clamp(-half, half - 1).round()
    zero_point = torch.where((low == 0) & (high == 0), 0.0, zero_point).to(torch.int8)
    return _affine(x, groups, scale, zero_point, half)


def _no_zeros(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)


def _affine(x: Tensor, groups: Tensor, scale: Tensor, zero_point: Tensor, half: int) -> Quantized:
    codes = (groups / scale + zero_point.to(groups.dtype)).clamp(-half, half - 1).round()
    y = (codes - zero_point.to(groups.dtype)) * scale
    return _result(x, y, codes, scale, zero_point)


def _result(
    x: Tensor,
    y: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    tensor_scale: Tensor | None = None,
) -> Quantized:
    zero_point = torch.zeros_like(scale, dtype=torch.int8) if zero_point is None else zero_point
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.to(x.dtype).reshape(x.shape),
        scale=_shared.flat(scale),
        zero_point=_shared.flat(zero_point),
        tensor_scale=tensor_scale,
    )


def cast(x: Tensor, element: Element) -> Tensor:
    """Half to even, saturating, in the dtype of ``x``. E2M1 takes -0 to +0, the wider elements keep it."""
    values = round_to(x.float(), element).clamp(-element.largest, element.largest).to(x.dtype)
    return torch.where(x == 0, 0.0, values) if element is E2M1 else values


def _quantized(groups: Tensor, scale: Tensor, element: Element) -> Tensor:
    scaled = groups / scale + 0.0
    return cast(scaled.clamp(-element.largest, element.largest), element)


def float8(x: Tensor, group_size: int | None) -> Quantized:
    """E4M3: ``s = a / 448`` (0 becomes eps), ``q = RNE(clamp(x / s + 0))``, ``y = q * s``."""
    groups = _shared.in_groups(x, group_size)
    scale = _no_zeros(_shared.largest(groups) / _shared.number(E4M3.largest, groups))
    values = _quantized(groups, scale, E4M3)
    return _result(x, values * scale, values, scale)


def mx(x: Tensor, element: Element, group_size: int = 32) -> Quantized:
    """``s = 2**(floor(log2 r) - emax)``, ``r`` being ``a`` rounded half up to few mantissa bits.

    One bit for E2M1 and for E4M3, three for E2M3: the rule ``even`` of other libraries, but for FP8 with the
    mantissa of FP4. The scale is a number in dt; where it underflows to 0 it becomes 1. So it does in float16
    where ``r`` is subnormal there: the library takes the power of two by the exponent field.
    """
    groups = _shared.in_groups(x, group_size)
    kept = 1 if element is E4M3 else element.mantissa_bits
    power = _power_of_field(_shared.largest(groups), kept)
    exponent = (power.float().log2() - element.largest_exponent).clamp(min=-127)
    scale = exponent.exp2().to(x.dtype)
    scale = torch.where(scale == 0, 1.0, scale)
    values = _quantized(groups, scale, element)
    return _result(x, values * scale, values, scale)


def _power_of_field(absmax: Tensor, kept: int) -> Tensor:
    """The exponent field of ``absmax`` rounded half up to ``kept`` mantissa bits, alone; 0 of a subnormal."""
    integer = _INTEGERS[absmax.dtype]
    mantissa_bits = -int(math.log2(torch.finfo(absmax.dtype).eps))
    field = torch.full_like(absmax, torch.inf).view(integer)
    bits = absmax.view(integer) + (1 << (mantissa_bits - kept - 1))
    power = (bits & field).view(absmax.dtype)
    return torch.where(absmax.isnan(), torch.nan, power)  # whatever bits the NaN has


def nvfp4(x: Tensor, group_size: int = 16) -> Quantized:
    """``g = 2688 * (1 / max|x|)`` in dt, then float32; ``sf = e4m3(g * (a / 6))``, 0 becomes 0.125.

    ``q = RNE(clamp(x / (sf / g) + 0, -6, 6))``, ``y = q * (sf / g)``. A ``g`` that is not finite becomes 1.
    """
    groups = _shared.in_groups(x, group_size)
    largest = _shared.number(E4M3.largest * E2M1.largest, groups)
    global_scale = (x.abs().amax().reciprocal() * largest).float().reshape(1)
    global_scale = torch.where(global_scale.isfinite(), global_scale, 1.0)
    block = global_scale * (_shared.largest(groups) / _shared.number(E2M1.largest, groups))
    block = round_to(block.clamp(-E4M3.largest, E4M3.largest), E4M3)
    block = torch.where(block == 0, _NVFP4_ZERO_SCALE, block)
    scale = block / global_scale
    values = _quantized(groups, scale, E2M1)
    return _result(x, values * scale, values, block, tensor_scale=global_scale)
