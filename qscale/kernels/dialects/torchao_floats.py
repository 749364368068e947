"""torchao 0.18.0, floats: the float8 fake quantizer, the MX formats and NVFP4.

Notation: a over the group; "dt" the input's dtype. Products and quotients are float32 unless dt is named.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import E2M1, E4M3, Element, decode, encode, round_to

ScaleRule = Literal["floor", "ceil", "rceil", "even"]

_SMALLEST_NORMAL = 2.0**-126
_E4M3_SMALLEST_NORMAL = 2.0**-6


def float8(
    x: Tensor,
    element: Element,
    group_size: int | None,
    *,
    absmax_eps: float | None = None,
    power_of_two_scale: bool = False,
) -> Quantized:
    """``Float8FakeQuantizer``: ``s = a / largest`` in dt, then float32; ``y = RNE(clamp(x / s)) * s``, dt.

    There is no eps: a group of zeros has ``s = 0`` and gives NaN. ``power_of_two_scale`` rounds ``log2 s``
    half to even.
    """
    groups = _shared.in_groups(x, group_size)
    scale = _float8_scale(groups, element, absmax_eps)
    if power_of_two_scale:
        scale = scale.log2().round().exp2()
    values = round_to(_clamped(groups.float() / scale, element), element)
    return Quantized(
        y=(values * scale).to(x.dtype).reshape(x.shape),
        codes=encode(values, element).reshape(x.shape),
        scale=_shared.flat(scale),
    )


def _float8_scale(groups: Tensor, element: Element, absmax_eps: float | None = None) -> Tensor:
    absmax = _shared.largest(groups)
    if absmax_eps is not None:
        absmax = absmax.clamp(min=absmax_eps)
    return (absmax / _shared.number(element.largest, groups)).float()


def _clamped(values: Tensor, element: Element) -> Tensor:
    return values.clamp(-element.largest, element.largest)


def float8_backward(gy: Tensor, x: Tensor, element: Element, group_size: int | None) -> Tensor:
    """The gradient that autograd finds, the scale's path included.

    On its way to ``x / s`` the gradient ``gy * s`` passes the cast and is itself rounded to ``element``,
    saturating. ``s`` gets ``sum(gy * q - g * x / s**2)``, and hands it, over ``largest``, to the elements
    that are the largest of their group, in equal parts.
    """
    groups, grad = _shared.in_groups(x, group_size), _shared.in_groups(gy, group_size).float()
    scale = _float8_scale(groups, element)
    scaled = groups.float() / scale
    codes = round_to(_clamped(scaled, element), element)
    to_scaled = round_to(_clamped(grad * scale, element), element)
    to_scaled = torch.where(scaled.abs() <= element.largest, to_scaled, 0.0)
    to_scale = (grad * codes - to_scaled * scaled / scale).sum(-1, keepdim=True)
    is_largest = groups.abs() == _shared.largest(groups)
    share = to_scale / element.largest / is_largest.sum(-1, keepdim=True)
    gx = to_scaled / scale + torch.where(is_largest, share, 0.0) * groups.sign()
    return gx.to(x.dtype).reshape(x.shape)


def mx(x: Tensor, element: Element, group_size: int, *, rule: ScaleRule) -> Quantized:
    """``MXTensor.to_mx``: a power of two for each block, elements half to even and saturating.

    The scale's exponent, held to [-127, 127], by rule:

    - floor: ``floor(log2 a) - emax``; ceil: one more unless ``a`` is a power of two; even: floor after
      rounding a half up to the element's mantissa bits. From the bits of ``a``: infinity counts as 2**128.
      Elements are divided by ``max(s, 2**-126)``: where the byte is 0, ``y`` is half of what it should be.
    - rceil: ``ceil(log2(a / largest))`` by the float32 log2, which just above a power of two can be one low.
      Elements are multiplied by ``2**(127 - byte)``, but by 1 for byte 0: such a block goes to 0.

    A NaN in the block: byte 255, NaN throughout.
    """
    groups = _shared.in_groups(x, group_size).float()
    absmax = _shared.largest(groups)
    if rule == "rceil":
        exponent = (absmax / _shared.number(element.largest, absmax)).log2().ceil()
    else:
        exponent = _exponent_of_bits(absmax, element, rule) - element.largest_exponent
    scale = _shared.e8m0_bytes(exponent, absmax.isnan())
    value = _shared.e8m0_value(scale)
    if rule == "rceil":
        scaled = groups * torch.where(scale == 0, 1.0, value.reciprocal())
    else:
        divisor = value.clamp(min=_SMALLEST_NORMAL)
        scaled = groups / torch.where(value.isnan(), torch.inf, divisor)  # the byte 255 read as float32 bits
    codes = cast(scaled, element)
    y = decode(codes, element) * value
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.reshape(x.shape),
        scale=_shared.flat(scale).view(torch.float8_e8m0fnu),
    )


def _exponent_of_bits(absmax: Tensor, element: Element, rule: ScaleRule) -> Tensor:
    """floor(log2) by the exponent field of float32, subnormals counted as exponent -127."""
    bits = absmax.view(torch.int32)
    if rule == "even":
        bits = bits + (1 << (22 - element.mantissa_bits))
    exponent = (bits >> 23) - 127
    return exponent + (bits & 0x7FFFFF > 0) if rule == "ceil" else exponent


def cast(x: Tensor, element: Element) -> Tensor:
    """Codes of float32 values: half to even, saturating, the sign of zero kept.

    NaN has a code in float8. In the formats without one it goes through the bit arithmetic meant for normal
    values, whose low byte remains: codes with no meaning, kept as they are.
    """
    values = _clamped(round_to(x, element), element)
    if element.nan_code is not None:
        return encode(values, element)
    codes = encode(values.nan_to_num(0.0), element)
    return torch.where(x.isnan(), _nan_leftover(x, element), codes)


def _nan_leftover(x: Tensor, element: Element) -> Tensor:
    bits = x.view(torch.int32)
    dropped = 23 - element.mantissa_bits
    magnitude = bits & 0x7FFFFFFF
    odd = (magnitude >> dropped) & 1
    shifted = (magnitude + ((element.bias - 127) << 23) + (1 << (dropped - 1)) - 1 + odd) >> dropped
    sign = (bits < 0).to(torch.int32) << (element.num_bits - 1)
    return ((shifted & 0xFF) | sign).to(torch.uint8)


def nvfp4(x: Tensor, *, two_levels: bool = True, group_size: int = 16) -> Quantized:
    """``NVFP4Tensor.to_nvfp4``: E2M1 elements, E4M3 block scales, and a float32 scale of the tensor.

    ``t = max|x| / (448 * 6)``; ``sf = e4m3(clamp((a / 6) / t, 2**-6, 448))``, so never a subnormal scale;
    ``q = RNE(clamp(x * ((1/t) / sf), -6, 6))``; ``y = q * (t * sf)``, dt. With one level there is no ``t``:
    ``x * (1/sf)`` and ``q * sf``. A tensor of zeros gives NaN with two levels, zeros with one.
    """
    groups = _shared.in_groups(x, group_size).float()
    block = _shared.largest(groups) / _shared.number(E2M1.largest, groups)
    tensor_scale = None
    if two_levels:
        tensor_scale = x.float().abs().amax().reshape(1) / _shared.number(E4M3.largest * E2M1.largest, groups)
        block = block / tensor_scale
    scale_bytes = encode(round_to(block.clamp(_E4M3_SMALLEST_NORMAL, E4M3.largest), E4M3), E4M3)
    scale = scale_bytes.view(torch.float8_e4m3fn).float()
    outer = _shared.number(1.0, groups) if tensor_scale is None else tensor_scale
    codes = cast(_clamped(groups * (outer.reciprocal() / scale), E2M1), E2M1)
    y = decode(codes, E2M1) * (outer * scale)
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.reshape(x.shape),
        scale=_shared.flat(scale_bytes).view(torch.float8_e4m3fn),
        tensor_scale=tensor_scale,
    )
