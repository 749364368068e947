"""A linear layer while it is quantized after training, and the layers that share its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.planning.memory import weight_bytes
from qscale.ptq.statistics import Statistics
from qscale.quantizers import Quantizer, Rotated


def same(x: Tensor) -> Tensor:
    """A basis that is not rotated."""
    return x


@dataclass(slots=True, kw_only=True, eq=False)
class Layer:
    """What a method sees of a linear layer.

    A method rounds in the layer's own basis, that of its rotation, where there is one.
    """

    name: str
    weight: Tensor  #: float32, ``(out_features, in_features)``, not rotated, factors of the input taken in
    quantizer: Quantizer | None  #: of the weight, in the layer's basis; None: it stays as it is
    rotate: Callable[[Tensor], Tensor] = same  #: rows to the layer's basis
    unrotate: Callable[[Tensor], Tensor] = same  #: and back
    dtype: torch.dtype = torch.float32  #: of the model's weights
    input: Quantizer | None = None  #: of its input, in the layer's basis

    def nearest(self, weight: Tensor) -> Tensor:
        """A weight that is not rotated, rounded to nearest in the layer's basis, and turned back; float32."""
        if self.quantizer is None:
            return weight
        return self.unrotate(self.quantizer(self.rotate(weight).to(self.dtype)).float())

    def quantized_input(self, rows: Tensor) -> Tensor:
        """Inputs in the layer's basis as its input quantizer leaves them; float32."""
        if self.input is None:
            return rows
        given: Tensor = self.input(rows.to(self.dtype))
        return given.float()

    @property
    def spec(self) -> QuantSpec | None:
        """That of the weight."""
        return None if self.quantizer is None else self.quantizer.spec


@dataclass(slots=True, kw_only=True, eq=False)
class Site:
    """An input and the linear layers that take it; a factor of the input is one of all their weights."""

    layers: list[Layer]
    statistics: Statistics  #: of the input, not rotated, factors taken out
    role: str | None = None
    quantizer: nn.Module | None = None  #: of the input, with the recipe's rotation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """A change of an input that the weights make up for: ``x`` becomes ``(x - shift) / scale``."""

    scale: Tensor  #: positive, one a channel
    shift: Tensor | None = None
    quantizer: Quantizer | None = None  #: in place of the recipe's own, in the layers' basis

    @property
    def is_none(self) -> bool:
        """Whether every channel stays as it is."""
        return self.shift is None and bool((self.scale == 1).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounded:
    """A weight that has been rounded."""

    weight: Tensor  #: float32, in the layer's basis
    bits: float  #: of one weight, its share of scales and of whatever else is kept
    notes: tuple[str, ...] = field(default=())  #: what did not go as asked
    parts: tuple[Tensor, Tensor, Tensor] | None = None  #: ``Q``, ``A`` and ``B`` where it is ``Q + A B``


def bits_of(spec: QuantSpec | None, shape: torch.Size, full_bits: int = 16) -> float:
    """Bits of one weight of a matrix, scales and zero points included."""
    rows, width = shape
    return 8 * weight_bytes(spec, (rows, width), full_bits=full_bits).total / (rows * width)


def basis_of(
    quantizer: nn.Module | None,
) -> tuple[Quantizer | None, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The quantizer in the rotated basis, and the way there and back."""
    if isinstance(quantizer, Rotated):
        return quantizer.quantizer, quantizer.basis, quantizer.from_basis
    assert quantizer is None or isinstance(quantizer, Quantizer)
    return quantizer, same, same
