"""The arithmetic of named libraries, as data: which formats each defines, and its scale and range."""

from __future__ import annotations

from dataclasses import dataclass, field

from qscale.formats.grids import FORMATS

_INT = frozenset(f"int{bits}" for bits in range(2, 9))
_FP8 = frozenset({"fp8_e4m3", "fp8_e5m2"})
_MX_RULES = frozenset({"floor", "ceil", "rceil", "even"})
_SCALE_DTYPES = frozenset({"scale_input", "scale_fp16", "scale_bf16", "scale_e4m3", "scale_e8m0"})
_MX = frozenset(name for name in FORMATS if name.startswith("mx"))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntArithmetic:
    """Integers: scale = max|group| / denominator, or half the distance of the ends where there are two."""

    qmin: int
    qmax: int
    denominator: float  #: a multiple of 1/2


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The exact arithmetic of one library."""

    name: str
    source: str  #: where the arithmetic is defined
    formats: frozenset[str]
    options: frozenset[str] = field(default_factory=frozenset)
    #: Symmetric integers: the largest magnitude is divided by this and 2**(b-1); None: no kernel.
    int_denominator: float | None = None
    full_range: bool = False  #: symmetric integers: codes down to -2**(b-1)
    square_blocks: bool = False
    scale_is_given: bool = False  #: there is no scale of its own: none runs without the caller's


DEFAULT_DIALECT = "qscale"

#: Every dialect by name. A new dialect is one row here.
DIALECTS: dict[str, Dialect] = {
    row.name: row
    for row in (
        Dialect(
            name="qscale",
            source="qscale: absmax / (2**(b-1) - 1), narrow range, half to even, true division, float32",
            formats=frozenset(FORMATS),
            options=frozenset({"asym", "floatzero", "full", "onelevel", "away", "stochastic"})
            | _SCALE_DTYPES
            | _MX_RULES,
            int_denominator=-1,
            square_blocks=True,
        ),
        Dialect(
            name="chen2025",
            source="arXiv:2505.14302: absmax / 2**(b-1), full range, so +absmax is clipped",
            formats=_INT,
            int_denominator=0,
            full_range=True,
        ),
        Dialect(
            name="torchao",
            source="torchao 0.18.0",
            formats=_INT | _FP8 | (_MX - {"mxint8"}) | {"nvfp4"},
            options=frozenset({"asym", "noclip", "onelevel"}) | _MX_RULES,
        ),
        Dialect(
            name="compressed_tensors",
            source="compressed-tensors 0.20.0",
            formats=_INT | {"fp8_e4m3", "mxfp4", "mxfp6_e2m3", "mxfp8_e4m3", "nvfp4"},
            options=frozenset({"asym"}),
        ),
        Dialect(
            name="modelopt",
            source="nvidia-modelopt 0.47.0, eager on a CPU",
            formats=_INT | {"fp8_e4m3", "mxfp4", "mxfp8_e4m3", "nvfp4", "nf4"},
        ),
        Dialect(
            name="te",
            source="TransformerEngine d0067d0 (2026-08-22), pure-torch reference",
            formats=frozenset({"nvfp4"}),
        ),
        Dialect(name="ocp", source="OCP Microscaling Formats 1.0", formats=_MX),
        Dialect(
            name="aten",
            source="torch 2.13.0 fake_quantize",
            formats=_INT,
            options=frozenset({"asym"}),
            scale_is_given=True,
        ),
        Dialect(
            name="microxcaling",
            source="microxcaling 7bc4195 (2024-08-19)",
            formats=_MX,
            options=frozenset({"away"}),
        ),
        Dialect(name="bitsandbytes", source="bitsandbytes 0.50.2", formats=frozenset({"nf4", "fp4_bnb"})),
        Dialect(name="quest", source="QuEST c295afd (2025-05-30), arXiv:2502.05003", formats=_INT),
    )
}


def int_arithmetic(
    dialect: str, num_bits: int, *, symmetric: bool = True, full_range: bool = False
) -> IntArithmetic | None:
    """Range and scale denominator of an integer, or None where the dialect has no such form here.

    >>> int_arithmetic("qscale", 4)
    IntArithmetic(qmin=-7, qmax=7, denominator=7)
    >>> int_arithmetic("qscale", 4, full_range=True)
    IntArithmetic(qmin=-8, qmax=7, denominator=7.5)
    >>> int_arithmetic("qscale", 4, symmetric=False)
    IntArithmetic(qmin=0, qmax=15, denominator=7.5)
    >>> int_arithmetic("chen2025", 4)
    IntArithmetic(qmin=-8, qmax=7, denominator=8)
    """
    row = DIALECTS[dialect]
    if row.int_denominator is None:
        return None
    half = 2 ** (num_bits - 1)
    if not symmetric:
        return IntArithmetic(qmin=0, qmax=2 * half - 1, denominator=half - 0.5)
    return IntArithmetic(
        qmin=-half if full_range or row.full_range else 1 - half,
        qmax=half - 1,
        denominator=half - 0.5 if full_range else half + row.int_denominator,
    )
