"""microxcaling, commit 7bc4195 (2024-08-19), custom_cuda=False: the MX emulation in the input's dtype ("dt").

Logarithms and floors run in dt too: just below a power of two an exponent can be one too high, in bfloat16
often. Integer elements are fixed point ``1.xxx`` and share the code with the floats, without an exponent.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qscale.formats.grids import Grid

Rounding = Literal["nearest", "even", "floor"]

_SCALE_EMAX = 127  # of an 8-bit shared exponent
_FLOAT32_BIAS = 127
_SMALLEST_NORMAL = 2.0**-126


def quantize_mx(
    x: Tensor,
    grid: Grid,
    block: int = 32,
    rounding: Rounding = "nearest",
    *,
    axis: int = -1,
    flush_subnormals: bool = False,
) -> Tensor:
    """``y = cast(x / 2**e) * 2**e`` with ``e = floor(log2 a) - emax`` of each block along ``axis``.

    A block of zeros takes ``a = 2**-126``. ``e`` above 127 becomes NaN, below -127 becomes -127. A short last
    block is filled with zeros. ``flush_subnormals`` makes blocks zero where ``floor(log2 a) <= -127``.
    """
    rows = x.movedim(axis, -1)
    length = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, -length % block))
    blocks = padded.reshape(*padded.shape[:-1], -1, block)
    absmax = blocks.abs().amax(-1, keepdim=True)
    exponent = (absmax + _SMALLEST_NORMAL * (absmax == 0).to(x.dtype)).log2().floor()
    if flush_subnormals:
        blocks = blocks * (exponent > -_FLOAT32_BIAS).to(x.dtype)
    exponent = exponent - grid.max_exponent
    exponent = torch.where(exponent > _SCALE_EMAX, torch.nan, exponent)
    exponent = torch.where(exponent < -_SCALE_EMAX, -_SCALE_EMAX, exponent)
    scale = exponent.exp2()
    y = cast(blocks / scale, grid, rounding) * scale
    return y.flatten(-2)[..., :length].movedim(-1, axis)


def cast(x: Tensor, grid: Grid, rounding: Rounding = "nearest") -> Tensor:
    """Round to the element's values, saturating; infinity and NaN stay.

    ``n = |x| / 2**e * 2**f`` with ``e = max(floor(log2 |x|), emin)`` and f fraction bits; nearest takes
    ``floor(n + 1/2)``, a half away from zero; even the same, less one where ``n - 1/2`` is even; floor cuts.
    The sum is rounded, so 0.49999997 becomes 1. The sign is a factor: -0 becomes +0, a small negative -0.
    """
    if grid.exponent_bits:
        exponent = (x.abs() + (x == 0).to(x.dtype)).log2().floor().clamp(min=grid.min_exponent)
        fraction_bits, binade = grid.mantissa_bits, exponent.exp2()
    else:
        # Fixed point: one of its bits stands before the point.
        fraction_bits, binade = grid.mantissa_bits - 1, torch.ones_like(x)
    factor = torch.full_like(x, 2.0**fraction_bits)
    scaled = x / binade * factor
    magnitude = scaled.abs()
    if rounding == "floor":
        rounded = magnitude.floor()
    else:
        rounded = (magnitude + 0.5).floor()
        if rounding == "even":
            rounded = rounded - ((magnitude - 0.5) % 2 == 0).to(x.dtype)
    values = scaled.sign() * rounded / factor * binade
    values = values.clamp(-grid.max, grid.max)
    return torch.where(x.isfinite(), values, x)
