"""Absmax: scales from the largest magnitude."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.quantizers.quantizer import Quantizer, Scales


class Absmax(Quantizer):
    """Scale each group by its largest magnitude; the gradient passes straight through. Nothing is learned.

    ``s = max|x| / M``, with M and the range of codes those of the spec's dialect, or whatever rule the format
    has. Source: Chen et al. 2025 (arXiv:2505.14302), section 3, where M is ``2**(b-1)``: dialect chen2025.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``, groups along its last axis."""
        return fake_quant(x, self.text)

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        return fake_quant(x, self.text), ()

    def again(self, x: Tensor, scales: Scales) -> Tensor:  # noqa: ARG002
        return fake_quant(x, self.text)

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, None]:  # noqa: ARG002
        return grad, None


class StochasticAbsmax(Quantizer):
    """Absmax with rounding at random: each call in training draws new words; evaluation rounds to nearest.

    Call number ``n`` has the seed ``first + n``, with ``first`` a hash of ``name``: layers draw differently
    and no other random state is used. The buffer ``calls`` is ``n``; with it in the checkpoint a resumed run
    draws the words that it would have drawn. In evaluation (``eval()``) values round to nearest, ties to
    even, and ``calls`` stays: a model is measured, and shipped, with weights that were rounded once.
    """

    repeats = False
    calls: Tensor

    def __init__(self, spec: QuantSpec, name: str = "") -> None:
        super().__init__(spec)
        self.nearest = self.text.replace(":stochastic", "")
        self.first_seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``, groups along its last axis."""
        if not self.training:
            return fake_quant(x, self.nearest)
        self.calls += 1
        return fake_quant(x, self.text, seed=self.first_seed + int(self.calls))
