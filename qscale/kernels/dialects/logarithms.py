"""Where torch's rounded logarithms step: tables for the compiled kernels, which call no logarithm.

Some rules take the exponent of a scale from ``log2`` in float32, bfloat16 or float16. Beside a power of two
the result may be rounded onto it; how near that is depends on torch and on the CPU. So torch itself is asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: One entry for each exponent field of float32.
FIELDS = 256
_MANTISSA_BITS = 23


def last_mantissas() -> Tensor:
    """Four tables, int32: for ``ceil`` in float32, and for ``floor`` in float32, bfloat16 and float16.

    The exponent of a magnitude with field f and mantissa m is ``f - 127 + (m > table[f])``: of a rounded
    logarithm, ``floor`` is one more from the number on that is rounded up to the next power of two, ``ceil``
    from the first one on that is not rounded down to the power of two.
    """
    floors = [_last_of_float16(dtype) for dtype in (torch.bfloat16, torch.float16)]
    return torch.stack([_last(torch.ceil), _last(torch.floor), *floors])


def _last(whole: object) -> Tensor:
    """Float32, by bisection in all binades at once: logarithms do not fall."""
    fields = torch.arange(FIELDS, dtype=torch.int32)
    low = torch.zeros(FIELDS, dtype=torch.int32)  # stays
    high = torch.full((FIELDS,), 1 << _MANTISSA_BITS, dtype=torch.int32)  # does not, or is out of the binade
    for _ in range(_MANTISSA_BITS):
        middle = (low + high) // 2
        value = (fields << _MANTISSA_BITS | middle).view(torch.float32)
        stays = whole(value.log2()) <= fields - 127  # type: ignore[operator]
        low, high = torch.where(stays, middle, low), torch.where(stays, high, middle)
    return low


def _last_of_float16(dtype: torch.dtype) -> Tensor:
    """Of all finite magnitudes of a 16-bit dtype, in order, as float32 has them."""
    every = torch.arange(2**15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    bits = every.float().view(torch.int32)
    field, mantissa = bits >> _MANTISSA_BITS, bits & (1 << _MANTISSA_BITS) - 1
    stays = every.log2().floor() <= field - 127
    first = torch.searchsorted(field, torch.arange(FIELDS, dtype=torch.int32))
    count = torch.bincount(field[stays], minlength=FIELDS)
    last = mantissa[(first + count - 1).clamp(0, mantissa.numel() - 1)]
    return torch.where(count > 0, last, 0)
