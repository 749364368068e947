"""QuEST: the clip that is best for a Gaussian, and a gradient where the error can be trusted."""

from __future__ import annotations

from torch import Tensor

from qscale.formats import QuantSpec
from qscale.kernels.dialects.quest import GAUSSIAN_SCALES
from qscale.quantizers.centred import centred_rounding
from qscale.quantizers.groups import group_rms
from qscale.quantizers.quantizer import ScaledQuantizer, Scales

_EPS = 1e-8


class Quest(ScaledQuantizer):
    """Scale each group by its root mean square, round to ``2**b`` levels without zero.

    ``std = sqrt(mean(x**2))``, ``scale = T[b] * std + 1e-8``, ``step = 2 * scale / (2**b - 1)``,
    ``y = RNE(clip(x, -scale, scale) / step + 1/2) * step - step / 2``, up to the last bits. The gradient
    passes where ``|y - x| <= T[b] * std / (2**b - 1)``, half a step: all but the elements that lie more than
    that beyond the clip, whose code before it is held to the range is outside, ``|x| > scale + step / 2``,
    and that is what is tested. (In the source the 1e-8, which is part of scale here, and rounding also shut
    out elements in the very middle between two levels.) Ties go the other way: a zero becomes ``step / 2``,
    in the source ``-step / 2``.

    The grid is QuEST's own: of the spec only bits and groups are used. The source has one group a row, after
    a rotation by blocks of 128: the recipe ``quest-w4a4``. Source: Panferov et al. 2025 (arXiv:2502.05003),
    base_linear.py at c295afd, whose arithmetic to the bit is dialect ``quest``. Larger trust factors, for one
    bit, are not offered.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.rounding = centred_rounding(spec)
        self.optimum = GAUSSIAN_SCALES[spec.num_bits]
        self.steps = 2**spec.num_bits - 1

    def scales(self, x: Tensor) -> Scales:
        """The step of each group, ``(..., groups)``; it has no gradient."""
        clip = group_rms(x.detach(), self.spec).mul_(self.optimum)
        return (clip.add_(_EPS).mul_(2 / self.steps),)
