"""What stays at the input of a layer: factors that nothing before it can take, scales that were found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.quantizers.gates import ScaledRounding
from qscale.quantizers.quantizer import ScaledQuantizer, Scales


class Divided(nn.Module):
    """``(x - shift) / scale`` for each channel, and then the recipe's rotation and quantizer.

    Args:
        quantizer: Of the input; None divides only.
        scale: One a channel.
        shift: One a channel, or None.
    """

    scale: Tensor
    shift: Tensor | None

    def __init__(self, quantizer: nn.Module | None, scale: Tensor, shift: Tensor | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Change and quantize ``x``."""
        x = self.basis(x)
        return x if self.quantizer is None else self.quantizer(x)

    def basis(self, x: Tensor) -> Tensor:
        """``(x - shift) / scale``, in the dtype of ``x``."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.shift is not None:
            wide = wide - self.shift
        return (wide / self.scale).to(x.dtype)

    @property
    def spec(self) -> QuantSpec | None:
        """That of the quantizer."""
        return getattr(self.quantizer, "spec", None)


class Static(ScaledQuantizer):
    """Rounds with one scale for all inputs, found by calibration.

    Args:
        spec: Per token, of free scales.
        scale: One positive number.
    """

    scale: Tensor

    def __init__(self, spec: QuantSpec, scale: float) -> None:
        super().__init__(spec)
        self.rounding = ScaledRounding(spec, "clipped")
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))

    def scales(self, x: Tensor) -> Scales:  # noqa: ARG002
        """The one scale."""
        return (self.scale,)

    def extra_repr(self) -> str:
        return f"{self.text}, scale={float(self.scale):g}"
