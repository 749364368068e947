"""Quantizers by how they choose their scales."""

from __future__ import annotations

import torch
from torch import nn

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant


class Absmax(nn.Module):
    """Scale each group by its largest magnitude; the gradient passes straight through.

    Nothing is learned. Source: Chen et al. 2025 (arXiv:2505.14302), section 3, up to the dialect.

    Raises:
        SpecError: Rounding is stochastic: each call would need a seed of its own.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        if spec.rounding == "stochastic":
            raise SpecError(
                f"{spec}: quantizer 'absmax' gives every call the same random words; use fake_quant"
            )
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantize ``x``, groups along its last axis."""
        return fake_quant(x, self.spec)

    def extra_repr(self) -> str:
        return str(self.spec)


#: Every quantizer by the name that a recipe uses.
QUANTIZERS: dict[str, type[nn.Module]] = {"absmax": Absmax}


def make_quantizer(name: str, spec: QuantSpec | None) -> nn.Module | None:
    """The quantizer module of a recipe, or None for an operand that stays as it is.

    Raises:
        SpecError: Unknown quantizer.
    """
    if name not in QUANTIZERS:
        raise SpecError(f"unknown quantizer {name!r}; known: {', '.join(QUANTIZERS)}")
    return None if spec is None else QUANTIZERS[name](spec)
