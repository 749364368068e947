"""Rounding to nearest: the recipe's own quantizer, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qscale.ptq.layers import Layer, Rounded, bits_of
from qscale.ptq.methods.method import Kind, Step
from qscale.ptq.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class RTN(Step):
    """Each weight to the nearest value of its format. Serves every spec and quantizer; needs no inputs."""

    name: ClassVar[str] = "rtn"
    kind: ClassVar[Kind] = "round"

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """The bits of the recipe's fake quantization."""
        assert layer.quantizer is not None
        rounded = layer.quantizer(weight.to(layer.dtype)).float()
        return Rounded(weight=rounded, bits=bits_of(layer.spec, weight.shape))
