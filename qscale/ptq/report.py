"""What a pass did to a model: errors before and after, and bits, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
class CacheReport:
    """What a pass did to the keys and values of one attention.

    Errors are of the first batch of calibration, ``||x - x'||^2 / ||x||^2``: of keys as attention takes them,
    of values, and of what the attention module gives, its output layer included. Keys and values that stay in
    full precision for the latest queries count as quantized in the first two.
    """

    attention: str
    elements: int  #: of a token: keys and values
    #: of one element: scales, norms, tables, spread over one window of calibration, and recent tokens in full
    #: precision, a mean over the queries of a window and what they find
    bits: float
    table_bits: int  #: of all tables, which serve every sequence
    bits_of_tables: float  #: their share in ``bits``: nothing where sequences are many or long
    relmse_keys: float
    relmse_values: float
    relmse: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pass did to a model."""

    method: str
    recipe: str
    windows: int  #: of calibration
    length: int  #: tokens in each
    layers: tuple[LayerReport, ...]
    caches: tuple[CacheReport, ...] = ()  #: of a step for keys and values
    left: tuple[Left, ...] = ()  #: not quantized
    before: np.ndarray | None = None  #: losses of held-out sequences, nats per token, where there were any
    after: np.ndarray | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """The mean over the weights of the layers quantized; None where none is."""
        return _mean("bits", self.layers)

    @property
    def relmse(self) -> float | None:
        """The mean over weights of the layers' output errors."""
        return _mean("relmse", self.layers)

    @property
    def relmse_nearest(self) -> float | None:
        """That of rounding to nearest."""
        return _mean("relmse_nearest", self.layers)

    @property
    def bits_per_kv(self) -> float | None:
        """The mean over keys and values of a token, tables included; None without a step for them."""
        return _mean("bits", self.caches)

    def to_json(self) -> dict[str, Any]:
        """Every field, the means, and the layers."""
        return {
            "method": self.method,
            "recipe": self.recipe,
            "calibration": {"windows": self.windows, "length": self.length},
            "bits_per_weight": self.bits_per_weight,
            "relmse": self.relmse,
            "relmse_nearest": self.relmse_nearest,
            "bits_per_kv": self.bits_per_kv,
            "bits_of_tables": _mean("bits_of_tables", self.caches),
            "relmse_keys": _mean("relmse_keys", self.caches),
            "relmse_values": _mean("relmse_values", self.caches),
            "relmse_attention": _mean("relmse", self.caches),
            "left": [asdict(module) for module in self.left],
            "layers": [layer.to_json() for layer in self.layers],
            "caches": [cache.to_json() for cache in self.caches],
        }


def _mean(name: str, parts: Sequence[LayerReport] | Sequence[CacheReport]) -> float | None:
    """The mean over elements; None of nothing."""
    total = sum(part.elements for part in parts)
    return float(sum(getattr(part, name) * part.elements for part in parts)) / total if total else None


def _decibels(ratio: float) -> float | None:
    return -10 * math.log10(ratio) if ratio > 0 else None
