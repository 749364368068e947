"""QuantSpec: a number format, the elements that share a scale, and whose arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from qscale.errors import SpecError
from qscale.formats.dialects import DEFAULT_DIALECT, DIALECTS, IntArithmetic, int_arithmetic
from qscale.formats.grids import FORMATS, NAMED, Format

Strategy = Literal["group", "channel", "token", "tensor", "block"]

_STRATEGIES: tuple[Strategy, ...] = ("channel", "token", "tensor")
Rounding = Literal["even", "away", "stochastic"]
ScaleRule = Literal["floor", "ceil", "rceil", "even", "noclip"]
ScaleDtype = Literal["input", "float16", "bfloat16", "e4m3", "e8m0"]
ZeroPoint = Literal["integer", "float"]

#: Options by what they set, in the order of the canonical text.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "asym": ("symmetric", False),
    "floatzero": ("zero_point", "float"),
    "full": ("full_range", True),
    "floor": ("scale_rule", "floor"),
    "ceil": ("scale_rule", "ceil"),
    "rceil": ("scale_rule", "rceil"),
    "even": ("scale_rule", "even"),
    "noclip": ("scale_rule", "noclip"),
    "scale_input": ("scale_dtype", "input"),
    "scale_fp16": ("scale_dtype", "float16"),
    "scale_bf16": ("scale_dtype", "bfloat16"),
    "scale_e4m3": ("scale_dtype", "e4m3"),
    "scale_e8m0": ("scale_dtype", "e8m0"),
    "onelevel": ("tensor_scale", False),
    "away": ("rounding", "away"),
    "stochastic": ("rounding", "stochastic"),
}
_LONGEST = 200  # characters of a spec
_GROUP = re.compile(r"([gb])([1-9][0-9]{0,30})")
_HELP = "format[:granularity][:option...][@dialect], such as int4:g128 or int8:channel:asym@torchao"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """A number format, the elements that share one scale, and the library whose arithmetic is meant.

    Grammar: ``format[:granularity][:option...][@dialect]``. Granularity is ``g<elements>``, ``channel``,
    ``token``, ``tensor``, or ``b<edge>`` for square blocks of the last two axes; formats with a block of
    their own (MX, NVFP4) take none, or a square of that edge. Beside the named formats there are
    ``fp_e<exponent bits>m<mantissa bits>``, such as ``fp_e3m4``. Options, in this order: ``asym`` (integers
    with a zero point), ``floatzero`` (one that is not an integer), ``full`` (symmetric integers down to
    ``-2**(b-1)``); how a scale is chosen where the dialect leaves it open, ``floor``, ``ceil``, ``rceil`` or
    ``even`` (the exponent of an MX scale), ``noclip`` (integers: the larger of both ends); the type that a
    free scale is rounded to, ``scale_input`` (that of the tensor), ``scale_fp16``, ``scale_bf16``,
    ``scale_e4m3`` or ``scale_e8m0``; ``onelevel`` (E4M3 scales, NVFP4's among them, without one of the
    tensor); rounding of ties ``away`` from zero, or ``stochastic``. ``str(QuantSpec.parse(text)) == text``
    for canonical text: the default dialect left out.

    Raises:
        SpecError: Unknown format, option or dialect (the nearest known name is given), a granularity that
            does not go with the format, or a format that the dialect does not define.

    Example:
        >>> QuantSpec.parse("int4:g128").group_size
        128
        >>> str(QuantSpec.parse("int2:g64:stochastic"))
        'int2:g64:stochastic'
    """

    format: str  #: a key of ``grids.FORMATS``
    strategy: Strategy
    group_size: int | None = None  #: elements along the reduction axis, for ``group`` and ``block``
    symmetric: bool = True
    zero_point: ZeroPoint = "integer"  #: where it is not symmetric
    full_range: bool = False  #: symmetric integers: codes down to -2**(b-1)
    scale_rule: ScaleRule | None = None  #: None: the dialect's own
    scale_dtype: ScaleDtype | None = None  #: None: float32, or what the format fixes
    tensor_scale: bool = True  #: E4M3 scales: a second one for the whole tensor
    rounding: Rounding = "even"
    dialect: str = DEFAULT_DIALECT

    def __post_init__(self) -> None:
        row = _known("format", self.format, FORMATS)
        dialect = _known("dialect", self.dialect, DIALECTS)
        if self.strategy not in ("group", "block", *_STRATEGIES):
            raise SpecError(
                f"granularity {self.strategy!r}: use g<elements>, b<edge>, channel, token or tensor"
            )
        if (self.strategy in ("group", "block")) != (self.group_size is not None):
            raise SpecError(f"group_size={self.group_size} does not go with granularity {self.strategy!r}")
        if self.group_size is not None and not 1 <= self.group_size < 2**63:
            raise SpecError(f"group_size={self.group_size}: a group has 1 to 2**63 - 1 elements")
        if row.block is not None and self.group_size != row.block:
            raise SpecError(f"{self.format} {_fixed_block(row.block)}")
        for option in self._options():
            if not _goes_with(option, self):
                raise SpecError(f"{self.format}: {_WANTS[option]} ({option})")
        if self.format not in dialect.formats:
            raise SpecError(
                f"dialect {self.dialect!r} does not define {self.format}; "
                f"these do: {_join(d.name for d in DIALECTS.values() if self.format in d.formats)}"
            )
        for option in self._options():
            if option not in dialect.options:
                raise SpecError(
                    f"dialect {self.dialect!r} does not define {self.format} with {option}; "
                    f"these do: {_join(d.name for d in DIALECTS.values() if option in d.options)}"
                )
        if self.strategy == "block" and not dialect.square_blocks:
            raise SpecError(
                f"dialect {self.dialect!r} does not define square blocks (b{self.group_size}); "
                f"these do: {_join(d.name for d in DIALECTS.values() if d.square_blocks)}"
            )

    @classmethod
    def parse(cls, text: str | QuantSpec) -> QuantSpec:
        """Read a spec from its text; a spec is returned as it is."""
        if isinstance(text, QuantSpec):
            return text
        if not isinstance(text, str):
            raise SpecError(f"a spec is a text or a QuantSpec, not {text!r}: the form is {_HELP}")
        if len(text) > _LONGEST:
            raise SpecError(f"a spec of {len(text)} characters, starting {text[:20]!r}: the form is {_HELP}")
        body, at, dialect = text.partition("@")
        name, *parts = body.split(":")
        if not name or (at and not dialect) or "" in parts:
            raise SpecError(f"{text!r} cannot be read: the form is {_HELP}")
        row = _known("format", name, FORMATS)
        strategy, group_size = _default_granularity(row)
        if parts and (span := _granularity(parts[0])) is not None:
            if row.block is not None and span != ("block", row.block):
                raise SpecError(f"{text!r}: {name} {_fixed_block(row.block)}")
            strategy, group_size = span
            parts = parts[1:]
        if strategy is None:
            came = f", not {parts[0]!r}" if parts and parts[0] not in _OPTIONS else ""
            raise SpecError(
                f"{text!r}: {name} needs a granularity, such as {name}:g128, {name}:b128, {name}:channel, "
                f"{name}:token or {name}:tensor{came}"
            )
        for option in parts:
            _known("option", option, _OPTIONS)
        fields = dict(_OPTIONS[option] for option in parts)
        if parts != [option for option in _OPTIONS if option in parts] or len(fields) < len(parts):
            raise SpecError(f"{text!r}: give each option once, one of a kind, in the order {_join(_OPTIONS)}")
        return cls(
            format=name,
            strategy=strategy,
            group_size=group_size,
            dialect=dialect or DEFAULT_DIALECT,
            **fields,
        )

    def __str__(self) -> str:
        parts = [self.format]
        if self.strategy == "block":
            parts.append(f"b{self.group_size}")
        elif self.row.block is None:
            parts.append(f"g{self.group_size}" if self.strategy == "group" else self.strategy)
        parts += self._options()
        return ":".join(parts) + ("" if self.dialect == DEFAULT_DIALECT else f"@{self.dialect}")

    def _options(self) -> list[str]:
        return [option for option, (field, value) in _OPTIONS.items() if getattr(self, field) == value]

    @property
    def row(self) -> Format:
        """The format's row in the table of formats."""
        return FORMATS[self.format]

    @property
    def num_bits(self) -> int:
        """Bits of one element, sign included; scales are not counted."""
        return self.row.num_bits

    @property
    def type(self) -> str:
        """``int``, ``float`` or ``codebook``."""
        return self.row.kind

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the field names of compressed-tensors where it has them."""
        return {
            "format": self.format,
            "num_bits": self.num_bits,
            "type": self.type,
            "symmetric": self.symmetric,
            "zero_point": self.zero_point,
            "full_range": self.full_range,
            "strategy": self.strategy,
            "group_size": self.group_size,
            "scale_rule": self.scale_rule,
            "scale_dtype": self.scale_dtype,
            "tensor_scale": self.tensor_scale,
            "rounding": self.rounding,
            "dialect": self.dialect,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantSpec:
        """The inverse of :meth:`to_json`; ``num_bits`` and ``type`` must agree with the format."""
        fields = dict(data)
        implied = {key: fields.pop(key) for key in ("num_bits", "type") if key in fields}
        for key in fields:
            _known("field", key, cls.__dataclass_fields__)
        if missing := [key for key in ("format", "strategy") if key not in fields]:
            raise SpecError(f"a spec needs the field {missing[0]!r}; it has {_join(sorted(data))}")
        spec = cls(**fields)
        for key, value in implied.items():
            if getattr(spec, key) != value:
                raise SpecError(f"{spec.format} has {key}={getattr(spec, key)!r}, not {value!r}")
        return spec

    def group_length(self, in_features: int) -> int:
        """Elements that share a scale along a reduction axis of ``in_features``: the G of a law.

        A group larger than the axis is one group of the whole axis. ``tensor`` scales have no G.

        Raises:
            SpecError: For the strategy ``tensor``.
        """
        if self.strategy == "tensor":
            raise SpecError(f"{self}: one scale for the whole tensor has no group length")
        if self.group_size is None:
            return in_features
        return min(self.group_size, in_features)

    def int_arithmetic(self) -> IntArithmetic | None:
        """Range and scale denominator where this is an integer that has a kernel, else None."""
        if self.type != "int" or self.row.block is not None:
            return None
        return int_arithmetic(
            self.dialect, self.num_bits, symmetric=self.symmetric, full_range=self.full_range
        )

    @property
    def has_tensor_scale(self) -> bool:
        """Whether there is a second scale, of the whole tensor."""
        return self.tensor_scale and "e4m3" in (self.row.scale_type, self.scale_dtype)


_SCALE_OPTIONS = ("scale_input", "scale_fp16", "scale_bf16", "scale_e4m3", "scale_e8m0")
#: What each option goes with, for people.
_WANTS = {
    "asym": "only plain integer formats have a zero point",
    "floatzero": "only an integer format with asym has a zero point",
    "full": "only symmetric plain integers leave out a code",
    **dict.fromkeys(("floor", "ceil", "rceil", "even"), "only MX formats choose the exponent of a scale"),
    "noclip": "only plain integer formats have two ends",
    **dict.fromkeys(_SCALE_OPTIONS, "the format has a type of its own for scales"),
    "onelevel": "only E4M3 scales have one of the tensor beside them",
    **dict.fromkeys(("away", "stochastic"), "codebooks have no ties"),
}


def _goes_with(option: str, spec: QuantSpec) -> bool:
    row = spec.row
    if option in ("asym", "noclip", "full", "floatzero"):
        plain = row.kind == "int" and row.block is None
        return plain and (option not in ("full", "floatzero") or spec.symmetric == (option == "full"))
    if option in ("floor", "ceil", "rceil", "even"):
        return row.scale_type == "e8m0"
    if option in _SCALE_OPTIONS:
        return row.scale_type == "free"
    if option == "onelevel":
        return "e4m3" in (row.scale_type, spec.scale_dtype)
    return row.kind != "codebook"


def _fixed_block(block: int) -> str:
    return f"fixes its own block of {block}: give no granularity, or b{block} for squares"


def _default_granularity(row: Format) -> tuple[Strategy | None, int | None]:
    return (None, None) if row.block is None else ("group", row.block)


def _granularity(part: str) -> tuple[Strategy, int | None] | None:
    if match := _GROUP.fullmatch(part):
        return "group" if match[1] == "g" else "block", int(match[2])
    return next(((strategy, None) for strategy in _STRATEGIES if part == strategy), None)


def _known(what: str, name: str, table: Any) -> Any:
    """The row of a table, or a SpecError with the nearest known name."""
    if name in table:
        return table[name] if isinstance(table, Mapping) else name
    nearest = get_close_matches(str(name), list(table), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    known = (*NAMED, "fp_e<0-8>m<0-10>") if table is FORMATS else table
    raise SpecError(f"unknown {what} {name!r}; {hint}known: {_join(known)}")


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)
