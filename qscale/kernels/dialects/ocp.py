"""OCP Microscaling Formats 1.0: the conversion that the specification describes, as a reference of its own.

Where the specification leaves the choice, this module takes: ties to even, saturation, and NaN for every
element of a block that holds a NaN or an infinity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import Element, element_of, encode, round_to

BLOCK = 32
_INT8_STEP = 2.0**-6
_INT8_LARGEST = 127


def mx_quantizer(name: str) -> Callable[[Tensor], Quantized]:
    """The quantizer of an MX format by name."""
    if name == "mxint8":
        return mxint8
    element = element_of(name)
    return lambda x: mxfp(x, element)


def mxfp(x: Tensor, element: Element) -> Quantized:
    """``e = floor(log2 a) - emax``, held to [-127, 127], ``y = RNE(x / 2**e) * 2**e``; section 6.3."""
    groups, exponent, broken = _blocks(x, element.largest_exponent)
    scale, value = _scale(exponent, broken)
    values = round_to(groups / value, element).clamp(-element.largest, element.largest)
    codes = encode(values.nan_to_num(0.0) if element.nan_code is None else values, element)
    return _result(x, values * value, codes, scale)


def mxint8(x: Tensor) -> Quantized:
    """The same with fixed point elements ``k / 64``, ``k`` from -127 to 127, the codes, and ``emax = 0``."""
    groups, exponent, broken = _blocks(x, 0)
    scale, value = _scale(exponent, broken)
    codes = (groups / value / _INT8_STEP).round().clamp(-_INT8_LARGEST, _INT8_LARGEST)
    return _result(x, codes * _INT8_STEP * value, codes.nan_to_num(0.0).to(torch.int8), scale)


def _blocks(x: Tensor, emax: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks in float32, zeros filling the last; exponents; and which blocks are not finite."""
    padded = torch.nn.functional.pad(x.float(), (0, -x.shape[-1] % BLOCK))
    groups = _shared.in_groups(padded, BLOCK)
    absmax = _shared.largest(groups)
    finite = absmax.isfinite()
    exponent = torch.where(finite, absmax, 1.0).frexp().exponent - 1
    return groups, torch.where(absmax == 0, -127, exponent - emax), ~finite


def _scale(exponent: Tensor, broken: Tensor) -> tuple[Tensor, Tensor]:
    scale = _shared.e8m0_bytes(exponent, broken)
    return scale, _shared.e8m0_value(scale)


def _result(x: Tensor, y: Tensor, codes: Tensor, scale: Tensor) -> Quantized:
    return Quantized(
        y=_unpadded(y, x).to(x.dtype),
        codes=_unpadded(codes, x),
        scale=_shared.flat(scale).view(torch.float8_e8m0fnu),
    )


def _unpadded(blocks: Tensor, x: Tensor) -> Tensor:
    return blocks.flatten(1)[:, : x.shape[-1]].reshape(x.shape)
