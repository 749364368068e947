"""StatsQ: weight scales from their mean magnitude, which cannot oscillate."""

from __future__ import annotations

from torch import Tensor

from qscale.formats import QuantSpec
from qscale.quantizers.centred import CentredGrid, OpenRounding
from qscale.quantizers.groups import group_means
from qscale.quantizers.quantizer import Quantizer


class StatsQ(Quantizer):
    """Scale each weight group by twice its mean magnitude; the gradient passes straight through.

    ``s = 2 mean|W|``, detached, ``w = clip(W / s, -1, 1 - 1e-6)``, ``n = 2**(b-1)``,
    ``y = s * (round(w * n - 1/2) + 1/2) / n``, up to the last bits: levels at odd multiples of ``s / (2 n)``.
    With no learned scale, weights cannot oscillate through it. A group of zeros gives zeros.

    Of the spec only bits and groups are used; the source has one group a row. Source: OFQ, Liu et al. 2023
    (ICML), statsq.py of nbasyl/OFQ. Unverified on language models.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.grid = CentredGrid(spec)
        self.half_levels = 2 ** (spec.num_bits - 1)

    def scale(self, weight: Tensor) -> Tensor:
        """``2 mean|W|`` of each group, ``(..., groups)``."""
        return 2 * group_means(weight.detach().abs(), self.spec)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize the weight ``x``."""
        step = self.scale(x) / self.half_levels
        return OpenRounding.apply(x, step, self.grid)  # type: ignore[no-untyped-call,no-any-return]
