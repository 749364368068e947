"""QJL: keys as the signs of random projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.formats import QuantSpec
from qscale.ptq.cache.fake_quantized import PerToken, check_stored
from qscale.ptq.cache.sketched import Sketched
from qscale.ptq.methods.method import Kind, Step, Storing, parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class QJL(Step):
    """One-bit sketches of keys, values rounded by token (QJL; steps of the authors' code).

    A key is stored as ``sign(S^T k)`` and ``|k|``, with ``S`` normal directions, each chunk of them as long
    as a head made orthogonal and multiplied by ``sqrt(d)``. The channels with the largest norm are sketched
    apart, ``|k_rest|^2 = |k|^2 - |k_large|^2``. Scores are ``c / m |k| <S^T q, sign(S^T k)>``, without bias:
    linear in ``q``, hence the product of ``q`` with one vector, which takes the key's place here. (Quantized
    inputs of a softmax still give biased outputs.)

    Departures: ``c`` is the exact one of orthogonal chunks, not the authors' ``sqrt(pi / 2)``, which is
    larger by a part of ``1 / (4 d)`` and right for ``orthogonal=false``; large channels are those of
    calibration, where theirs are found in the text so far; each part is sketched in its own channels, where
    theirs are zeroed; no Hadamard matrix before ``S``. The defaults of ``bits``, ``outliers`` and ``values``
    are our own; how the authors round values is unverified.
    """

    name: ClassVar[str] = "qjl"
    kind: ClassVar[Kind] = "cache"

    bits: int = parameter(3, "directions for each channel of a key", low=1, high=64)
    outliers: int = parameter(0, "channels of a head sketched apart", low=0, high=2**31)
    outlier_bits: int = parameter(8, "directions for each of those", low=1, high=256)
    orthogonal: bool = parameter(True, "directions in orthogonal chunks")
    values: str = parameter("int3:token:asym", "the spec of values")

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        check_stored(QuantSpec.parse(self.values), "method qjl: values")

    def key_coder(self, name: str, heads: int, size: int) -> Storing:
        """Sketches."""
        return Sketched(
            name,
            heads,
            size,
            bits=self.bits,
            outliers=self.outliers,
            outlier_bits=self.outlier_bits,
            orthogonal=self.orthogonal,
        )

    def value_coder(self, name: str, heads: int, size: int) -> Storing:
        """Rounded by token."""
        return PerToken(name, heads, size, QuantSpec.parse(self.values))
