"""What is done to the input of a layer at run time: factors that stay there, rotations, scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.quantizers import Quantizer, QuantLinear, Rotated, Shared
from qscale.quantizers.gates import ScaledRounding
from qscale.quantizers.quantizer import ScaledQuantizer, Scales

_LEAST = 1e-5


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


class RuntimeScaled(Quantizer):
    """``s Q(x / s)`` with a scale for each channel that is found in ``x`` itself.

    ``s_j = max|x_j|``, at least 1e-5. With groups, channels are put in the order of their ``s``, largest
    first, and those of a group all take its largest one.

    Args:
        quantizer: Of the recipe.
        over: The tokens of the maximum: those of each ``sequence`` (the axis before the last), or the whole
            ``batch``. An input of two dimensions has lost its sequences: all of it is one.
        group: Channels with one scale; the last group may be short. 1: each its own.
    """

    repeats = False

    def __init__(self, quantizer: Quantizer, over: Literal["sequence", "batch"], group: int = 1) -> None:
        super().__init__(quantizer.spec)
        self.quantizer, self.over, self.group = quantizer, over, group

    def forward(self, x: Tensor) -> Tensor:
        """Scale, quantize and scale back, in the dtype of ``x``."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        s = self.channel_scales(wide)
        y: Tensor = self.quantizer((wide / s).to(x.dtype))
        return (y.to(wide.dtype) * s).to(x.dtype)

    def channel_scales(self, x: Tensor) -> Tensor:
        """``s``, in a shape that goes with ``x``."""
        if x.numel() == 0:
            return torch.ones_like(x)
        tokens = x if x.dim() > 1 else x[None]
        if self.over == "batch":
            tokens = tokens.reshape(-1, x.shape[-1])
        s = tokens.abs().amax(-2, keepdim=True).clamp(min=_LEAST)
        if self.group > 1:
            found, order = s.sort(stable=True, dim=-1, descending=True)
            first = torch.arange(x.shape[-1], device=x.device) // self.group * self.group
            s = torch.empty_like(s).scatter_(-1, order, found[..., first])
        return s if x.dim() > 1 else s[0]

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        return self(x), ()

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, None]:  # noqa: ARG002
        return grad, None

    def extra_repr(self) -> str:
        return f"over={self.over}, group={self.group}"


def unshared(module: nn.Module | None) -> nn.Module | None:
    """An input quantizer as one layer would have it that shares its input with none."""
    return module.quantizer if isinstance(module, Shared) else module


def rotate_input(layer: QuantLinear, block: int, signs: Tensor | None, head: int | None = None) -> None:
    """Have a quantized layer rotate its input and its weight; one that does already stays as it is."""
    before = unshared(layer.input_quantizer)
    if isinstance(before, Rotated) or isinstance(layer.weight_quantizer, Rotated):
        return
    for name, quantizer in (("input_quantizer", before), ("weight_quantizer", layer.weight_quantizer)):
        assert quantizer is None or isinstance(quantizer, Quantizer)
        new = Rotated(quantizer, block, signs, head)
        setattr(layer, name, new.train(layer.training).to(layer.weight.device))


def wrapped(module: nn.Module | None, wrap: Callable[[Quantizer], Quantizer]) -> nn.Module | None:
    """An input quantizer in which the quantizer itself, behind factors and rotations, is another one."""
    if isinstance(module, Divided):
        inner = wrapped(module.quantizer, wrap)
        return module if inner is module.quantizer else Divided(inner, module.scale, module.shift)
    if isinstance(module, Rotated):
        new = module.quantizer if module.quantizer is None else wrap(module.quantizer)
        return module if new is module.quantizer else module.around(new)
    return wrap(module) if isinstance(module, Quantizer) else module
