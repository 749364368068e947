"""nvidia-modelopt 0.47.0, the eager path on a CPU: TensorQuantizer and the QTensor classes.

Notation: a over the group; "dt" the input's dtype; steps are float32 unless dt is named. The MX and NVFP4
fake-quantization kernels of the library need CUDA and are not covered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import E2M1, E4M3, decode, encode, round_to

#: An absmax up to here counts as zero.
_ABSMAX_EPS = 2.0**-24
_SMALLEST_E4M3 = 2.0**-9
#: The code of NaN in the library's E2M1 by thresholds.
_E2M1_NAN_CODE = 7

#: NF4 to four decimals, as the library has it.
NF4 = (
    *(-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0),
    *(0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0),
)


def _result(
    x: Tensor, y: Tensor, codes: Tensor, scale: Tensor, tensor_scale: Tensor | None = None
) -> Quantized:
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.reshape(x.shape),
        scale=_shared.flat(scale),
        tensor_scale=tensor_scale,
    )


def tensor_quantizer_int(
    x: Tensor,
    num_bits: int,
    group_size: int | None,
    *,
    narrow_range: bool = True,
    amax: Tensor | None = None,
) -> Quantized:
    """``scale = qmax / a`` (one division), ``y = clamp(RNE(x * scale), -qmax, qmax) / scale``, then dt.

    The lower bound is ``-qmax - 1`` without ``narrow_range``. A group with ``a <= 2**-24`` gives zeros, the
    sign kept. ``amax`` gives ``a`` of the groups instead of their own.
    """
    groups = _shared.in_groups(x, group_size)
    absmax = (_shared.largest(groups) if amax is None else amax.reshape(*groups.shape[:2], 1)).float()
    qmax = 2 ** (num_bits - 1) - 1
    scale = _shared.number(qmax, absmax) / absmax
    scale = torch.where(absmax <= _ABSMAX_EPS, 0.0, scale)
    codes = (groups.float() * scale).round().clamp(-qmax if narrow_range else -qmax - 1, qmax)
    y = codes / torch.where(absmax <= _ABSMAX_EPS, 1.0, scale)
    return _result(x, y, codes.nan_to_num(0.0).to(torch.int8), scale)


def tensor_quantizer_e4m3(x: Tensor, group_size: int | None, *, amax: Tensor | None = None) -> Quantized:
    """``scale = (1/a) * 448``, 1 where ``a <= 2**-24``; ``y = e4m3(clamp(x * scale)) * (1/scale)``, dt."""
    groups = _shared.in_groups(x, group_size)
    absmax = (_shared.largest(groups) if amax is None else amax.reshape(*groups.shape[:2], 1)).float()
    scale = absmax.reciprocal() * E4M3.largest
    scale = torch.where(absmax <= _ABSMAX_EPS, 1.0, scale)
    values = round_to((groups.float() * scale).clamp(-E4M3.largest, E4M3.largest), E4M3)
    return _result(x, values * scale.reciprocal(), encode(values, E4M3), scale)


def tensor_quantizer_backward(
    gy: Tensor, x: Tensor, group_size: int | None, amax: Tensor, *, pass_through: bool = True
) -> Tensor:
    """``gx = gy`` everywhere, the library's default; else 0 where ``|x| > amax`` of the group."""
    if pass_through:
        return gy
    groups = _shared.in_groups(x, group_size)
    inside = groups.abs() <= amax.reshape(*groups.shape[:2], 1)
    return torch.where(inside.reshape(x.shape), gy, 0.0)


def mxfp4(x: Tensor, group_size: int = 32) -> Quantized:
    """``MXFP4QTensor``: exponent ``ceil(log2(a / 6))`` by the float log2; element ties toward zero.

    The sign bit is set unless ``x > 0``: inputs of zero get it. A group with NaN or infinity has byte 0 and
    becomes -0 throughout.
    """
    groups = _shared.in_groups(x, group_size)
    scale, value = _rceil(groups, E2M1.largest)
    scaled = groups.float() / value
    values = _ties_toward_zero(scaled.abs().clamp(max=E2M1.largest))
    magnitude = encode(values.abs(), E2M1)
    codes = magnitude + torch.where(scaled > 0, 0, 8).to(torch.uint8)
    finite = _shared.largest(groups).isfinite()
    codes, scale = (
        torch.where(finite, codes, 8).to(torch.uint8),
        torch.where(finite, scale, 0).to(torch.uint8),
    )
    y = decode(codes, E2M1) * value
    return _result(x, y, codes, scale)


def _ties_toward_zero(magnitude: Tensor) -> Tensor:
    """E2M1 of a magnitude, a tie to the smaller neighbour."""
    below = round_to(magnitude, E2M1, "zero")
    above = round_to(magnitude, E2M1, "up")
    return torch.where(magnitude - below > above - magnitude, above, below)


def _rceil(groups: Tensor, element_max: float) -> tuple[Tensor, Tensor]:
    absmax = _shared.largest(groups).float()
    exponent = (absmax / _shared.number(element_max, absmax)).log2().ceil()
    scale = _shared.e8m0_bytes(exponent.nan_to_num(nan=-127.0), torch.zeros_like(absmax, dtype=torch.bool))
    return scale, _shared.e8m0_value(scale)


def mxfp8(x: Tensor, group_size: int = 32) -> Quantized:
    """``MXFP8QTensor``: E4M3, exponent ``ceil(log2(a / 448))`` by the float log2, elements half to even."""
    groups = _shared.in_groups(x, group_size)
    scale, value = _rceil(groups, E4M3.largest)
    values = round_to((groups.float() / value).clamp(-E4M3.largest, E4M3.largest), E4M3)
    return _result(x, values * value, encode(values, E4M3), scale)


def nvfp4(x: Tensor, group_size: int = 16) -> Quantized:
    """``NVFP4QTensor``: ``t = max|x| / (6 * 448)``, ``sf = e4m3(clamp(a / (6 t), 2**-9, 448))``.

    Zero groups have ``sf = 1``. ``q = RNE(x / (sf * t))``, true division; zeros decode to +0; a tensor of
    zeros gives NaN.
    """
    groups = _shared.in_groups(x, group_size)
    tensor_scale = (x.abs().amax().float() / _shared.number(E2M1.largest * E4M3.largest, x.float())).reshape(
        1
    )
    block = _shared.largest(groups).float() / (E2M1.largest * tensor_scale)
    block = torch.where(block == 0, 1.0, block).clamp(_SMALLEST_E4M3, E4M3.largest)
    scale = encode(round_to(block, E4M3), E4M3).view(torch.float8_e4m3fn)
    scaled = groups.float() / (scale.float() * tensor_scale)
    codes = cast_e2m1(scaled)
    y = (decode(codes, E2M1) + 0.0) * (scale.float() * tensor_scale)
    return _result(x, y, codes, scale, tensor_scale)


def cast_e2m1(x: Tensor) -> Tensor:
    """E2M1 codes, half to even, saturating; -0 becomes +0, small negatives keep the sign, NaN becomes 7."""
    values = round_to(x, E2M1).clamp(-E2M1.largest, E2M1.largest)
    codes = encode(torch.where(x == 0, 0.0, values).nan_to_num(0.0), E2M1)
    return torch.where(x.isnan(), _E2M1_NAN_CODE, codes).to(torch.uint8)


def int4(x: Tensor, group_size: int) -> Quantized:
    """``INT4QTensor``: ``scale = (1/a) * 7`` in dt, ``q = clamp(RNE(x * scale), -8, 7)``, ``y = q / scale``.

    Codes are stored + 8. A group of zeros has the scale Inf and codes 0.
    """
    groups = _shared.in_groups(x, group_size)
    scale = _shared.largest(groups).reciprocal() * _shared.number(7.0, groups)
    codes = (groups * scale).round().clamp(-8, 7)
    stored = (codes + 8).nan_to_num(0.0).to(torch.uint8)
    y = (stored.to(x.dtype) - 8) / scale
    return _result(x, y, stored, scale)


def nf4(x: Tensor, group_size: int) -> Quantized:
    """``NF4QTensor`` without double quantization: ``scale = a``, the value of the table nearest to ``x / a``.

    The table is rounded to bfloat16, quotient and distance are in dt; of equal distances the lower code wins.
    """
    groups = _shared.in_groups(x.reshape(1, -1), group_size)
    scale = _shared.largest(groups)
    table = torch.tensor(NF4, dtype=torch.bfloat16, device=x.device)
    distance = ((groups / scale).unsqueeze(-1) - table).abs()
    codes = distance.argmin(dim=-1).to(torch.uint8)
    y = table[codes.long()] * scale
    return _result(x, y, codes, scale)
