"""torch 2.13.0, ``fake_quantize_*_affine`` on a CPU: scale and zero point are the caller's.

``x`` is ``(channels, K)`` with one scale and zero point to a channel; a whole tensor is one channel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """``q = clamp(RNE(x * (1/s)) + zp, qmin, qmax)``, ``y = (q - zp) * s`` in float32, then ``x.dtype``."""
    s, zp = scale.reshape(-1, 1), zero_point.reshape(-1, 1).float()
    codes = _unclamped(x, s, zp).clamp(qmin, qmax)
    return ((codes - zp) * s).to(x.dtype)


def _unclamped(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (x.float() * scale.reciprocal()).round() + zero_point


def fake_quantize_backward(
    gy: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int
) -> Tensor:
    """``gx = gy`` where the code before the clamp is in range, else ``gy * 0``, which keeps the sign."""
    raw = _unclamped(x, scale.reshape(-1, 1), zero_point.reshape(-1, 1).float())
    return gy * ((raw >= qmin) & (raw <= qmax))


def learnable_backward(
    gy: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    *,
    grad_factor: float,
    per_tensor: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, scale and zero point of ``_fake_quantize_learnable_*``, whose forward is as above.

    The code before the clamp is ``RNE(x * (1/s) + zp)``, so forward and backward differ at ties with an odd
    zero point. ``gs = f * sum(gy * d)`` with ``d = qmin - zp``, ``qmax - zp`` outside the range and
    ``((q - zp) * s - x) * (1/s)`` inside; ``gzp = f * sum(-s * gy)`` outside. ``per_tensor`` rounds the zero
    point as ``trunc(zp + 0.5)``, which moves -1 to 0.

    This is torch's plain build. Its builds for AVX2 and AVX-512 contract some products and sums, and then
    differ where a value lies within a rounding of the border between two codes.
    """
    s, zp = scale.reshape(-1, 1), zero_point.reshape(-1, 1).float()
    zp = (zp + 0.5).trunc() if per_tensor else zp.clamp(qmin, qmax).round()
    inverse = s.reciprocal()
    raw = (x * inverse + zp).round()
    below, above = raw < qmin, raw > qmax
    inside = ~(below | above)
    value = (raw.clamp(qmin, qmax) - zp) * s
    slope = torch.where(inside, (value - x) * inverse, torch.where(below, qmin - zp, qmax - zp))
    gscale = (gy * slope * grad_factor).sum(-1)
    gzp = (torch.where(inside, 0.0, -gy * s) * grad_factor).sum(-1)
    return gy * inside, gscale, gzp
