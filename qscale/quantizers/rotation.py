"""Hadamard rotations around a quantizer."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qscale.formats import QuantSpec
from qscale.kernels import hadamard, rotate_fake_quant
from qscale.quantizers.absmax import Absmax
from qscale.quantizers.quantizer import Quantizer


class Rotated(nn.Module):
    """Rotates its input along the last axis, then quantizes: ``Q(x D H)``, in the rotated basis.

    Inputs and weights of a layer are rotated alike, so that their product is that of the plain ones up to
    rounding: ``y = Q(x D H) Q(W D H)^T``. The gradient is that of the quantizer, rotated back. Source:
    Ashkboos et al. 2024 (QuaRot, arXiv:2404.00456); Panferov et al. 2025 (arXiv:2502.05003).

    Args:
        quantizer: None rotates only.
        block: As for ``qscale.hadamard``.
        signs: D, one for each element of the axis or of a block, or None.
    """

    signs: Tensor | None

    def __init__(self, quantizer: Quantizer | None, block: int, signs: Tensor | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.block = block
        self.register_buffer("signs", signs, persistent=False)  # made anew from the layer's name
        self.repeats = quantizer is None or quantizer.repeats

    def forward(self, x: Tensor) -> Tensor:
        """Rotate and fake-quantize ``x``."""
        if isinstance(self.quantizer, Absmax):  # both in one pass
            return rotate_fake_quant(x, self.quantizer.text, self.block, self.signs)
        if x.is_leaf and x.requires_grad and not torch.compiler.is_compiling():  # a weight, kept anyway
            x = _Rotated.apply(x, self.block, self.signs)  # type: ignore[no-untyped-call]
        else:
            x = hadamard(x, self.block, self.signs)
        return x if self.quantizer is None else self.quantizer(x)

    @property
    def spec(self) -> QuantSpec | None:
        """That of the quantizer."""
        return None if self.quantizer is None else self.quantizer.spec

    def extra_repr(self) -> str:
        return f"block={self.block}{', signs' if self.signs is not None else ''}"


class _Rotated(torch.autograd.Function):
    """``hadamard`` of what is kept anyway: saves it, and can make the result again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: int, signs: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, signs)
        ctx.block, ctx.made, ctx.make_again = block, None, _rotate_again
        return hadamard(x, block, signs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.made = None
        return hadamard(grad, ctx.block, ctx.saved_tensors[1], transpose=True), None, None


def _rotate_again(node: Any) -> Tensor:
    if node.made is None:
        x, signs = node.saved_tensors
        node.made = hadamard(x, node.block, signs)
    made: Tensor = node.made
    return made


def signs_of(name: str, width: int) -> Tensor:
    """Random signs for each element of an axis: a function of ``name`` alone, the same in every release."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    bits = np.random.RandomState(seed).randint(0, 2, width)
    return torch.from_numpy(1.0 - 2.0 * bits).float()
