"""Confidence-guided annealing: at the end of training only weights near a rounding boundary move."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.quantizers.groups import spread
from qscale.quantizers.linear import QuantLinear
from qscale.quantizers.statsq import StatsQ


class Annealing:
    """Freezes the StatsQ weights of a model that lie away from every rounding boundary.

    With ``u = w * n - 1/2`` (``w``, ``n`` as in :class:`StatsQ`) a weight is free where
    ``|u - (i + 1/2)| <= radius`` for some code i and the next one; which are free is settled when annealing
    begins. From :meth:`begin` on, a training loop calls :meth:`mask_gradients` before it clips gradients, and
    :meth:`restore` after each optimizer step, as momentum and weight decay move weights without a gradient.

    The masks are buffers of the quantizers, ``free``, all true until annealing begins. So they are in
    checkpoints: free weights move, and nothing but the mask says which they were. Frozen weights are what a
    checkpoint has.

    What is frozen is the weight: the scale of its group still follows the free ones. Source: OFQ, Liu et al.
    2023 (ICML), cga.py of nbasyl/OFQ, with radius 0.005 (or 0.007) for 15 epochs after training. Boundaries
    beyond the outermost codes, where clipped weights lie, are left out here (the source: unverified); so is
    its use on language models.

    Args:
        model: With quantized linear layers, some of them of StatsQ weights.
        radius: In steps between codes.

    Raises:
        ConfigError: No layer has StatsQ weights, or the radius is not in [0, 1/2].
    """

    def __init__(self, model: nn.Module, radius: float = 0.005) -> None:
        if not 0 <= radius <= 0.5:
            raise ConfigError(f"radius={radius}: must lie in [0, 0.5], in steps between codes")
        self.radius = radius
        self.layers = [(layer, q) for layer in _quantized(model) if (q := _statsq(layer)) is not None]
        if not self.layers:
            raise ConfigError(
                "annealing needs weights of quantizer 'statsq': train with q=statsq/absmax first"
            )
        for layer, quantizer in self.layers:
            quantizer.register_buffer("free", torch.ones_like(layer.weight, dtype=torch.bool))
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def begun(self) -> bool:
        """Whether weights are frozen."""
        return bool(self._kept)

    @torch.no_grad()
    def begin(self, *, settled: bool = False) -> None:
        """Freeze weights as they are; ``settled``: by the masks there are, those of a checkpoint."""
        for layer, quantizer in self.layers:
            free: Tensor = quantizer.get_buffer("free")
            if not settled:
                free.copy_(self.free_mask(layer))
            self._kept.append((layer.weight, free, layer.weight.detach().clone()))

    @torch.no_grad()
    def free_mask(self, layer: QuantLinear) -> Tensor:
        """True where a weight may move, in the shape of the weight."""
        quantizer = _statsq(layer)
        if quantizer is None:
            raise ConfigError("annealing: this layer's weight is not quantized by 'statsq'")
        weight, n = layer.weight, quantizer.half_levels
        scale = spread(quantizer.scale(weight), quantizer.spec, weight.shape[-1])
        u = (weight / scale).clamp(-1, 1 - 1e-6) * n - 0.5
        boundary = (u - 0.5).round() + 0.5
        inner = (boundary > -n) & (boundary < n - 1)
        free: Tensor = inner & ((u - boundary).abs() <= self.radius)
        return free

    @property
    def free_fraction(self) -> float:
        """The part of the weights that is free: all of them before annealing begins."""
        masks = [quantizer.get_buffer("free") for _, quantizer in self.layers]
        return sum(int(mask.sum()) for mask in masks) / max(1, sum(mask.numel() for mask in masks))

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of frozen weights to zero."""
        for weight, free, _ in self._kept:
            if weight.grad is not None:
                weight.grad.masked_fill_(~free, 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Put frozen weights back to what they were."""
        for weight, free, saved in self._kept:
            torch.where(free, weight, saved, out=weight)


def _quantized(model: nn.Module) -> Iterator[QuantLinear]:
    return (layer for layer in model.modules() if isinstance(layer, QuantLinear))


def _statsq(layer: QuantLinear) -> StatsQ | None:
    quantizer = layer.weight_quantizer
    return quantizer if isinstance(quantizer, StatsQ) else None
