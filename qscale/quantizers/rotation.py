"""Hadamard rotations around a quantizer."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec
from qscale.kernels import hadamard, rotate_fake_quant
from qscale.quantizers.absmax import Absmax
from qscale.quantizers.quantizer import Quantizer, Scales


class Rotated(nn.Module):
    """Rotates its input along the last axis, then quantizes: ``Q(x D H)``, in the rotated basis.

    Inputs and weights of a layer are rotated alike, so that their product is that of the plain ones up to
    rounding: ``y = Q(x D H) Q(W D H)^T``. The gradient is that of the quantizer, rotated back. Source:
    Ashkboos et al. 2024 (QuaRot, arXiv:2404.00456); Panferov et al. 2025 (arXiv:2502.05003).

    Args:
        quantizer: None rotates only.
        block: As for ``qscale.hadamard``.
        signs: D, one for each element of the axis or of a block, or None.
        head: Rotate across heads of this many elements, in blocks of heads: element i of each with element i
            of the others. None rotates along the axis itself.
    """

    signs: Tensor | None

    def __init__(
        self,
        quantizer: Quantizer | None,
        block: int,
        signs: Tensor | None = None,
        head: int | None = None,
    ) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.block = block
        self.head = head
        self.register_buffer("signs", signs, persistent=False)  # made anew from the layer's name
        self.repeats = quantizer is None or quantizer.repeats

    def forward(self, x: Tensor) -> Tensor:
        """Rotate and fake-quantize ``x``."""
        if isinstance(self.quantizer, Absmax) and self.head is None:  # both in one pass
            return rotate_fake_quant(x, self.quantizer.text, self.block, self.signs)
        x = self.basis(x)
        return x if self.quantizer is None else self.quantizer(x)

    @property
    def learned(self) -> Tensor | None:
        """The quantizer's parameter."""
        return None if self.quantizer is None else self.quantizer.learned

    def basis(self, x: Tensor) -> Tensor:
        """``x`` rotated."""
        return self._turn(x, False)

    def from_basis(self, grad: Tensor) -> Tensor:
        """``grad`` rotated back."""
        return self._turn(grad, True)

    def around(self, quantizer: Quantizer | None) -> Rotated:
        """The same rotation before another quantizer."""
        return Rotated(quantizer, self.block, self.signs, self.head)

    def _turn(self, x: Tensor, back: bool) -> Tensor:
        if self.head is None:
            return hadamard(x, self.block, self.signs, transpose=back)
        heads = x.shape[-1] // self.head
        beside = x.unflatten(-1, (heads, self.head)).transpose(-1, -2).flatten(-2)  # type: ignore[no-untyped-call]
        turned = hadamard(beside, self.block, self.signs, transpose=back)
        return turned.unflatten(-1, (self.head, heads)).transpose(-1, -2).flatten(-2)  # type: ignore[no-untyped-call,no-any-return]

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        """As the quantizer does it to what is rotated; so the two below."""
        return (x, ()) if self.quantizer is None else self.quantizer.rounded(x)

    def again(self, x: Tensor, scales: Scales) -> Tensor:
        return x if self.quantizer is None else self.quantizer.again(x, scales)

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, Tensor | None]:
        return (grad, None) if self.quantizer is None else self.quantizer.gradient(grad, x, scales)

    @property
    def spec(self) -> QuantSpec | None:
        """That of the quantizer."""
        return None if self.quantizer is None else self.quantizer.spec

    def extra_repr(self) -> str:
        across = "" if self.head is None else f", head={self.head}"
        return f"block={self.block}{across}{', signs' if self.signs is not None else ''}"


def signs_of(name: str, width: int) -> Tensor:
    """Random signs for each element of an axis: a function of ``name`` alone, the same in every release."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    bits = np.random.RandomState(seed).randint(0, 2, width)
    return torch.from_numpy(1.0 - 2.0 * bits).float()
