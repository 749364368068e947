"""The Hadamard transform in plain torch: its bits are the definition that the compiled kernels equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qscale.kernels.backends import DTYPES
from qscale.kernels.hadamard_matrices import base_matrix, decompose

#: For ``block``: the whole last axis is one block.
WHOLE_AXIS = -1


def hadamard(x: Tensor, block: int, signs: Tensor | None, transpose: bool) -> Tensor:
    """Blocks of the last axis times ``H / sqrt(n)``, where ``H = H_m (x) Sylvester_{n/m}``.

    Each step is in float32, in this order, which fixes every bit:

    1. ``v = x * signs`` (not for the transpose).
    2. For h = 1, 2, 4, ... below n/m, in each of the m rows of n/m elements: elements i and i + h, where
       bit h of i is 0, become their sum and their difference.
    3. For m > 1, row r becomes ``H_m[r, 0] v[0] + H_m[r, 1] v[1] + ...``, added from the left; with the
       transpose, ``H_m[0, r] v[0] + ...``.
    4. Times ``float32(1 / sqrt(n))``, rounded to the dtype of x; then, for the transpose, times ``signs``.
    """
    axis = x.shape[-1] if x.dim() else 1
    size = axis if block == WHOLE_AXIS else block
    _check(x, axis, size, signs)
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    base, inner = decompose(size) or (1, size)
    v = x.reshape(-1, axis).float()
    if signs is not None:
        signs = signs.repeat(axis // signs.numel())
        v = v if transpose else v * signs
    v = v.reshape(-1, base, inner)
    h = 1
    while h < inner:
        first, second = v.reshape(-1, base, inner // (2 * h), 2, h).unbind(dim=3)
        v = torch.stack((first + second, first - second), dim=3).reshape(-1, base, inner)
        h *= 2
    if base > 1:
        v = _mixed(v, transpose)
    scale = torch.full((), 1.0 / math.sqrt(size), dtype=torch.float32, device=x.device)
    y = (v * scale).to(x.dtype).reshape(-1, axis)
    if signs is not None and transpose:
        y = y * signs.to(x.dtype)
    return y.reshape(x.shape).contiguous()


def _mixed(v: Tensor, transpose: bool) -> Tensor:
    """The base matrix along dimension 1, column after column; a product with 1 or -1 is exact."""
    matrix = torch.tensor(base_matrix(v.shape[1]), dtype=torch.float32, device=v.device)
    matrix = matrix.T if transpose else matrix
    total = v[:, :1] * matrix[:, 0, None]
    for column in range(1, v.shape[1]):
        total = total + v[:, column : column + 1] * matrix[:, column, None]
    return total


def _check(x: Tensor, axis: int, size: int, signs: Tensor | None) -> None:
    """The same demands as csrc/bindings/hadamard.cpp."""
    if x.dtype not in DTYPES:
        raise RuntimeError(f"hadamard: x has dtype {x.dtype}; wanted float32, bfloat16 or float16")
    if size < 1 and (size, axis) != (0, 0):
        raise RuntimeError(f"hadamard: block={size}; wanted at least 1, or -1 for the whole last axis")
    if size > 0 and (axis % size or decompose(size) is None):
        raise RuntimeError(
            f"hadamard: blocks of {size} on a last axis of {axis}; wanted a supported size that divides it"
        )
    if signs is None:
        return
    if signs.dtype != torch.float32 or signs.dim() != 1 or signs.numel() not in (size, axis):
        raise RuntimeError(
            f"hadamard: signs has dtype {signs.dtype} and shape {list(signs.shape)}; "
            f"wanted float32, one dimension, length {size} or {axis}"
        )
    if not bool((signs.abs() == 1).all()):
        raise RuntimeError("hadamard: signs holds a value other than 1 and -1")
