"""KV: keys and values in a number format, by token or by channel, rotated or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.formats import QuantSpec
from qscale.formats.rotations import Rotation
from qscale.kernels.hadamard_matrices import decompose
from qscale.models.attention import Recent
from qscale.ptq.cache.coder import InHadamard
from qscale.ptq.cache.fake_quantized import PerChannel, PerToken, check_stored
from qscale.ptq.methods.method import Kind, Step, Storing, parameter

_SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class KV(Step):
    """Keys and values rounded to a format.

    ``keys=token``: groups of ``spec`` run along the head of a token. ``keys=channel``: with ``g32``, groups
    of 32 tokens of a channel share a scale, and a query finds the tokens of a group that is not complete in
    full precision, as it would where a cache grows; with ``channel`` or ``token``, each channel has one
    scale, that of the ends seen in calibration, beyond which keys saturate. Values are always by token.

    ``rotation`` rotates each head of keys and of values by a Hadamard matrix (QuaRot's, arXiv:2404.00456,
    who rotate heads on the fly): keys ``after`` the rotary embedding or ``before`` it. Before it, the
    embedding is undone and done again, the same up to rounding as keys stored as ``k_proj`` (and a norm
    behind it) gives them; without an embedding both are the same.

    ``recent`` latest tokens of each query, its own included, stay in full precision. Such windows, and keys
    by channel in groups of tokens, are after KIVI (arXiv:2402.02750; not checked against its code).
    """

    name: ClassVar[str] = "kv"
    kind: ClassVar[Kind] = "cache"

    spec: str = parameter("int4:token", "the spec of keys and values")
    values: str = parameter(_SAME, "the spec of values, where it is another")
    keys: str = parameter("token", "what shares a scale of keys", of=("token", "channel"))
    rotation: str = parameter("none", "where heads are rotated", of=("none", "before", "after"))
    recent: int = parameter(0, "the latest tokens that stay as they are", low=0, high=2**31)

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        for part, spec in (("keys", self._spec), ("values", self._values)):
            check_stored(spec, f"method kv: {part}")

    def key_coder(self, name: str, heads: int, size: int) -> Storing:
        """Rounded by token or by channel."""
        kind = PerChannel if self.keys == "channel" else PerToken
        return self._rotated(kind(name, heads, size, self._spec), size)

    def value_coder(self, name: str, heads: int, size: int) -> Storing:
        """Rounded by token."""
        return self._rotated(PerToken(name, heads, size, self._values), size)

    @property
    def before_rotary(self) -> bool:
        """As ``rotation`` says."""
        return self.rotation == "before"

    @property
    def latest(self) -> dict[str, Recent] | None:
        """The latest tokens, and those of groups that are not complete."""
        group = (self.keys == "channel" and self._spec.group_size) or 1
        if group == 1 and not self.recent:
            return None
        return {
            "key": Recent(tokens=self.recent, group=group),
            "value": Recent(tokens=self.recent),
        }

    @property
    def _spec(self) -> QuantSpec:
        return QuantSpec.parse(self.spec)

    @property
    def _values(self) -> QuantSpec:
        return QuantSpec.parse(self.spec if self.values == _SAME else self.values)

    def _rotated(self, coder: PerChannel | PerToken, size: int) -> Storing:
        if self.rotation == "none":
            return coder
        return InHadamard(coder, Rotation(None).block_for(size, lambda n: decompose(n) is not None))
