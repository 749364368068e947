"""Sums and maxima of groups along the last axis, the last group of which may be short, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.formats import QuantSpec


def group_count(spec: QuantSpec, axis: int) -> int:
    """Groups of an axis of ``axis`` elements."""
    return -(-axis // max(1, spec.group_length(axis)))


def grouped(x: Tensor, length: int) -> Tensor:
    """``(..., groups, length)``; zeros fill up a short last group."""
    if missing := -x.shape[-1] % length:
        x = torch.nn.functional.pad(x, (0, missing))
    groups: Tensor = x.unflatten(-1, (-1, length))  # type: ignore[no-untyped-call]
    return groups


def lengths(axis: int, length: int, like: Tensor) -> Tensor:
    """Elements of each group of an axis, float32."""
    count = -(-axis // length)
    sizes = torch.full((count,), float(length), device=like.device)
    sizes[-1] = axis - (count - 1) * length
    return sizes


def group_means(x: Tensor, spec: QuantSpec) -> Tensor:
    """The mean of each group, ``(..., groups)``, float32."""
    axis = x.shape[-1]
    length = spec.group_length(axis)
    groups = grouped(x.float(), length)
    return groups.mean(-1) if axis % length == 0 else groups.sum(-1) / lengths(axis, length, x)


def group_rms(x: Tensor, spec: QuantSpec) -> Tensor:
    """The root mean square of each group, ``(..., groups)``, float32."""
    axis = x.shape[-1]
    length = spec.group_length(axis)
    norms = torch.linalg.vector_norm(grouped(x, length), dim=-1, dtype=torch.float32)
    rms: Tensor = norms.div_(length**0.5 if axis % length == 0 else lengths(axis, length, x).sqrt())
    return rms


def group_absmax(x: Tensor, spec: QuantSpec) -> Tensor:
    """The largest magnitude of each group, ``(..., groups)``, float32."""
    length = spec.group_length(x.shape[-1])
    return grouped(x, length).abs().amax(-1).float()


def spread(values: Tensor, spec: QuantSpec, axis: int) -> Tensor:
    """One value for each element from one for each group: ``(..., groups)`` to ``(..., axis)``."""
    return values.repeat_interleave(spec.group_length(axis), -1)[..., :axis]
