"""SEQ: stretched elastic quantization of weights to three or four values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.quantizers.groups import group_absmax, group_count, grouped, spread
from qscale.quantizers.lsq import FLOOR
from qscale.quantizers.quantizer import LazyQuantizer, Scales

_LIMIT = 0.99


class SEQ(LazyQuantizer):
    """Learned scales and values that are balanced around zero.

    ``q = (round(clip(x / alpha, -.99, .99) * n - shift) + shift) / n``, ``y = q * alpha``. ``int2:full`` is
    the source's 2 bit, n = 2, shift = 1/2: -.75, -.25, .25, .75; ``int2``, which has three codes, is its
    ternary, n = 3/2, shift = 0: -2/3, 0, 2/3.

    Backward: ``dx = g`` where ``|x / alpha| <= .99``; dalpha is the sum over the group of ``g * gs`` times
    ``q - x / alpha`` there, and ``+-(n - shift) / n`` beyond (ternary: 1, though the value is 2/3, as in the
    source); ``gs = 1 / sqrt(numel)`` with numel that of the weight, Qp being 1 in both. alpha is held at 1e-5
    or more, where it has no gradient.

    In plain torch: no op has this gradient. alpha starts at ``max|W|`` of its group (unverified). Source:
    ParetoQ, Liu et al. 2025 (arXiv:2502.02631), models/utils_quant.py.

    Args:
        spec: ``int2`` or ``int2:full``, and the groups.
        shape: Of the weight, ``(out_features, in_features)``.
    """

    def __init__(self, spec: QuantSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.groups = (*shape[:-1], group_count(spec, shape[-1]))
        self.levels, self.shift = (2.0, 0.5) if spec.full_range else (1.5, 0.0)
        self.gradient_scale = 1 / math.sqrt(max(1, math.prod(shape)))
        self.alpha = nn.Parameter(torch.ones(math.prod(self.groups)))  # of one dimension: not decayed

    def start(self, x: Tensor) -> None:
        """``alpha = max|W|``."""
        self.alpha.copy_(group_absmax(x, self.spec).clamp(min=FLOOR).flatten())

    @property
    def learned(self) -> Tensor:
        """alpha."""
        return self.alpha

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        self.ensure_started(x)
        scales = (self.alpha.clamp(min=FLOOR).view(self.groups),)
        return self.again(x, scales), scales

    def again(self, x: Tensor, scales: Scales) -> Tensor:
        scale = spread(scales[0], self.spec, x.shape[-1])
        return self._codes(x / scale).mul_(scale).to(x.dtype)

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, Tensor]:
        ratio = x / spread(scales[0], self.spec, x.shape[-1])
        inside = ratio.abs() <= _LIMIT
        beyond = ratio.sign() * ((self.levels - self.shift) / self.levels)
        slope = torch.where(inside, self._codes(ratio) - ratio, beyond)
        products = grouped(grad * slope, self.spec.group_length(x.shape[-1]))
        of_alpha = (products.sum(-1, dtype=torch.float32) * self.gradient_scale).flatten()
        return grad * inside, torch.where(self.alpha >= FLOOR, of_alpha, 0.0).to(self.alpha.dtype)

    def _codes(self, ratio: Tensor) -> Tensor:
        held = ratio.clamp(-_LIMIT, _LIMIT)
        return held.mul_(self.levels).sub_(self.shift).round_().add_(self.shift).div_(self.levels)
