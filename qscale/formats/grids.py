"""The number formats: one row each, and the values that an element can take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from qscale.errors import SpecError

Kind = Literal["int", "float", "codebook"]
ScaleType = Literal["free", "e8m0", "e4m3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The magnitudes of a sign-magnitude element: an exponent field and a mantissa field, with subnormals.

    The code of a magnitude is its exponent field followed by its mantissa field, so that codes count the
    magnitudes upwards from 0. As in IEEE 754 the bias is ``2**(E-1) - 1`` and exponent field 0 holds the
    subnormals, but no code is an infinity or a NaN unless ``reserved`` sets some apart at the top. Without an
    exponent field (E = 0) there are subnormals alone: fixed point below 2.
    """

    exponent_bits: int
    mantissa_bits: int
    reserved: int = 0  #: magnitude codes at the top that stand for infinity and NaN

    @property
    def bias(self) -> int:
        """What the exponent field is above the exponent."""
        return (1 << self.exponent_bits - 1) - 1 if self.exponent_bits else 0

    @property
    def min_exponent(self) -> int:
        """The exponent of the smallest normal; smaller values are as far apart as those from there on."""
        return 1 - self.bias

    @property
    def smallest_normal(self) -> float:
        """``2**min_exponent``."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def step(self) -> float:
        """The distance of subnormal neighbours: the smallest magnitude above zero."""
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)

    @property
    def count(self) -> int:
        """How many magnitudes there are, zero among them."""
        return (1 << self.exponent_bits + self.mantissa_bits) - self.reserved

    @property
    def max(self) -> float:
        """The largest magnitude."""
        return self.magnitude(self.count - 1)

    @property
    def max_exponent(self) -> int:
        """``floor(log2(max))``: ``emax`` of the MX rules."""
        return math.frexp(self.max)[1] - 1

    def magnitude(self, code: int) -> float:
        """The value of a code from 0 to ``count - 1``.

        >>> [Grid(exponent_bits=2, mantissa_bits=1).magnitude(code) for code in range(8)]
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        """
        field, mantissa = divmod(code, 1 << self.mantissa_bits)
        if field == 0:
            return mantissa * self.step
        return math.ldexp((1 << self.mantissa_bits) + mantissa, field - 1) * self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What one format name stands for."""

    name: str
    kind: Kind
    num_bits: int  #: of one element, sign included
    exponent_bits: int = 0
    mantissa_bits: int = 0
    block: int | None = None  #: elements per scale where the format itself fixes it
    scale_type: ScaleType = "free"  #: "free": granularity and scale type are the user's choice
    reserved: int = 0  #: as in Grid
    codebook: tuple[float, ...] = ()  #: float32 values, ascending, the largest magnitude 1

    @property
    def grid(self) -> Grid | None:
        """The element's grid; None for codebooks, and for integers whose scale is free."""
        if self.kind == "float" or self.scale_type == "e8m0":
            return Grid(
                exponent_bits=self.exponent_bits, mantissa_bits=self.mantissa_bits, reserved=self.reserved
            )
        return None


def _int(bits: int) -> Format:
    return Format(name=f"int{bits}", kind="int", num_bits=bits)


def _float(name: str, exponent: int, mantissa: int, **more: object) -> Format:
    return Format(
        name=name,
        kind="float",
        num_bits=1 + exponent + mantissa,
        exponent_bits=exponent,
        mantissa_bits=mantissa,
        **more,  # type: ignore[arg-type]
    )


def _general(exponent: int, mantissa: int) -> Format:
    """``fp_e3m4``. Eight exponent bits reach as far as float32, whose top field is not a number."""
    reserved = 1 << mantissa if exponent == 8 else 0
    return _float(f"fp_e{exponent}m{mantissa}", exponent, mantissa, reserved=reserved)


_MX = {"block": 32, "scale_type": "e8m0"}
#: The highest code is NaN. OCP 8-bit floating point, table 1.
_E4M3 = {"reserved": 1}
#: The highest exponent field is infinity and NaN.
_E5M2 = {"reserved": 4}

#: bitsandbytes ``functional.py``, create_normal_map: quantiles of a normal distribution.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023),
    1.0,
)
#: bitsandbytes ``functional.py``: 0.0625, 2, 3, 4, 6, 8 and 12 over 12 in float32, both signs.
_FP4_BNB_POSITIVE = (
    *(0.0, 0.0052083334885537624, 0.1666666716337204, 0.25, 0.3333333432674408, 0.5, 0.6666666865348816),
    1.0,
)
_FP4_BNB = (*(-value for value in reversed(_FP4_BNB_POSITIVE[1:])), *_FP4_BNB_POSITIVE)

#: Lee et al. 2023 (dINT4), as far as its summary goes: integers with a code on either side of zero for small
#: values, half a step from it (the half is unverified): 0, 1/2, 1, 2, ..., 6 over 6 in float32, both signs.
_DINT4_POSITIVE = (
    *(0.0, 0.0833333358168602, 0.1666666716337204, 0.3333333432674408, 0.5, 0.6666666865348816),
    *(0.8333333134651184, 1.0),
)
_DINT4 = (*(-value for value in reversed(_DINT4_POSITIVE[1:])), *_DINT4_POSITIVE)

#: The formats that have names of their own.
NAMED: dict[str, Format] = {
    row.name: row
    for row in (
        *(_int(bits) for bits in range(2, 9)),
        _float("fp8_e4m3", 4, 3, **_E4M3),
        _float("fp8_e5m2", 5, 2, **_E5M2),
        _float("fp6_e2m3", 2, 3),
        _float("fp6_e3m2", 3, 2),
        _float("fp4_e2m1", 2, 1),
        _float("fp4_e1m2", 1, 2),
        _float("fp4_e3m0", 3, 0),
        _float("mxfp8_e4m3", 4, 3, **_MX, **_E4M3),
        _float("mxfp8_e5m2", 5, 2, **_MX, **_E5M2),
        _float("mxfp6_e2m3", 2, 3, **_MX),
        _float("mxfp6_e3m2", 3, 2, **_MX),
        _float("mxfp4", 2, 1, **_MX),
        # Sign and 1.xxxxxx in fixed point: -2 is left out.
        Format(name="mxint8", kind="int", num_bits=8, mantissa_bits=7, block=32, scale_type="e8m0"),
        _float("nvfp4", 2, 1, block=16, scale_type="e4m3"),
        Format(name="nf4", kind="codebook", num_bits=4, codebook=_NF4),
        Format(name="fp4_bnb", kind="codebook", num_bits=4, codebook=_FP4_BNB),
        Format(name="dint4", kind="codebook", num_bits=4, codebook=_DINT4),
    )
}

#: Every format by name: the named ones, and ``fp_e<0-8>m<0-10>`` for floating-point laws. A new format is one
#: row of these; it has kernels where ``calls.py`` finds an op that serves it.
FORMATS: dict[str, Format] = NAMED | {
    row.name: row
    for row in (_general(exponent, mantissa) for exponent in range(9) for mantissa in range(11))
    if row.exponent_bits + row.mantissa_bits > 0  # fp_e0m0 would hold zero alone
}


@lru_cache(maxsize=32)
def values(name: str) -> tuple[float, ...]:
    """Every value of an element, ascending, zero once; integers of free scale are symmetric and narrow.

    Raises:
        SpecError: No such format.

    Example:
        >>> values("fp4_e2m1")[7:]
        (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """
    if name not in FORMATS:
        raise SpecError(f"unknown format {name!r}; known: {', '.join(NAMED)} and fp_e<0-8>m<0-10>")
    row = FORMATS[name]
    if row.codebook:
        return row.codebook
    if row.grid is None:
        return tuple(float(code) for code in range(1 - 2 ** (row.num_bits - 1), 2 ** (row.num_bits - 1)))
    upwards = [row.grid.magnitude(code) for code in range(row.grid.count)]
    return (*(-value for value in reversed(upwards[1:])), *upwards)
