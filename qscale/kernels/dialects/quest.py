"""QuEST, commit c295afd (2025-05-30): scales from the mean square, and gradients where the error is small."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: The scale of least mean squared error for a Gaussian of unit variance, by bits: arXiv:2502.05003.
GAUSSIAN_SCALES = {
    1: 0.7978845587140913,
    2: 1.4935346200015913,
    3: 2.051068354131873,
    4: 2.513930578568423,
    5: 2.9160938834961225,
    6: 3.276597282593217,
    7: 3.6010497188221655,
    8: 3.884938678807525,
}
_EPS = 1e-8


class TrustQuantized(NamedTuple):
    """A quantized tensor, and what its gradient needs."""

    y: Tensor
    mask: Tensor  #: True where the gradient passes
    std: Tensor  #: sqrt(mean(x**2)) of each row


def row_std(x: Tensor) -> Tensor:
    """``sqrt(mean(x**2))`` of each row, in its dtype; the root is rounded to nearest on every CPU.

    torch takes the root of a float32 tensor from MKL, whose last bit depends on the CPU.
    """
    mean_square = x.square().mean(-1, keepdim=True)
    return mean_square.double().sqrt().to(x.dtype)


def _scale(x: Tensor, num_bits: int, std: Tensor | None) -> tuple[Tensor, Tensor]:
    std = row_std(x) if std is None else std
    return std, GAUSSIAN_SCALES[num_bits] * std + _EPS


def _rounded(x: Tensor, scale: Tensor, num_bits: int, centered: bool) -> Tensor:
    """``RNE(clip(x) / step + 1/2) * step - step/2``, ``step = 2 scale / (2**b - 1)``: a grid without zero.

    Uncentred, with zero: ``step = 2 scale / 2**b``, clipped to ``[-scale * (2**b - 2) / 2**b, scale]``.
    """
    # In place: on large tensors each fresh one costs more than the arithmetic.
    if centered:
        step = 2 * scale / (2**num_bits - 1)
        out = torch.maximum(x, -scale)
        return out.clamp_(max=scale).div_(step).add_(0.5).round_().mul_(step).sub_(step / 2)
    step = 2 * scale / 2**num_bits
    out = torch.maximum(x, -scale * (2**num_bits - 2) / 2**num_bits)
    return out.clamp_(max=scale).div_(step).round_().mul_(step)


def trust(
    x: Tensor, num_bits: int, *, trust: float | None = None, std: Tensor | None = None
) -> TrustQuantized:
    """``TrustQuantizer``, centred: the gradient passes where ``|xq - x| <= std * trust``.

    By default ``trust = T / (2**b - 1)``, half a step. ``y = x * mask + (xq - x * mask)`` in float32: not
    always ``xq`` in the last bit. A row of zeros gives about ``-step / 2``. ``std`` takes the place of
    ``row_std(x)``.
    """
    std, scale = _scale(x, num_bits, std)
    xq = _rounded(x, scale, num_bits, centered=True)
    trust = GAUSSIAN_SCALES[num_bits] / (2**num_bits - 1) if trust is None else trust
    mask = (xq - x).abs_() <= std * trust
    return TrustQuantized(_straight_through(x, xq, mask), mask, std)


def _straight_through(x: Tensor, xq: Tensor, mask: Tensor) -> Tensor:
    kept = mask.float().mul_(x)
    y: Tensor = (xq - kept).add_(kept)
    return y


def straight_through(
    x: Tensor, num_bits: int, *, centered: bool = True, std: Tensor | None = None
) -> TrustQuantized:
    """``STEQuantizer``: the gradient passes everywhere; ``y = x + (xq - x)``."""
    std, scale = _scale(x, num_bits, std)
    xq = _rounded(x, scale, num_bits, centered)
    return TrustQuantized(x + (xq - x), torch.ones_like(x, dtype=torch.bool), std)


def clip(x: Tensor, num_bits: int, *, clip_scale: float = 1.0, std: Tensor | None = None) -> TrustQuantized:
    """``ClipQuantizer``, centred: the gradient passes where ``|x| <= scale * clip_scale``."""
    std, scale = _scale(x, num_bits, std)
    xq = _rounded(x, scale, num_bits, centered=True)
    mask = x.abs() <= scale * clip_scale
    return TrustQuantized(_straight_through(x, xq, mask), mask, std)


def backward(gy: Tensor, quantized: TrustQuantized) -> Tensor:
    """``gx = gy * mask``, the sign of a zero kept."""
    gx: Tensor = gy * quantized.mask
    return gx


def hadamard_matrix(size: int = 128) -> Tensor:
    """Sylvester's matrix over ``sqrt(size)``, each entry rounded to bfloat16: not exactly orthonormal."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix / math.sqrt(size)).to(torch.bfloat16).float()


def rotate(x: Tensor, matrix: Tensor) -> Tensor:
    """``x`` times the matrix, block by block along the last axis."""
    blocks = x.reshape(*x.shape[:-1], -1, matrix.shape[0])
    rotated: Tensor = blocks @ matrix
    return rotated.reshape(x.shape)
