"""What the dialects share: the result, groups of elements, E8M0 scales, numbers as exact tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qscale.kernels.dialects.elements import power_of_two

#: The biased exponent of an E8M0 scale that is NaN.
E8M0_NAN = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What a library returns for a tensor, None where it has no such thing."""

    y: Tensor  #: dequantized
    codes: Tensor | None = None  #: integers; uint8 for the bits of small floats and the places of codebooks
    scale: Tensor | None = None  #: (rows, groups), as the library keeps it
    zero_point: Tensor | None = None
    tensor_scale: Tensor | None = None  #: the outer level of a scale with two


def number(value: float, like: Tensor) -> Tensor:
    """A tensor of no dimension beside ``like``: CUDA divides by it, and not by a rounded reciprocal."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def in_groups(x: Tensor, group_size: int | None) -> Tensor:
    """``(..., K)`` as ``(rows, groups, group)``, whole groups only; None makes a row one group."""
    rows = x.reshape(-1, x.shape[-1])
    return rows.reshape(rows.shape[0], -1, rows.shape[-1] if group_size is None else group_size)


def largest(groups: Tensor) -> Tensor:
    """``a = max|x|`` of each group, the axis kept; NaN where there is one."""
    return groups.abs().amax(dim=-1, keepdim=True)


def flat(scale: Tensor) -> Tensor:
    """The scales of groups, ``(rows, groups, 1)``, without the last axis."""
    return scale.squeeze(-1)


def e8m0_bytes(exponent: Tensor, nan: Tensor) -> Tensor:
    """Biased bytes of exponents held to ``[-127, 127]``; 255 where ``nan``."""
    biased = exponent.clamp(-127, 127).to(torch.int32) + 127
    return torch.where(nan, E8M0_NAN, biased).to(torch.uint8)


def e8m0_value(scale_bytes: Tensor) -> Tensor:
    """``2**(byte - 127)`` in float32, NaN for byte 255."""
    value = power_of_two(scale_bytes.to(torch.int32).clamp(max=254) - 127)
    return torch.where(scale_bytes == E8M0_NAN, torch.nan, value)
