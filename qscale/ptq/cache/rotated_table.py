"""Vectors by their norm and the nearest values of a table, coordinate by coordinate, in another basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qscale.ptq.cache.coder import NUMBER, Coder, drawn_rotation
from qscale.ptq.cache.sketch import sketch_factor, sketch_matrix, sketched
from qscale.ptq.cache.tables import k_means, lloyd_max, nearest
from qscale.ptq.statistics import Statistics


class _Tabled(Coder):
    """``sqrt(size) x / |x|`` in a basis, each coordinate by a table, what that leaves by one bit or none."""

    basis: Tensor | None  #: ``(size, size)`` or ``(heads, size, size)``, applied from the right
    table: Tensor
    table_size: int  #: bits of a coordinate in the table

    def forward(self, x: Tensor) -> Tensor:
        """The vectors that are stored."""
        scaled, norm = self.scaled(x.float())
        made = nearest(scaled, self.table)
        made = made + self.left(scaled - made)
        if self.basis is not None:
            made = made @ self.basis.transpose(-1, -2)
        return (made * norm).to(x.dtype)

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates whose mean square is 1, and what multiplies them."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(self.size)
        x = x / torch.where(norm > 0, norm, torch.ones_like(norm))
        return (x if self.basis is None else x @ self.basis), norm

    def left(self, x: Tensor) -> Tensor:
        """What is kept of what the table leaves."""
        return torch.zeros_like(x)


class GaussianTable(_Tabled):
    """A random basis, in which coordinates are near to normal, and the Lloyd-Max table (TurboQuant).

    Args:
        name: As for :class:`Coder`; basis and directions are functions of it.
        heads: Likewise.
        size: Likewise.
        bits: Of one coordinate, the sketch included.
        sketch: Whether one of the bits is a sketch of what the table leaves.
    """

    directions: Tensor

    def __init__(self, name: str, heads: int, size: int, *, bits: int, sketch: bool) -> None:
        super().__init__(name, heads, size)
        self.table_size = bits - 1 if sketch else bits
        self.sketch = sketch
        self.keep("basis", drawn_rotation(f"{name}.basis", size))
        self.keep("table", torch.tensor(lloyd_max(self.table_size), dtype=torch.float64))
        if sketch:
            self.keep("directions", sketch_matrix(f"{name}.sketch", size, size))

    def left(self, x: Tensor) -> Tensor:
        """Its sketch."""
        return sketched(x, self.directions, sketch_factor(self.size)) if self.sketch else super().left(x)

    @property
    def bits(self) -> float:
        """The norm, and that of what the table leaves; the table is that of the normal distribution."""
        return self.table_size + int(self.sketch) + NUMBER * (2 if self.sketch else 1) / self.size


class SeenTable(_Tabled):
    """The basis of the singular vectors of each head, and a table of what was seen (TurboESM).

    Args:
        name: As for :class:`Coder`.
        heads: Likewise.
        size: Likewise.
        bits: Of the table: ``2**bits`` values.
        turned: Whether there is a basis; without, coordinates are those of the model.
        residual: Whether one more bit keeps the sign of what the table leaves, times its mean magnitude.
    """

    def __init__(self, name: str, heads: int, size: int, *, bits: int, turned: bool, residual: bool) -> None:
        super().__init__(name, heads, size, ("moments", "rows") if turned else ("rows",))
        self.table_size, self.turned, self.residual = bits, turned, residual
        self.register_buffer("basis", None, persistent=False)

    def made_of(self, seen: list[Statistics]) -> None:
        """Bases of the moments of each head, and a table of the rows of all heads."""
        if self.turned:
            bases = [torch.linalg.eigh(s.moments)[1].flip(1) for s in seen if s.moments is not None]
            self.keep("basis", torch.stack(bases))
        rows = torch.stack([s.rows for s in seen if s.rows is not None])
        self.keep("table", k_means(self.scaled(rows)[0], self.table_size))

    def left(self, x: Tensor) -> Tensor:
        """Its signs, times the mean magnitude in the vector."""
        if not self.residual:
            return super().left(x)
        return torch.where(x >= 0, 1.0, -1.0) * x.abs().mean(-1, keepdim=True)

    @property
    def bits(self) -> float:
        """The norm, and the mean magnitude."""
        numbers = NUMBER * (2 if self.residual else 1)
        return self.table_size + int(self.residual) + numbers / self.size

    @property
    def table_bits(self) -> int:
        """The table, and the bases where there are."""
        bases = self.heads * self.size**2 if self.turned else 0
        return NUMBER * ((1 << self.table_size) + bases)
