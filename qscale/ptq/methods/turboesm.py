"""TurboESM: keys in the basis of their singular vectors, tables of what was seen, one bit for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.ptq.cache.rotated_table import SeenTable
from qscale.ptq.methods.method import Kind, Step, Storing, parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class TurboESM(Step):
    """Keys by a K-means table in their singular basis, values by one of their own (TurboESM, from its code).

    Keys, after the rotary embedding, are turned into the basis of the right singular vectors of each head's
    keys in calibration. Each coordinate becomes the nearest of 8 values of a K-means table, one table of keys
    and one of values; what it leaves, its sign times the mean magnitude in the vector.

    Not known, and ours: vectors are divided by their root mean square, kept beside the mean magnitude, 16
    bits each (3 + 1 + 32 / 64 bits in place of 32 are the 7.1 times less memory that is claimed, for heads of
    64); tables are of all heads of a module; values are not turned; K-means begins at quantiles and is run
    until it stands still, on up to 4096 vectors a head.
    """

    name: ClassVar[str] = "turboesm"
    kind: ClassVar[Kind] = "cache"

    bits: int = parameter(3, "bits of a value of the table", low=0, high=8)
    residual: bool = parameter(True, "a bit for the sign of what the table leaves")
    svd: bool = parameter(True, "the basis of the singular vectors for keys")

    def key_coder(self, name: str, heads: int, size: int) -> Storing:
        """Keys."""
        return SeenTable(name, heads, size, bits=self.bits, turned=self.svd, residual=self.residual)

    def value_coder(self, name: str, heads: int, size: int) -> Storing:
        """Values."""
        return SeenTable(name, heads, size, bits=self.bits, turned=False, residual=self.residual)
