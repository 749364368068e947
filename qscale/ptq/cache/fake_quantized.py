"""Keys or values in a number format, with scales of a token or of a channel."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.planning.memory import bits_per_weight
from qscale.ptq.cache.coder import Coder
from qscale.ptq.scales import GroupScales
from qscale.ptq.statistics import Statistics


def check_stored(spec: QuantSpec, what: str) -> None:
    """Raise where a spec has scales that a cache, which grows by a token at a time, cannot have.

    Raises:
        SpecError: As said.
    """
    if spec.strategy in ("tensor", "block") or spec.has_tensor_scale:
        raise SpecError(
            f"{what} {spec}: a scale over tokens that are yet to come; use token, g<elements>, "
            "or nvfp4:onelevel"
        )
    if spec.rounding == "stochastic":
        raise SpecError(f"{what} {spec}: a cache is rounded to nearest; leave stochastic out")


class PerToken(Coder):
    """Groups along a head, scales of each token."""

    def __init__(self, name: str, heads: int, size: int, spec: QuantSpec) -> None:
        super().__init__(name, heads, size)
        check_stored(spec, name)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize."""
        return fake_quant(x, self.spec)

    @property
    def bits(self) -> float:
        """Scales of each group of each token included."""
        return bits_per_weight(self.spec, in_features=self.size)


class PerChannel(Coder):
    """Groups of tokens in one channel, or one scale a channel for good, of the ends seen in calibration.

    With a group, tokens of a group share a scale: a query must find the tokens of a group that is not
    complete in full precision (:class:`qscale.models.attention.Recent`).
    """

    scale: Tensor | None
    zero: Tensor | None

    def __init__(self, name: str, heads: int, size: int, spec: QuantSpec) -> None:
        self.is_fixed = spec.strategy in ("channel", "token")
        super().__init__(name, heads, size, ("range",) if self.is_fixed else ())
        check_stored(spec, name)
        self.spec = replace(spec, strategy="channel") if self.is_fixed else spec
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("zero", None, persistent=False)

    def made_of(self, seen: list[Statistics]) -> None:
        """Scales of the ends of each channel."""
        if not self.is_fixed:
            return
        low = torch.stack([s.low for s in seen if s.low is not None])
        high = torch.stack([s.high for s in seen if s.high is not None])
        ends = torch.stack([low, high], dim=-1).flatten(0, 1)
        found = GroupScales(ends, self.spec).find(ends)
        shape = (self.heads, self.size, 1)
        # A channel that was always 0 has a scale of 0: what is not 0 later is lost.
        self.keep("scale", found.scale.view(shape))
        if found.zero is not None:
            self.keep("zero", found.zero.view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize along tokens."""
        columns = x.transpose(-1, -2).contiguous()
        if self.is_fixed:
            made = fake_quant(columns, self.spec, scale=self.scale, zero_point=self.zero)
        else:
            made = fake_quant(columns, self.spec)
        return made.transpose(-1, -2)

    @property
    def bits(self) -> float:
        """Scales of groups of tokens included; those of calibration are a table."""
        return self.spec.num_bits if self.is_fixed else bits_per_weight(self.spec)

    @property
    def table_bits(self) -> int:
        """A scale, and a zero point where there is one, of each channel."""
        if not self.is_fixed:
            return 0
        each = bits_per_weight(self.spec, in_features=1) - self.spec.num_bits
        return round(each * self.heads * self.size)
