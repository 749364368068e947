"""SmoothRot: the inputs of the last layer of the FFN are smoothed, then rotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from qscale.models.surgery import Roles, role_of
from qscale.ptq.inputs import rotate_input
from qscale.ptq.layers import Change, Site
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.methods.smoothquant import smoothing
from qscale.ptq.residual import even_block
from qscale.ptq.statistics import Need
from qscale.quantizers import QuantLinear, signs_of

_ALPHAS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothRot(Step):
    """Smoothing before the rotation at ``fc2`` (arXiv:2506.05413; steps of the authors' ``smooth.py``).

    ``s_j = max|x_j|^alpha / max_i|W_ij|^(1 - alpha)`` of the inputs of ``fc2``, folded into the layer before
    where the block stays what it is; what is left is rotated at run time. ``search`` takes the alpha of 0,
    0.05, ..., 1 with the least error of the layer's output on sampled inputs, weights and inputs rounded to
    nearest; ``alpha`` where none is better.

    ``quarot+smoothrot`` is the authors' method: the other rotations are those of ``quarot``. ``smoothrot`` by
    itself rotates the inputs of ``fc2`` alone. Departures: the authors' code leaves the absolute value out of
    the weight's maximum; their maxima are of weights before any rotation, ours, after ``quarot``, of weights
    whose outputs are rotated. Their clipping of activations (0.9) is the recipe's, ``q=absmax/clip(0.9)``;
    their cache of keys and values is no part of it.
    """

    name: ClassVar[str] = "smoothrot"
    kind: ClassVar[Kind] = "transform"
    needs: ClassVar[tuple[Need, ...]] = ("range", "rows")

    alpha: float = parameter(0.5, "how much goes to the weights", low=0.0, high=1.0)
    search: bool = parameter(False, "a search for alpha")

    def rotate_inputs(
        self,
        model: nn.Module,  # noqa: ARG002
        name: str,
        block: nn.Module,
        roles: Roles | None = None,
    ) -> None:
        """Have ``fc2`` rotate its inputs, where no step before this one did."""
        for part, layer in block.named_modules():
            if isinstance(layer, QuantLinear) and role_of(f"{name}.{part}", roles) == "fc2":
                size = even_block(layer.in_features)
                if size is not None:
                    rotate_input(layer, size, signs_of(f"smoothrot.{name}.{part}", layer.in_features))

    def transform(self, site: Site) -> Change | None:
        """The scales of the inputs of ``fc2``."""
        if site.role != "fc2":
            return None
        assert site.statistics.absmax is not None
        largest = torch.stack([layer.weight.abs().amax(0) for layer in site.layers]).amax(0)
        alphas = (self.alpha, *_ALPHAS) if self.search else (self.alpha,)
        changes = [Change(scale=smoothing(site.statistics.absmax, largest, alpha)) for alpha in alphas]
        if len(changes) == 1:
            return changes[0]
        return min(changes, key=lambda change: output_loss(site, change))  # the first of equals


def output_loss(site: Site, change: Change) -> float:
    """``sum ||Q(x / s) Q(W s)^T - x W^T||^2`` over the layers of an input and its sampled rows."""
    rows = site.statistics.rows
    assert rows is not None
    moved = rows / change.scale
    loss = 0.0
    for layer in site.layers:
        weight = layer.weight * change.scale
        rotated = layer.rotate(weight)
        if layer.quantizer is not None:
            rotated = layer.quantizer(rotated.to(layer.dtype)).float()
        x = layer.rotate(moved) if site.quantizer is None else site.quantizer(moved.to(layer.dtype)).float()
        difference = x.double() @ rotated.double().t() - rows.double() @ layer.weight.double().t()
        loss += float(difference.square().sum())
    return loss
