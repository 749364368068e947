"""Small floats: rounding to their values, and the codes of those values, in exact float32 steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["even", "away", "zero", "up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A float of few bits: sign, exponent, mantissa from the top, subnormals kept."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: float  #: finite
    nan_code: int | None = None  #: of a positive NaN
    inf_code: int | None = None  #: of a positive infinity
    negative_zero: bool = True

    @property
    def num_bits(self) -> int:
        """Bits of one element, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def smallest_exponent(self) -> int:
        """The exponent of the smallest normal value, and of every subnormal one."""
        return 1 - self.bias

    @property
    def largest_exponent(self) -> int:
        """floor(log2(largest)): ``emax`` of the MX rules."""
        return int(torch.tensor(self.largest).frexp().exponent) - 1


E4M3 = Element(name="e4m3fn", exponent_bits=4, mantissa_bits=3, bias=7, largest=448.0, nan_code=0x7F)
E5M2 = Element(
    name="e5m2",
    exponent_bits=5,
    mantissa_bits=2,
    bias=15,
    largest=57344.0,
    nan_code=0x7E,
    inf_code=0x7C,
)
E2M3 = Element(name="e2m3", exponent_bits=2, mantissa_bits=3, bias=1, largest=7.5)
E3M2 = Element(name="e3m2", exponent_bits=3, mantissa_bits=2, bias=3, largest=28.0)
E2M1 = Element(name="e2m1", exponent_bits=2, mantissa_bits=1, bias=1, largest=6.0)

E4M3_IEEE = Element(
    name="e4m3",
    exponent_bits=4,
    mantissa_bits=3,
    bias=7,
    largest=240.0,
    nan_code=0x7C,
    inf_code=0x78,
)
E4M3_FNUZ = Element(
    name="e4m3fnuz",
    exponent_bits=4,
    mantissa_bits=3,
    bias=8,
    largest=240.0,
    nan_code=0x80,
    negative_zero=False,
)
E5M2_FNUZ = Element(
    name="e5m2fnuz",
    exponent_bits=5,
    mantissa_bits=2,
    bias=16,
    largest=57344.0,
    nan_code=0x80,
    negative_zero=False,
)

ELEMENTS = {e.name: e for e in (E4M3, E5M2, E2M3, E3M2, E2M1, E4M3_IEEE, E4M3_FNUZ, E5M2_FNUZ)}


def round_to(x: Tensor, element: Element, rounding: Rounding = "even") -> Tensor:
    """Round float32 to the values of ``element``, its exponent range open at the top.

    ``step = 2**(max(floor(log2 |x|), emin) - mantissa_bits)``; the result is ``step`` times the rounded
    ``x / step``. Ties go to the even code or away from zero; ``zero``, ``up`` and ``down`` are directed.
    The sign of a result of zero is that of ``x``; NaN and infinity stay. Values past ``largest`` are not
    clamped: clamp before or after, as the library does.
    """
    step = _step(x, element)
    units = x.abs() / step
    rounded = torch.where(x.isfinite(), _round_units(units, rounding, x < 0) * step, x.abs())
    return rounded.copysign(x)


def _step(x: Tensor, element: Element) -> Tensor:
    """The distance between neighbours at ``|x|``, a power of two."""
    exponent = (x.frexp().exponent - 1).clamp(min=element.smallest_exponent)
    exponent = torch.where(x.isfinite() & (x != 0), exponent, element.smallest_exponent)
    return power_of_two(exponent - element.mantissa_bits)


def _round_units(units: Tensor, rounding: Rounding, negative: Tensor) -> Tensor:
    below = units.floor()
    if rounding == "even":
        return units.round()
    if rounding == "away":
        return below + (units - below >= 0.5).to(units.dtype)
    if rounding == "zero":
        return below
    return torch.where(negative == (rounding == "down"), units.ceil(), below)


def encode(values: Tensor, element: Element) -> Tensor:
    """Codes (uint8) of values that :func:`round_to` gave, up to ``largest``; a NaN must have a code."""
    magnitude = values.abs()
    step = _step(values, element)
    exponent = step.frexp().exponent - 1 + element.mantissa_bits
    units = torch.where(values.isfinite(), magnitude / step, 0.0).to(torch.int32)
    code = units + ((exponent - element.smallest_exponent) << element.mantissa_bits)
    if element.inf_code is not None:
        code = torch.where(values.isinf(), element.inf_code, code)
    if element.nan_code is not None:
        code = torch.where(values.isnan(), element.nan_code, code)
    sign = values.signbit() if element.negative_zero else values < 0
    if element.nan_code == 1 << (element.num_bits - 1):
        sign = sign & ~values.isnan()
    return (code + (sign.to(torch.int32) << (element.num_bits - 1))).to(torch.uint8)


def decode(codes: Tensor, element: Element) -> Tensor:
    """Values (float32) of finite codes; the inverse of :func:`encode`."""
    code = codes.to(torch.int32)
    field = (code >> element.mantissa_bits) & (2**element.exponent_bits - 1)
    units = (code & (2**element.mantissa_bits - 1)) + ((field > 0).to(torch.int32) << element.mantissa_bits)
    exponent = field.clamp(min=1) - element.bias - element.mantissa_bits
    value = units.to(torch.float32) * power_of_two(exponent)
    return torch.where(code >> (element.num_bits - 1) > 0, -value, value)


def power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` in float32, exact from -149 to 127; subnormal results are made by their bits."""
    exponent = exponent.to(torch.int32)
    normal = (exponent + 127).clamp(min=0) << 23
    subnormal = torch.ones_like(exponent) << (exponent + 149).clamp(0, 22)
    return torch.where(exponent >= -126, normal, subnormal).view(torch.float32)
