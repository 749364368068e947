"""LSQ: the scale is the parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.kernels.fake_quantize import values_end
from qscale.quantizers.gates import ScaledRounding
from qscale.quantizers.groups import group_count, group_means
from qscale.quantizers.quantizer import LazyQuantizer, ScaledQuantizer, Scales

#: Scales below are held up: ParetoQ, models/utils_quant.py.
FLOOR = 1e-5


class LSQ(LazyQuantizer, ScaledQuantizer):
    """Learned step sizes: ``y = clamp(round(x / alpha), Qn, Qp) * alpha``.

    Backward: ``dx = g`` where ``Qn <= x / alpha <= Qp``, else 0; ``dalpha`` is the sum over the group of
    ``g * gs`` times Qn below, Qp above and ``round(x / alpha) - x / alpha`` inside, with
    ``gs = 1 / sqrt(numel * Qp)``. alpha is held at 1e-5 or more, where it has no gradient.

    A weight has one alpha a group; an input one a group *index*, shared by all tokens, as one a token could
    not be learned. ``numel`` is the number of elements of the weight, for inputs the features of one token.
    Qn and Qp are the range of the spec: ``int4`` has -7..7, ``int4:full`` the -8..7 of the source.

    alpha starts from the first tensor seen, at ``2 mean|x| / sqrt(Qp)`` of its group (for inputs over all
    tokens); a group of zeros starts at the floor. Source: Esser et al. 2020 (arXiv:1902.08153); ParetoQ
    (arXiv:2502.02631), models/utils_quant.py. Unverified: the start, and ``numel`` of inputs.

    Args:
        spec: Format and groups.
        shape: Of the weight, or ``(features,)`` of an input.
    """

    def __init__(self, spec: QuantSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.groups = (*shape[:-1], group_count(spec, shape[-1]))
        self.largest = values_end(spec)
        gradient_scale = 1 / math.sqrt(max(1, math.prod(shape)) * self.largest)
        self.rounding = ScaledRounding(spec, "lsq", gradient_scale)
        self.alpha = nn.Parameter(torch.ones(math.prod(self.groups)))  # of one dimension: not decayed

    def start(self, x: Tensor) -> None:
        """``alpha = 2 mean|x| / sqrt(Qp)``."""
        means = group_means(x.abs(), self.spec)
        if len(self.groups) == 1:
            means = means.flatten(0, -2).mean(0) if means.dim() > 1 else means
        start = 2 * means / math.sqrt(self.largest)
        self.alpha.copy_(start.clamp(min=FLOOR).flatten())

    @property
    def learned(self) -> Tensor:
        """alpha."""
        return self.alpha

    def scales(self, x: Tensor) -> Scales:
        """alpha above its floor, ``(groups,)`` or ``(rows, groups)``."""
        self.ensure_started(x)
        return (self.alpha.clamp(min=FLOOR).view(self.groups),)

    def of_learned(self, sums: Tensor, scales: Scales) -> Tensor:  # noqa: ARG002
        if sums.shape != self.groups:
            sums = sums.sum_to_size(self.groups)
        of_alpha = sums.mul_(self.rounding.gradient_scale).to(self.alpha.dtype).flatten()
        return torch.where(self.alpha >= FLOOR, of_alpha, 0.0)
