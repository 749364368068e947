"""Absmax scales times a factor: fixed (clip), learned by weight group (LWC) or by group index (LAC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan, scale_shape
from qscale.kernels.ops import implementation
from qscale.quantizers.gates import ScaledRounding
from qscale.quantizers.groups import group_count
from qscale.quantizers.quantizer import ScaledQuantizer, Scales


@torch.no_grad()
def absmax_scales(x: Tensor, text: str) -> Tensor:
    """The scales that ``fake_quant`` would choose, ``(..., groups)``, float32; they have no gradient."""
    op, arguments, _, _ = plan(text)
    run = implementation(op, "_scales", on_reference("fake_quant", x))
    scale: Tensor = run(x.detach(), *arguments)[0]
    return scale.view(scale_shape(x.shape, *arguments[-4:-2]))


class Clip(ScaledQuantizer):
    """Scale each group by a fixed part of its largest magnitude: ``s = ratio * max|x| / M``.

    The gradient passes where the rounded code is in range. ``ratio`` 1 gives the bits of absmax. QuaRot and
    SmoothRot clip activations at 0.9 (Ashkboos et al. 2024, arXiv:2404.00456; arXiv:2506.05413).
    """

    def __init__(self, spec: QuantSpec, ratio: float) -> None:
        super().__init__(spec)
        self.rounding = ScaledRounding(spec, "clipped")
        self.ratio = ratio

    def scales(self, x: Tensor) -> Scales:
        """``ratio * max|x| / M``, ``(..., groups)``; they have no gradient."""
        return (absmax_scales(x, self.text) * self.ratio,)

    def extra_repr(self) -> str:
        return f"{self.text}, ratio={self.ratio:g}"


class _LearnedClip(ScaledQuantizer):
    """Absmax scales times gamma, ``groups`` in shape."""

    groups: tuple[int, ...]
    gamma: nn.Parameter

    @property
    def learned(self) -> Tensor:
        """gamma."""
        return self.gamma

    def scales(self, x: Tensor) -> Scales:
        """``gamma * max|x| / M``, and this without gamma, ``(..., groups)``."""
        absmax = absmax_scales(x, self.text)
        return self.gamma.view(self.groups) * absmax, absmax

    def of_learned(self, sums: Tensor, scales: Scales) -> Tensor:
        return (sums * scales[1]).sum_to_size(self.groups).flatten().to(self.gamma.dtype)


class LWC(_LearnedClip):
    """Learned weight clipping: ``s = gamma * max|W| / M`` with one gamma for each weight group.

    The gradient passes to W where the rounded code is in range; the one of the scale goes to gamma, and
    none through ``max|W|``. Source: arXiv:2505.14302, section 3. Unverified: gamma starts at 1 and learns at
    the rate of the model; the paper prints neither, nor the gate.

    Args:
        spec: Format and groups.
        shape: Of the weight, ``(out_features, in_features)``.
    """

    def __init__(self, spec: QuantSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.rounding = ScaledRounding(spec, "clipped")
        self.groups = (*shape[:-1], group_count(spec, shape[-1]))
        rows = torch.Size(self.groups).numel()
        self.gamma = nn.Parameter(torch.ones(rows))  # of one dimension: not decayed


class LAC(_LearnedClip):
    """Learned activation clipping: ``s = gamma * max|X| / M``, one gamma a group index, for all tokens.

    Otherwise as :class:`LWC`.

    Args:
        spec: Format and groups.
        features: Of one token.
    """

    def __init__(self, spec: QuantSpec, features: int) -> None:
        super().__init__(spec)
        self.rounding = ScaledRounding(spec, "clipped")
        self.groups = (group_count(spec, features),)
        self.gamma = nn.Parameter(torch.ones(self.groups))
