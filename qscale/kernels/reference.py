"""Every op in plain torch: what the compiled kernels must equal, and what runs where there are none."""

from __future__ import annotations

import torch
from torch import Tensor

#: For ``group_size``: the whole last axis is one group.
WHOLE_AXIS = -1

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fake_quant_int(x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int) -> Tensor:
    """Symmetric integer fake quantization in groups of ``group_size`` along the last axis.

    Each step is one float32 operation: ``s = max|x| / denominator``, ``q = clamp(rint(x / s), qmin, qmax)``,
    ``y = q * s``, then one rounding to the dtype of ``x``.
    """
    _check(x, qmin, qmax, denominator, group_size)
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    groups = _in_groups(x.float(), group_size)
    absmax = groups.abs().amax(dim=-1, keepdim=True)
    # The divisor is a tensor on the device: CUDA multiplies by the reciprocal of a Python number.
    scale = absmax / torch.full((), denominator, dtype=torch.float32, device=x.device)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = (groups / scale).round().clamp(qmin, qmax)
    return _out_of_groups(codes * scale, x).to(x.dtype)


def _check(x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int) -> None:
    """The same demands as csrc/bindings/fake_quant.cpp."""
    largest = 2**20
    if x.dtype not in DTYPES:
        raise RuntimeError(f"fake_quant_int: x has dtype {x.dtype}; wanted float32, bfloat16 or float16")
    if not -largest <= qmin < 0 < qmax <= largest:
        raise RuntimeError(
            f"fake_quant_int: qmin={qmin}, qmax={qmax}; wanted -2**20 <= qmin < 0 < qmax <= 2**20"
        )
    if not 0 < denominator <= largest:
        raise RuntimeError(f"fake_quant_int: denominator={denominator}; wanted 1 to 2**20")
    if group_size != WHOLE_AXIS and group_size < 1:
        raise RuntimeError(
            f"fake_quant_int: group_size={group_size}; wanted at least 1, or -1 for the whole last axis"
        )


def _in_groups(x: Tensor, group_size: int) -> Tensor:
    """``(..., K)`` as ``(rows, groups, group)``; zeros fill a short last group and change no maximum."""
    axis = x.shape[-1] if x.dim() else 1
    group = axis if group_size == WHOLE_AXIS else min(group_size, axis)
    rows = x.reshape(-1, axis)
    if short := -axis % group:
        rows = torch.nn.functional.pad(rows, (0, short))
    return rows.reshape(rows.shape[0], -1, group)


def _out_of_groups(groups: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_in_groups`, in the shape of ``like``."""
    axis = like.shape[-1] if like.dim() else 1
    return groups.flatten(start_dim=1)[:, :axis].reshape(like.shape).contiguous()
