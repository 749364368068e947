"""Small floats: rounding to their values, and the codes of those values, in exact float32 steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qscale.formats.grids import FORMATS, Grid

Rounding = Literal["even", "away", "zero", "up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A float of few bits: the magnitudes of a grid, a sign above them, and codes of what is no number."""

    name: str
    grid: Grid
    nan_code: int | None = None  #: of a positive NaN
    inf_code: int | None = None  #: of a positive infinity
    fnuz: bool = False  #: the bias is one more, and the code of -0 is NaN

    @property
    def num_bits(self) -> int:
        """Bits of one element, sign included."""
        return 1 + self.grid.exponent_bits + self.grid.mantissa_bits

    @property
    def mantissa_bits(self) -> int:
        """Those that are stored."""
        return self.grid.mantissa_bits

    @property
    def bias(self) -> int:
        """What the exponent field is above the exponent."""
        return self.grid.bias + self.fnuz

    @property
    def smallest_exponent(self) -> int:
        """The exponent of the smallest normal value, and of every subnormal one."""
        return self.grid.min_exponent - self.fnuz

    @property
    def largest_exponent(self) -> int:
        """floor(log2(largest)): ``emax`` of the MX rules."""
        return self.grid.max_exponent - self.fnuz

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return self.grid.max / (2 if self.fnuz else 1)


def _grid(format_name: str) -> Grid:
    grid = FORMATS[format_name].grid
    assert grid is not None
    return grid


E4M3 = Element(name="e4m3fn", grid=_grid("fp8_e4m3"), nan_code=0x7F)
E5M2 = Element(name="e5m2", grid=_grid("fp8_e5m2"), nan_code=0x7E, inf_code=0x7C)
E2M3 = Element(name="e2m3", grid=_grid("fp6_e2m3"))
E3M2 = Element(name="e3m2", grid=_grid("fp6_e3m2"))
E2M1 = Element(name="e2m1", grid=_grid("fp4_e2m1"))

_IEEE = Grid(exponent_bits=4, mantissa_bits=3, reserved=8)
E4M3_IEEE = Element(name="e4m3", grid=_IEEE, nan_code=0x7C, inf_code=0x78)
E4M3_FNUZ = Element(name="e4m3fnuz", grid=_grid("fp_e4m3"), nan_code=0x80, fnuz=True)
E5M2_FNUZ = Element(name="e5m2fnuz", grid=_grid("fp_e5m2"), nan_code=0x80, fnuz=True)

ELEMENTS = {e.name: e for e in (E4M3, E5M2, E2M3, E3M2, E2M1, E4M3_IEEE, E4M3_FNUZ, E5M2_FNUZ)}
_OF_GRID: Mapping[Grid | None, Element] = {e.grid: e for e in (E4M3, E5M2, E2M3, E3M2, E2M1)}


def element_of(format_name: str) -> Element:
    """The element of a float format, an MX format among them."""
    return _OF_GRID[FORMATS[format_name].grid]


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
    sign = values < 0 if element.fnuz else values.signbit()
    return (code + (sign.to(torch.int32) << (element.num_bits - 1))).to(torch.uint8)


def decode(codes: Tensor, element: Element) -> Tensor:
    """Values (float32) of finite codes; the inverse of :func:`encode`."""
    code = codes.to(torch.int32)
    field = (code >> element.mantissa_bits) & (2**element.grid.exponent_bits - 1)
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
