"""Keys as one-bit sketches, large channels apart (QJL)."""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.ptq.cache.coder import NUMBER, Coder
from qscale.ptq.cache.sketch import sketch_factor, sketch_matrix, sketched
from qscale.ptq.statistics import Statistics


class Sketched(Coder):
    """Sketches of each vector: one of its largest channels, one of the others, each with a norm.

    Args:
        name: As for :class:`Coder`; the directions are functions of it.
        heads: Likewise.
        size: Likewise.
        bits: Directions for each channel.
        outliers: Channels of each head, those with the largest norm in calibration, that are sketched apart.
        outlier_bits: Directions for each of those.
        orthogonal: Directions in orthogonal chunks.
    """

    order: Tensor
    back: Tensor
    large: Tensor
    rest: Tensor

    def __init__(
        self,
        name: str,
        heads: int,
        size: int,
        *,
        bits: int,
        outliers: int = 0,
        outlier_bits: int = 2,
        orthogonal: bool = True,
    ) -> None:
        self.outliers = min(outliers, size - 1)
        super().__init__(name, heads, size, ("moments",) if self.outliers else ())
        self.each = (outlier_bits, bits)
        self.sizes = (self.outliers, size - self.outliers)
        self.factors = tuple(sketch_factor(n, orthogonal=orthogonal) if n else 0.0 for n in self.sizes)
        for part, n, m in zip(("large", "rest"), self.sizes, self.each, strict=True):
            if n:
                self.keep(part, sketch_matrix(f"{name}.{part}", n, n * m, orthogonal=orthogonal))
        whole = torch.arange(size).expand(heads, size)
        self.register_buffer("order", whole, persistent=False)
        self.register_buffer("back", whole, persistent=False)

    def made_of(self, seen: list[Statistics]) -> None:
        """The order of the channels: those with the largest norm first."""
        if not self.outliers:
            return
        norms = torch.stack([s.moments.diagonal() for s in seen if s.moments is not None])
        self.order = torch.argsort(norms, dim=1, descending=True, stable=True)
        self.back = torch.argsort(self.order, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The vectors that the sketches stand for."""
        wide = x.float()
        if not self.outliers:
            return sketched(wide, self.rest, self.factors[1]).to(x.dtype)
        sorted_ = wide.gather(-1, self.order[:, None].expand_as(x))
        made = [
            sketched(part, matrix, factor)
            for part, matrix, factor in zip(
                torch.split(sorted_, list(self.sizes), dim=-1),
                (self.large, self.rest),
                self.factors,
                strict=True,
            )
        ]
        return torch.cat(made, dim=-1).gather(-1, self.back[:, None].expand_as(x)).to(x.dtype)

    @property
    def bits(self) -> float:
        """Signs, and a norm of each part."""
        norms = NUMBER * (2 if self.outliers else 1)
        return (sum(n * m for n, m in zip(self.sizes, self.each, strict=True)) + norms) / self.size

    @property
    def table_bits(self) -> int:
        """A bit a channel that tells large ones; directions are drawn anew from their name."""
        return self.heads * self.size if self.outliers else 0
