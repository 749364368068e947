"""The number formats: one row each, and the values that an element can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "float", "codebook"]
ScaleType = Literal["free", "e8m0", "e4m3"]


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


def _int(bits: int) -> Format:
    return Format(name=f"int{bits}", kind="int", num_bits=bits)


def _float(name: str, exponent: int, mantissa: int, **block: object) -> Format:
    return Format(
        name=name,
        kind="float",
        num_bits=1 + exponent + mantissa,
        exponent_bits=exponent,
        mantissa_bits=mantissa,
        **block,  # type: ignore[arg-type]
    )


_MX = {"block": 32, "scale_type": "e8m0"}

#: Every format by name. A new format is one row here, and its kernels.
FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        *(_int(bits) for bits in range(2, 9)),
        _float("fp8_e4m3", 4, 3),
        _float("fp8_e5m2", 5, 2),
        _float("fp6_e2m3", 2, 3),
        _float("fp6_e3m2", 3, 2),
        _float("fp4_e2m1", 2, 1),
        _float("fp4_e1m2", 1, 2),
        _float("fp4_e3m0", 3, 0),
        _float("mxfp8_e4m3", 4, 3, **_MX),
        _float("mxfp8_e5m2", 5, 2, **_MX),
        _float("mxfp6_e2m3", 2, 3, **_MX),
        _float("mxfp6_e3m2", 3, 2, **_MX),
        _float("mxfp4", 2, 1, **_MX),
        Format(name="mxint8", kind="int", num_bits=8, block=32, scale_type="e8m0"),
        _float("nvfp4", 2, 1, block=16, scale_type="e4m3"),
        Format(name="nf4", kind="codebook", num_bits=4),
        Format(name="fp4_bnb", kind="codebook", num_bits=4),
    )
}
