"""StatsQ: weight scales from their mean magnitude, which cannot oscillate."""

from __future__ import annotations

from torch import Tensor

from qscale.formats import QuantSpec
from qscale.quantizers.centred import centred_rounding
from qscale.quantizers.groups import group_means
from qscale.quantizers.quantizer import ScaledQuantizer, Scales


class StatsQ(ScaledQuantizer):
    """Scale each weight group by twice its mean magnitude; the gradient passes straight through.

    ``s = 2 mean|W|``, detached, ``w = clip(W / s, -1, 1 - 1e-6)``, ``n = 2**(b-1)``,
    ``y = s * (round(w * n - 1/2) + 1/2) / n``, up to the last bits: levels at odd multiples of ``s / (2 n)``.
    With no learned scale, weights cannot oscillate through it. A group of zeros gives zeros.

    Of the spec only bits and groups are used; the source has one group a row. Source: OFQ, Liu et al. 2023
    (ICML), statsq.py of nbasyl/OFQ. Unverified on language models.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.rounding = centred_rounding(spec)
        self.half_levels = 2 ** (spec.num_bits - 1)

    def scale(self, weight: Tensor) -> Tensor:
        """``2 mean|W|`` of each group, ``(..., groups)``."""
        return 2 * group_means(weight.detach().abs(), self.spec)

    def scales(self, x: Tensor) -> Scales:
        """The step of each group, ``(..., groups)``; it has no gradient."""
        return (self.scale(x) / self.half_levels,)

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, None]:  # noqa: ARG002
        return grad, None
