"""LRQ: what a weight is divided by before it is rounded is learned, as a matrix of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq.layers import Layer, Rounded, bits_of
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.scales import scales_for
from qscale.ptq.tuning import Tuning, seed_of

#: The search that scales begin with: parts of the range, and the norm of the error.
_SHRINKS, _SHRINK_NORM = 100, 2.4


@dataclass(frozen=True, slots=True, kw_only=True)
class LRQ(Step):
    """Low-rank scales of rounding, learned block by block (Lee et al. 2024, arXiv:2407.11534).

    ``What = s clamp(round(W / (s exp(L U + r + c))))``: ``s`` a scale a group, ``L U`` of rank ``rank``,
    ``r`` and ``c`` one number a row and a column. ``L``, ``r`` and ``c`` begin at 0, ``U`` as Kaiming's
    uniform draw, ``s`` as the part 1, 0.99, ..., 0.01 of the range whose error has the least norm 2.4. All of
    them, ``log s`` too, learn by Adam the outputs of the block without quantizers on the same inputs, the
    gradient passing through the rounding where the code is in range. The best that was seen is kept, and the
    block stays as the steps before rounded it where that is better still: an addition of ours. Only ``s`` and
    the codes are left at the end: bits are those of the format.

    The authors take rank 1024 (2048 where both sides are at least 8192), 5000 steps of one sequence out of
    512, and a full matrix where one side is up to 4096 and the other is longer. Here a step is a batch of the
    pass, up to 8 windows, the rank at most a quarter of the shorter side, never a full matrix, and the
    default is 500 steps: sizes for small models. Scales that are not free (MX, NVFP4, ``scale_...``) are
    neither searched nor learned; those of a whole tensor or of squares are learned, not searched. Formats are
    any of dialects qscale and chen2025, where theirs are integers.
    """

    name: ClassVar[str] = "lrq"
    kind: ClassVar[Kind] = "tune"

    rank: int = parameter(8, "the rank", low=1, high=2**31)
    steps: int = parameter(500, "steps of Adam a block", low=1, high=10**9)
    rate: float = parameter(5e-4, "the learning rate", low=0.0, high=1.0)

    def check(self, layer: Layer) -> None:
        assert layer.quantizer is not None
        scales_for(layer.quantizer, layer.weight[:1], self.name)

    def tune(self, block: Tuning) -> None:
        """Learn the roundings of a block's layers together."""
        if not block.layers:
            return
        parts = {name: Rounding(layer, self.rank) for name, layer in block.layers.items()}
        before = block.error({})
        parameters = [parameter for part in parts.values() for parameter in part.parameters]

        def weights() -> dict[str, Tensor]:
            return {name: part() for name, part in parts.items()}

        _, best = block.learn(parameters, weights, steps=self.steps, rate=self.rate)
        learned = weights()
        for name, part in parts.items():
            notes = block.rounded[name].notes
            if best < before:
                layer = block.layers[name]
                if part.rank < self.rank:
                    notes = (
                        *notes,
                        f"rank {part.rank} in place of {self.rank}, a quarter of the shorter side",
                    )
                bits = bits_of(layer.spec, layer.weight.shape)
                block.rounded[name] = Rounded(weight=learned[name].float(), bits=bits, notes=notes)
            else:
                block.rounded[name] = Rounded(
                    weight=block.rounded[name].weight,
                    bits=block.rounded[name].bits,
                    notes=(*notes, "lrq helps nothing: the block stays as it was rounded"),
                )


class Rounding:
    """The rounding of one layer, in its basis, and the leaves that it is made of."""

    def __init__(self, layer: Layer, rank: int) -> None:
        assert layer.quantizer is not None
        self.weight = layer.rotate(layer.weight)
        rows, width = self.weight.shape
        self.rank = min(rank, max(1, min(rows, width) // 4))
        scales = scales_for(layer.quantizer, self.weight.to(layer.dtype), "lrq")
        self.spec, scale, self.zero = scales.whole(self.weight)
        self.is_free = scales.is_free
        if self.is_free and self.spec.strategy in ("group", "channel"):
            scale = searched(self.weight, self.spec, scale, self.zero, scales.length)
        # A group of zeros has the scale 0, which has no logarithm: any scale leaves it at 0.
        self.scale = torch.where(scale > 0, scale, torch.ones_like(scale)) if self.is_free else scale
        self.log_scale = self.scale.log() if self.is_free else None
        self.left = self.weight.new_zeros(rows, self.rank)
        generator = torch.Generator().manual_seed(seed_of(layer.name))
        drawn = torch.empty(self.rank, width)
        bound = math.sqrt(6 / width)
        self.right = (drawn.uniform_(-bound, bound, generator=generator)).to(self.weight.device)
        self.row, self.column = self.weight.new_zeros(rows, 1), self.weight.new_zeros(1, width)

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned."""
        found = [self.left, self.right, self.row, self.column]
        return found if self.log_scale is None else [self.log_scale, *found]

    def __call__(self) -> Tensor:
        """The rounded weight, float32."""
        divided = self.weight / (self.left @ self.right + self.row + self.column).exp()
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        return fake_quant(divided, self.spec, scale=scale, zero_point=self.zero, gradient="clipped")


def searched(weight: Tensor, spec: QuantSpec, scale: Tensor, zero: Tensor | None, length: int) -> Tensor:
    """Each group's scale times the part of 1, 0.99, ..., 0.01 whose error has the least norm 2.4.

    Args:
        weight: ``(rows, width)``.
        spec: Per group or channel, of free scales.
        scale: ``(rows, groups)``.
        zero: Likewise, or None.
        length: Of a group.
    """
    rows, width = weight.shape
    groups = scale.shape[1]
    best, kept = torch.full_like(scale, torch.inf), scale.clone()
    for step in range(_SHRINKS):
        tried = scale * (1 - step / _SHRINKS)
        errors = (fake_quant(weight, spec, scale=tried, zero_point=zero) - weight).abs().pow(_SHRINK_NORM)
        errors = nn.functional.pad(errors, (0, groups * length - width)).view(rows, groups, length).sum(2)
        better = errors < best
        best, kept = torch.where(better, errors, best), torch.where(better, tried, kept)
    return kept
