"""TurboQuant: a random rotation, a table of the normal distribution, and a sketch of what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.ptq.cache.rotated_table import GaussianTable
from qscale.ptq.methods.method import Kind, Step, Storing, parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class TurboQuant(Step):
    """Keys and values in a random basis, coordinate by coordinate (TurboQuant; unverified throughout).

    A vector is stored as its norm and, in a random orthogonal basis, where the coordinates of ``sqrt(d) x /
    |x|`` are near to standard normal, the nearest of ``2**(b-1)`` Lloyd-Max levels each; what they leave, as
    a one-bit sketch and its norm (see ``qjl``), which makes inner products unbiased over the directions. The
    mean squared error of the table alone, ``b`` bits, is bounded by ``sqrt(3) pi / 2 4^-b`` of ``|x|^2``.

    ``sketch`` says what has one: ``keys``, since values enter no inner product and are nearer with all of
    their bits in the table (our choice), ``both``, or ``none``. Basis and directions are functions of the
    module's name, the same for all its heads.
    """

    name: ClassVar[str] = "turboquant"
    kind: ClassVar[Kind] = "cache"

    bits: int = parameter(4, "bits of a coordinate, norms left out", low=1, high=8)
    sketch: str = parameter("keys", "what has a bit for the sketch", of=("keys", "both", "none"))

    def key_coder(self, name: str, heads: int, size: int) -> Storing:
        """Keys."""
        return GaussianTable(name, heads, size, bits=self.bits, sketch=self.sketch != "none")

    def value_coder(self, name: str, heads: int, size: int) -> Storing:
        """Values."""
        return GaussianTable(name, heads, size, bits=self.bits, sketch=self.sketch == "both")
