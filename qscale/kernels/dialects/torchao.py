"""torchao 0.18.0, integers: the QAT fake quantizers and the affine primitives under them.

Notation: a, min, max over the group; "dt" the input's dtype, in which every scale is computed; RNE half to
even. ``1/s`` and ``x * (1/s)`` are two roundings, in the type that torch gives to both operands.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import E4M3
from qscale.kernels.dialects.torchao_floats import float8

Mapping = Literal["symmetric", "noclip", "asymmetric"]

#: Floor of the scales that Int4WeightFakeQuantizer and the tinygemm scheme take.
_GEMM_EPS = 1e-6
_E4M3_ABSMAX_EPS = 1e-12


def int_range(num_bits: int) -> tuple[int, int]:
    """``(-2**(b-1), 2**(b-1) - 1)``."""
    half = 2 ** (num_bits - 1)
    return -half, half - 1


def choose_qparams(groups: Tensor, mapping: Mapping, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Scale (dt) and zero point (int32) of each group: ``choose_qparams_affine``.

    symmetric ``s = a / ((qmax - qmin) / 2)``; noclip ``s = max(min / qmin, max / qmax)``; asymmetric
    ``s = (max - min) / (qmax - qmin)`` and ``zp = clamp(qmin - RNE(min / s))``; min and max take in 0.
    ``s`` is at least the smallest normal of dt, so a group of zeros has that scale.
    """
    zero = _shared.number(0.0, groups)
    low = torch.minimum(groups.amin(-1, keepdim=True), zero)
    high = torch.maximum(groups.amax(-1, keepdim=True), zero)
    eps = torch.finfo(groups.dtype).smallest_normal
    if mapping == "symmetric":
        scale = torch.maximum(-low, high) / _shared.number((qmax - qmin) / 2, groups)
    elif mapping == "noclip":
        scale = torch.maximum(low / _shared.number(qmin, groups), high / _shared.number(qmax, groups))
    else:
        scale = (high - low) / _shared.number(qmax - qmin, groups)
    scale = scale.clamp(min=eps)
    if mapping != "asymmetric":
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    zero_point = qmin - torch.round(low / scale)
    return scale, zero_point.clamp(qmin, qmax).to(torch.int32)


def tinygemm_qparams(groups: Tensor, num_bits: int) -> tuple[Tensor, Tensor]:
    """``s = max((max - min) / (2**b - 1), 1e-6)`` and a float zero point ``min + s * 2**(b-1)``, in dt.

    min and max do not take in 0.
    """
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / _shared.number(2**num_bits - 1, groups)).clamp(min=_GEMM_EPS)
    return scale, low + scale * _shared.number(2 ** (num_bits - 1), groups)


def affine(groups: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Codes and values: ``q = clamp(RNE(x * (1/s)) + zp)``, ``y = (q - zp) * s``, then dt.

    The addition makes a -0 into +0. ``q - zp`` is rounded to dt, which shows for a zero point out of range.
    """
    codes = _unclamped(groups, scale, zero_point).clamp(qmin, qmax)
    return codes, ((codes - zero_point).to(groups.dtype) * scale).to(groups.dtype)


def _unclamped(groups: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.round(groups * scale.reciprocal()) + zero_point


def intx_fake_quantizer(
    x: Tensor,
    num_bits: int,
    group_size: int | None,
    *,
    mapping: Mapping = "symmetric",
    float_zero_point: bool = False,
    scale_dtype: torch.dtype = torch.float32,
    unsigned: bool = False,
) -> Quantized:
    """``IntxFakeQuantizer``: the scale goes from dt to ``scale_dtype`` before the values meet it.

    ``float_zero_point`` is what the library does for asymmetric groups (not tokens): the zero point of the
    tinygemm scheme, cut to an integer toward zero, is then used with the format's own range.
    """
    groups = _shared.in_groups(x, group_size)
    scale, zero_point, qmin, qmax = _fake_quantizer_qparams(
        groups, num_bits, mapping, float_zero_point, unsigned
    )
    scale = scale.to(scale_dtype)
    codes, y = affine(groups, scale, zero_point, qmin, qmax)
    return Quantized(
        y=y.reshape(x.shape),
        codes=codes.reshape(x.shape).to(torch.uint8 if unsigned else torch.int8),
        scale=_shared.flat(scale),
        zero_point=_shared.flat(zero_point),
    )


def _fake_quantizer_qparams(
    groups: Tensor, num_bits: int, mapping: Mapping, float_zero_point: bool, unsigned: bool
) -> tuple[Tensor, Tensor, int, int]:
    qmin, qmax = (0, 2**num_bits - 1) if unsigned else int_range(num_bits)
    if float_zero_point:
        scale, zero_point = tinygemm_qparams(groups, num_bits)
        return scale, zero_point.to(torch.int32), qmin, qmax
    return *choose_qparams(groups, mapping, qmin, qmax), qmin, qmax


def intx_fake_quantizer_backward(
    gy: Tensor,
    x: Tensor,
    num_bits: int,
    group_size: int | None,
    *,
    mapping: Mapping = "symmetric",
    float_zero_point: bool = False,
) -> Tensor:
    """``gx = (gy * s) * (1/s)``, both products rounded to dt; 0 where the unclamped code is out of range.

    Not exactly ``gy``: the library has a gradient of its own only for the rounding.
    """
    groups = _shared.in_groups(x, group_size)
    scale, zero_point, qmin, qmax = _fake_quantizer_qparams(
        groups, num_bits, mapping, float_zero_point, unsigned=False
    )
    scale = scale.float()
    raw = _unclamped(groups, scale, zero_point)
    inside = (raw >= qmin) & (raw <= qmax)
    to_codes = (_shared.in_groups(gy, group_size) * scale).to(x.dtype)
    gx = torch.where(inside, (to_codes * scale.reciprocal()).to(x.dtype), 0.0)
    return gx.reshape(x.shape)


def affine_primitives(
    x: Tensor,
    num_bits: int,
    group_size: int | None,
    *,
    mapping: Mapping = "symmetric",
    scale_dtype: torch.dtype | None = None,
) -> Quantized:
    """``choose_qparams_affine``, ``quantize_affine``, ``dequantize_affine``; the scale stays in dt.

    With a 16-bit dt, ``1/s``, ``x * (1/s)`` and ``(q - zp) * s`` are all rounded to it.
    """
    groups = _shared.in_groups(x, group_size)
    qmin, qmax = int_range(num_bits)
    scale, zero_point = choose_qparams(groups, mapping, qmin, qmax)
    scale = scale.to(scale_dtype or x.dtype)
    codes = _unclamped(groups, scale, zero_point).clamp(qmin, qmax).to(torch.int8)
    y = (codes.to(scale.dtype) - zero_point.to(scale.dtype)) * scale
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.reshape(x.shape),
        scale=_shared.flat(scale),
        zero_point=_shared.flat(zero_point),
    )


def tinygemm(x: Tensor, num_bits: int, group_size: int) -> Quantized:
    """The tinygemm scheme, all in dt, codes from 0.

    ``q = clamp(RNE((x - (zp - s * mid)) / s), 0, 2**b - 1)``, ``y = (q - mid) * s + zp``, ``mid = 2**(b-1)``.
    """
    groups = _shared.in_groups(x, group_size)
    scale, zero_point = tinygemm_qparams(groups, num_bits)
    middle = _shared.number(2 ** (num_bits - 1), groups)
    low = zero_point - scale * middle
    codes = torch.round((groups - low) / scale).clamp(0, 2**num_bits - 1)
    y = (codes - middle) * scale + zero_point
    return Quantized(
        y=y.reshape(x.shape),
        codes=codes.reshape(x.shape).to(torch.uint8),
        scale=_shared.flat(scale),
        zero_point=_shared.flat(zero_point),
    )


def int4_weight_fake_quantizer_e4m3(x: Tensor, group_size: int) -> Tensor:
    """``Int4WeightFakeQuantizer`` beside float8 activations: e4m3 by rows, then int4 by groups, in dt.

    The rows as by ``float8``, ``a`` at least 1e-12; then ``s = max(a / 8, 1e-6)`` of the group and
    ``q = clamp(RNE(x * (1/s)) + 0, -8, 7)``.
    """
    values = float8(x, E4M3, None, absmax_eps=_E4M3_ABSMAX_EPS).y
    groups = _shared.in_groups(values, group_size)
    scale = (_shared.largest(groups) / _shared.number(8.0, groups)).clamp(min=_GEMM_EPS)
    zero_point = torch.zeros_like(scale)
    _, y = affine(groups, scale, zero_point, -8, 7)
    return y.reshape(x.shape)


def int4_weight_fake_quantizer_bf16(x: Tensor, group_size: int) -> Tensor:
    """``Int4WeightFakeQuantizer`` beside bfloat16 activations, in float32.

    ``s = max(max - min, 1e-6) / 15``, ``q = clamp(RNE((x - min) / s), 0, 15)``,
    ``y = (q - 8) * s + (min + 8s)``.
    """
    groups = _shared.in_groups(x, group_size).float()
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low).clamp(min=_GEMM_EPS) / _shared.number(15.0, groups)
    codes = torch.round((groups - low) / scale).clamp(0, 15)
    y = (codes - 8) * scale + (low + scale * 8)
    return y.to(x.dtype).reshape(x.shape)


def intx_range_learning(
    x: Tensor, scale: Tensor, zero_point: Tensor, num_bits: int, group_size: int | None
) -> Tensor:
    """``IntxFakeQuantizer`` with learned ranges: scale and float zero point ``(rows, groups)`` are given."""
    groups = _shared.in_groups(x, group_size)
    _, y = affine(groups, scale.unsqueeze(-1), _rounded(zero_point), *int_range(num_bits))
    return y.reshape(x.shape)


def intx_range_learning_backward(
    gy: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, num_bits: int, group_size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, scale and zero point, with ``r = RNE(x * (1/s)) + zp`` and ``c`` its clamp.

    ``g = gy * s`` where ``r`` is in range, else 0; ``gx = g * (1/s)``, ``gzp = sum(g - gy * s)`` and
    ``gs = sum(gy * (c - zp)) - sum(g * x) * (1/s)**2``.
    """
    groups, grad = _shared.in_groups(x, group_size), _shared.in_groups(gy, group_size)
    s, zp = scale.unsqueeze(-1), _rounded(zero_point)
    qmin, qmax = int_range(num_bits)
    raw = _unclamped(groups, s, zp)
    to_codes = grad * s
    inside = torch.where((raw >= qmin) & (raw <= qmax), to_codes, 0.0)
    inverse = s.reciprocal()
    to_inverse = (inside * groups).sum(-1)
    gscale = (grad * (raw.clamp(qmin, qmax) - zp)).sum(-1) - to_inverse * inverse.squeeze(-1).square()
    return (inside * inverse).reshape(x.shape), gscale, (inside - to_codes).sum(-1)


def _rounded(zero_point: Tensor) -> Tensor:
    return torch.round(zero_point).unsqueeze(-1)
