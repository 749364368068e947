"""Learning a block that has been rounded: what it shall give, and Adam on what a step may change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qscale.ptq.layers import Layer, Rounded

#: How often the error over all of the calibration text is looked at.
_LOOKS = 10

Weights = Mapping[str, Tensor]


@dataclass(slots=True, kw_only=True, eq=False)
class Tuning:
    """A block, its layers as they are rounded, and the outputs that it had without quantizers.

    Layers go by their names inside the block, and weights are in the layers' bases. Inputs are those that
    come from the blocks before as quantized; input quantizers are in place.
    """

    name: str
    inputs: list[Tensor]  #: hidden states, a batch each
    targets: list[Tensor]  #: what the block made of them before anything of it was changed
    call: Callable[[Tensor, Weights], Tensor]  #: the block with other parameters
    layers: dict[str, Layer] = field(default_factory=dict)
    rounded: dict[str, Rounded] = field(default_factory=dict)  #: a step puts what it learned here

    def output(self, hidden: Tensor, weights: Weights) -> Tensor:
        """The block's output with these weights in place of those of ``rounded``."""
        kept = {name: rounded.weight for name, rounded in self.rounded.items()} | dict(weights)
        return self.call(hidden, {f"{n}.weight": w.to(self.layers[n].dtype) for n, w in kept.items()})

    @torch.no_grad()
    def error(self, weights: Weights) -> float:
        """``||y - y'||^2 / ||y - x||^2`` over all of the text: a part of what the block adds to its input."""
        lost = power = 0.0
        for hidden, target in zip(self.inputs, self.targets, strict=True):
            lost += float((self.output(hidden, weights).double() - target.double()).square().sum())
            power += float((target.double() - hidden.double()).square().sum())
        return lost / power if power > 0 else lost

    def learn(
        self, parameters: Sequence[Tensor], weights: Callable[[], Weights], *, steps: int, rate: float
    ) -> tuple[float, float]:
        """Adam on the error of a batch at a time; the parameters end at the best that was seen.

        The error over all of the text is looked at before, and then ten times; batches come in an order that
        the block's name determines.

        Args:
            parameters: Leaves, changed in place.
            weights: Of the layers, made of the parameters.
            steps: Of Adam, a batch each.
            rate: Its learning rate.

        Returns:
            The error that it began with, and the one it ends with, which is no larger.
        """
        first = best = self.error(weights())
        kept = [parameter.detach().clone() for parameter in parameters]
        power = sum(
            float((t.double() - x.double()).square().mean())
            for x, t in zip(self.inputs, self.targets, strict=True)
        ) / len(self.inputs)
        generator = torch.Generator().manual_seed(seed_of(self.name))
        order = torch.randint(len(self.inputs), (steps,), generator=generator).tolist()
        optimizer = torch.optim.Adam(parameters, lr=rate)
        for step, batch in enumerate(order, 1):
            with torch.enable_grad():
                for parameter in parameters:
                    parameter.requires_grad_(True)
                output = self.output(self.inputs[batch], weights())
                loss = (output.float() - self.targets[batch].float()).square().mean() / (power or 1.0)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.requires_grad_(False)
                parameter.grad = gradient
            optimizer.step()
            if step % max(1, steps // _LOOKS) == 0 and (error := self.error(weights())) < best:
                best, kept = error, [parameter.detach().clone() for parameter in parameters]
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
        return first, best


def seed_of(name: str) -> int:
    """A function of a name, the same in every release."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
