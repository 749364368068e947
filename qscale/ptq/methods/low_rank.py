"""A low-rank correction of what rounding took away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from qscale.ptq.layers import Layer, Rounded
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Need, Statistics, output_error
from qscale.ptq.tuning import Tuning

_BITS = 16
_LEAST = 1e-8  # of the mean second moment: what directions without inputs count


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank(Step):
    """``Q(W) + A B`` with the ``A B`` of a rank that is nearest to ``W - Q(W)`` at the output.

    With ``L L^T = X^T X`` (its eigenvalues at least 1e-8 of their mean), ``A B L`` is the truncated singular
    value decomposition of ``(W - Q(W)) L``: the exact least of ``||X (W - Q(W) - A B)^T||`` at that rank.
    Without ``weighted`` inputs count as white. The product is added to the weight; its bits, 16 for
    each number of A and B, are counted.

    After INT2.1 (arXiv:2306.08162, abstract), which adds LoRA matrices to a quantized model and tunes them,
    LREC: with ``lrec`` that many steps of Adam follow on A and B of all layers of a block, which begin as the
    closed form, to match the outputs of the block without quantizers; the objective is unverified. The best
    that was seen is kept, the closed form among it. Rank, schedule and rate are not known, and ours; so is
    the closed form.
    """

    name: ClassVar[str] = "low_rank"
    kind: ClassVar[Kind] = "correct"
    needs: ClassVar[tuple[Need, ...]] = ("moments",)

    rank: int = parameter(8, "the rank", low=1, high=2**31)
    weighted: bool = parameter(True, "weighting by the inputs")
    lrec: int = parameter(0, "steps of Adam a block", low=0, high=10**9)
    rate: float = parameter(1e-3, "their learning rate", low=0.0, high=1.0)

    def correct(self, layer: Layer, target: Tensor, rounded: Rounded, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """Add the correction, unless it helps nothing."""
        assert statistics.moments is not None
        residual = target.double() - rounded.weight.double()
        rows, width = residual.shape
        rank = min(self.rank, rows, width)
        moments = statistics.moments
        if not self.weighted or not float(moments.diagonal().amax()):
            moments = torch.eye(width, dtype=torch.float64, device=residual.device)
        A, B = _nearest(residual, moments, rank)
        corrected = (rounded.weight.double() + A @ B).float()
        errors = [
            output_error(w.double() - target.double(), moments).sum() for w in (rounded.weight, corrected)
        ]
        notes = rounded.notes
        if rank < self.rank:
            notes = (*notes, f"rank {rank} in place of {self.rank}: the layer is {rows} x {width}")
        bits = rounded.bits + _BITS * rank * (rows + width) / (rows * width)
        if not errors[1] < errors[0]:
            return Rounded(weight=rounded.weight, bits=rounded.bits, notes=(*notes, "no correction helps"))
        parts = (rounded.weight, A.float(), B.float())
        return Rounded(weight=corrected, bits=bits, notes=notes, parts=parts)

    @property
    def tunes(self) -> bool:
        """Whether factors are learned after the closed form."""
        return self.lrec > 0

    def tune(self, block: Tuning) -> None:
        """Learn the factors of a block's layers together."""
        parts = {name: r.parts for name, r in block.rounded.items() if r.parts is not None}
        if not parts:
            return
        before = block.error({})
        factors = {name: (A.clone(), B.clone()) for name, (_, A, B) in parts.items()}

        def weights() -> dict[str, Tensor]:
            return {name: parts[name][0] + A @ B for name, (A, B) in factors.items()}

        leaves = [factor for pair in factors.values() for factor in pair]
        _, best = block.learn(leaves, weights, steps=self.lrec, rate=self.rate)
        if not best < before:
            return
        for name, weight in weights().items():
            block.rounded[name] = replace(
                block.rounded[name], weight=weight, parts=(parts[name][0], *factors[name])
            )


def _nearest(residual: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors, of one norm, of the product of a rank that is nearest under ``||. L||``."""
    values, vectors = torch.linalg.eigh(moments)
    roots = values.clamp(min=_LEAST * float(values.mean())).sqrt()
    U, S, V = torch.linalg.svd((residual @ vectors) * roots, full_matrices=False)
    A, B = U[:, :rank] * S[:rank], (V[:rank] / roots) @ vectors.t()
    ratio = (B.norm() / A.norm().clamp(min=torch.finfo(A.dtype).tiny)).sqrt()
    return (A * ratio, B / ratio) if float(ratio) > 0 else (A, B)
