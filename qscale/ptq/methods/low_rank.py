"""A low-rank correction of what rounding took away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qscale.ptq.layers import Layer, Rounded
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Need, Statistics, output_error

_BITS = 16
_LEAST = 1e-8  # of the mean second moment: what directions without inputs count


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank(Step):
    """``Q(W) + A B`` with the ``A B`` of a rank that is nearest to ``W - Q(W)`` at the output.

    With ``L L^T = X^T X`` (its eigenvalues at least 1e-8 of their mean), ``A B L`` is the truncated singular
    value decomposition of ``(W - Q(W)) L``: the exact least of ``||X (W - Q(W) - A B)^T||`` at that rank.
    Without ``weighted`` inputs count as white. The product is added to the weight; its bits, 16 for
    each number of A and B, are counted.

    After INT2.1 (arXiv:2306.08162), which adds LoRA matrices to a quantized model and tunes them, LREC;
    objective unverified, rank and schedule not known. The closed form, and the default rank, are our own:
    nothing is tuned.
    """

    name: ClassVar[str] = "low_rank"
    kind: ClassVar[Kind] = "correct"
    needs: ClassVar[tuple[Need, ...]] = ("moments",)

    rank: int = parameter(8, "the rank", low=1, high=2**31)
    weighted: bool = parameter(True, "weighting by the inputs")

    def correct(self, layer: Layer, target: Tensor, rounded: Rounded, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """Add the correction, unless it helps nothing."""
        assert statistics.moments is not None
        residual = target.double() - rounded.weight.double()
        rows, width = residual.shape
        rank = min(self.rank, rows, width)
        moments = statistics.moments
        if not self.weighted or not float(moments.diagonal().amax()):
            moments = torch.eye(width, dtype=torch.float64, device=residual.device)
        product = _nearest(residual, moments, rank)
        corrected = (rounded.weight.double() + product).float()
        errors = [
            output_error(w.double() - target.double(), moments).sum() for w in (rounded.weight, corrected)
        ]
        notes = rounded.notes
        if rank < self.rank:
            notes = (*notes, f"rank {rank} in place of {self.rank}: the layer is {rows} x {width}")
        bits = rounded.bits + _BITS * rank * (rows + width) / (rows * width)
        if not errors[1] < errors[0]:
            return Rounded(weight=rounded.weight, bits=rounded.bits, notes=(*notes, "no correction helps"))
        return Rounded(weight=corrected, bits=bits, notes=notes)


def _nearest(residual: Tensor, moments: Tensor, rank: int) -> Tensor:
    """The product of a rank that is nearest under ``||. L||``."""
    values, vectors = torch.linalg.eigh(moments)
    roots = values.clamp(min=_LEAST * float(values.mean())).sqrt()
    U, S, V = torch.linalg.svd((residual @ vectors) * roots, full_matrices=False)
    product: Tensor = ((U[:, :rank] * S[:rank]) @ V[:rank] / roots) @ vectors.t()
    return product
