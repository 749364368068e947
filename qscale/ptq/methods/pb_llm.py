"""PB-LLM: most weights become one bit, the salient ones keep the recipe's format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.ptq.feedback import error_feedback, inverse_factor
from qscale.ptq.layers import Layer, Rounded, bits_of
from qscale.ptq.methods.gptq import better_rows, clear_dead
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.scales import Found, GroupScales, scales_for
from qscale.ptq.statistics import Need, Statistics

#: Bits of the mean and of the magnitude of the binary weights of a group, and of a weight's part.
_BINARY_SCALES, _MASK = 32, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PBLLM(Step):
    """Partial binarization (PB-LLM; steps of the authors' ``gptq_pb``).

    In each group of columns the ``low`` part of the weights with the least saliency, ``|w|`` or
    ``(w / U_jj)^2``, become ``m + sign(w - m) b``, with ``m`` their mean in the row and ``b`` the mean of
    ``|w - m|``; the others are rounded to the recipe's format (the authors' is of 8 bits: ``w8a16``) under
    scales of their own. Errors are fed back as in GPTQ; ``feedback=false`` rounds each where it is.

    Unlike the authors' code, ``m`` and ``b`` are those of the binary weights alone: theirs count a zero for
    each salient one, which they mark as doubtful. The mask is that of the weights before the group's first
    column. ``low=0.9`` is our choice of a default. As in GPTQ, a row keeps the result without feedback where
    that is better. Bits: 1 or those of the format, one for the mask, two float16 a group beside the scales.
    """

    name: ClassVar[str] = "pb_llm"
    kind: ClassVar[Kind] = "round"
    needs: ClassVar[tuple[Need, ...]] = ("moments",)

    low: float = parameter(0.9, "the part of the weights that becomes binary", low=0.0, high=1.0)
    saliency: str = parameter("magnitude", "what tells salient weights", of=("magnitude", "hessian"))
    feedback: bool = parameter(True, "error feedback")
    damping: float = parameter(0.01, "the part of the mean second moment added", low=0.0, high=1e6)
    block: int = parameter(128, "columns updated together", low=1, high=2**31)

    def check(self, layer: Layer) -> None:
        assert layer.quantizer is not None and layer.spec is not None
        scales_for(layer.quantizer, layer.weight[:1], self.name)
        if layer.spec.strategy == "block":
            raise SpecError(f"{layer.spec}: {self.name} takes groups of a row, not squares")

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:
        """Round a weight."""
        assert layer.quantizer is not None and statistics.moments is not None and layer.spec is not None
        scales = scales_for(layer.quantizer, weight.to(layer.dtype), self.name)
        W, M = weight.double().clone(), statistics.moments.clone()
        dead = clear_dead(M)
        factor, used = inverse_factor(M, self.damping, layer.name)
        notes = [] if used == self.damping else [f"damping raised from {self.damping:g} to {used:g}"]
        at_once = _Partly(self, scales, factor)
        plain = torch.cat(
            [at_once.begin_and_round(start, W) for start in range(0, W.shape[1], scales.length)], dim=1
        ).float()
        rounded = plain
        if self.feedback:
            W[:, dead] = 0.0
            rounded = error_feedback(W, factor, _Partly(self, scales, factor), block=self.block).float()
            rounded, kept = better_rows(rounded, plain, weight, statistics.moments, scales)
            if kept:
                notes.append(f"{kept} of {len(weight)} rows are better without feedback, and go without")
        return Rounded(weight=rounded, bits=self._bits(layer, weight), notes=tuple(notes))

    def _bits(self, layer: Layer, weight: Tensor) -> float:
        spec = layer.spec
        assert spec is not None
        width = weight.shape[1]
        length = width if spec.strategy == "tensor" else spec.group_length(width)
        scales = bits_of(spec, weight.shape) - spec.num_bits
        element = self.low + (1 - self.low) * spec.num_bits
        return element + _MASK + scales + _BINARY_SCALES * -(-width // length) / width


class _Partly:
    """Binary where the mask of the group says so."""

    def __init__(self, step: PBLLM, scales: GroupScales, factor: Tensor) -> None:
        self.step, self.scales, self.factor = step, scales, factor
        self.first = 0
        self.mask = self.mean = self.size = torch.empty(0)
        self.found: Found | None = None

    def begin(self, column: int, weight: Tensor) -> None:
        if column % self.scales.length:
            return
        part = weight[:, column : column + self.scales.length]
        self.first = column
        saliency = part.abs()
        if self.step.saliency == "hessian":
            saliency = (part / self.factor.diagonal()[column : column + part.shape[1]]).square()
        count = round(self.step.low * part.numel())
        lowest = torch.argsort(saliency.flatten(), stable=True)[:count]
        mask = torch.zeros(part.numel(), dtype=torch.bool, device=part.device)
        mask[lowest] = True
        self.mask = mask.view(part.shape)
        few = self.mask.sum(1, keepdim=True).clamp(min=1)
        self.mean = (part * self.mask).sum(1, keepdim=True) / few
        self.size = ((part - self.mean).abs() * self.mask).sum(1, keepdim=True) / few
        self.found = self.scales.find((part * ~self.mask).float())

    def round(self, column: int, values: Tensor) -> Tensor:
        at = slice(column - self.first, column - self.first + 1)
        return self._both(values[:, None], self.mask[:, at])[:, 0]

    def begin_and_round(self, column: int, weight: Tensor) -> Tensor:
        """A whole group at once, without feedback."""
        self.begin(column, weight)
        return self._both(weight[:, column : column + self.scales.length], self.mask)

    def _both(self, values: Tensor, mask: Tensor) -> Tensor:
        assert self.found is not None
        signs = torch.where(values >= self.mean, 1.0, -1.0).double()
        kept = self.scales.round(values, self.found).double()
        return torch.where(mask, self.mean + signs * self.size, kept)
