"""What a pass did to a model: errors before and after, and bits, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What a pass did to one layer.

    Errors are of the layer's output on sampled inputs, quantized inputs included: ``||y - y'||^2 / ||y||^2``.
    """

    layer: str
    role: str | None
    elements: int  #: weights
    relmse_nearest: float  #: rounded to nearest by the recipe, nothing else
    relmse: float  #: as the method left it
    bits: float  #: of one weight, scales, zero points and all else included
    folded: bool | None  #: whether a change of the input went into what is before it; None: there is none
    notes: tuple[str, ...] = ()

    @property
    def sqnr(self) -> float | None:
        """Signal to noise of the output in dB; None where nothing is lost."""
        return _decibels(self.relmse)

    @property
    def sqnr_nearest(self) -> float | None:
        """That of rounding to nearest."""
        return _decibels(self.relmse_nearest)

    def to_json(self) -> dict[str, Any]:
        """Every field and both ratios."""
        return {**asdict(self), "sqnr": self.sqnr, "sqnr_nearest": self.sqnr_nearest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerReport:
        """Of what :meth:`to_json` gave."""
        values = {item.name: data[item.name] for item in fields(cls)}
        return cls(**{**values, "notes": tuple(values["notes"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A module with a matrix of weights that a pass leaves as it is, such as an embedding or a Conv1D."""

    layer: str
    type: str  #: the class
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pass did to a model."""

    method: str
    recipe: str
    windows: int  #: of calibration
    length: int  #: tokens in each
    layers: tuple[LayerReport, ...]
    left: tuple[Left, ...] = ()  #: not quantized
    before: np.ndarray | None = None  #: losses of held-out sequences, nats per token, where there were any
    after: np.ndarray | None = None

    @property
    def bits_per_weight(self) -> float:
        """The mean over the weights of the layers quantized."""
        return self._mean("bits")

    @property
    def relmse(self) -> float:
        """The mean over weights of the layers' output errors."""
        return self._mean("relmse")

    @property
    def relmse_nearest(self) -> float:
        """That of rounding to nearest."""
        return self._mean("relmse_nearest")

    def _mean(self, name: str) -> float:
        total = sum(layer.elements for layer in self.layers)
        return float(sum(getattr(layer, name) * layer.elements for layer in self.layers)) / total

    def to_json(self) -> dict[str, Any]:
        """Every field, the means, and the layers."""
        return {
            "method": self.method,
            "recipe": self.recipe,
            "calibration": {"windows": self.windows, "length": self.length},
            "bits_per_weight": self.bits_per_weight,
            "relmse": self.relmse,
            "relmse_nearest": self.relmse_nearest,
            "left": [asdict(module) for module in self.left],
            "layers": [layer.to_json() for layer in self.layers],
        }


def _decibels(ratio: float) -> float | None:
    return -10 * math.log10(ratio) if ratio > 0 else None
