"""Which op computes a spec, and with what numbers. No torch: planners ask here whether it has a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qscale.formats import dialect_ops
from qscale.formats.dialects import DEFAULT_DIALECT, DIALECTS
from qscale.formats.grids import FORMATS, NAMED
from qscale.formats.spec import QuantSpec

#: For ``group_size``: the whole last axis is one group.
WHOLE_AXIS = -1

#: Options as the ops take them.
ROUNDINGS = {"even": 0, "away": 1, "stochastic": 2}
ZERO_POINTS = {"none": 0, "integer": 1, "float": 2}
#: How a scale is rounded: not at all, to a power of two by a rule, or to a type.
SCALE_KINDS = {
    "float32": 0,
    "floor": 1,
    "ceil": 2,
    "rceil": 3,
    "even": 4,
    "float16": 5,
    "bfloat16": 6,
    "e4m3": 7,
    "input": 8,
}
CODEBOOKS = {"nf4": 0, "fp4_bnb": 1, "dint4": 2}
EMULATED = "fake_quant_emulated"
#: The ops of dialects ``qscale`` and ``chen2025``; their last argument is the seed of stochastic rounding.
FAMILIES = ("fake_quant_int", "fake_quant_float", "fake_quant_codebook")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An op of the namespace ``qscale`` and its arguments after the tensor."""

    op: str
    arguments: tuple[int | float | str, ...]
    whole_tensor: bool = False  #: the tensor is taken as one axis
    whole_groups: int = 1  #: the last axis must be a multiple of it


def call_for(spec: QuantSpec) -> Call | None:
    """The op that computes ``spec`` bit for bit, or None where none does.

    >>> call = call_for(QuantSpec.parse("int4:g32"))
    >>> call.op, call.arguments
    ('fake_quant_int', (-7, 7, 7, 0, 0, 0, 32, 1, 0, 0))
    """
    found = _op_and_numbers(spec)
    if found is None:
        return None
    op, numbers = found
    whole_groups = dialect_ops.whole_groups(spec) if spec.dialect in _EMULATED else 1
    return Call(
        op=op,
        arguments=numbers,
        whole_tensor=spec.strategy == "tensor" and op != EMULATED,
        whole_groups=whole_groups,
    )


#: Specs that ``qscale.kernels.dialects`` computes, by dialect; a test holds the two together.
_EMULATED: Mapping[str, Callable[[QuantSpec], bool]] = {
    **dict.fromkeys(("torchao", "compressed_tensors", "microxcaling", "te", "ocp"), lambda _: True),
    "modelopt": lambda spec: spec.format != "nf4" or spec.group_size is not None,
    "bitsandbytes": lambda spec: spec.group_size is not None,
    "quest": lambda spec: spec.strategy in ("channel", "token"),
}


def _op_and_numbers(spec: QuantSpec) -> tuple[str, tuple[int | float | str, ...]] | None:
    row, grid = spec.row, spec.row.grid
    if spec.dialect in _EMULATED:
        return dialect_ops.plan(spec) or ((EMULATED, (str(spec),)) if _EMULATED[spec.dialect](spec) else None)
    options = _options(spec)
    if (integers := spec.int_arithmetic()) is not None:
        zero_point = ZERO_POINTS["none" if spec.symmetric else spec.zero_point]
        numbers = (integers.qmin, integers.qmax, integers.denominator, zero_point)
        return "fake_quant_int", (*numbers, *options)
    if spec.dialect != DEFAULT_DIALECT:
        return None
    if row.codebook:
        return "fake_quant_codebook", (CODEBOOKS[row.name], *options)
    if grid is not None:
        return "fake_quant_float", (grid.mantissa_bits, grid.min_exponent, grid.max, *options)
    return None


def _options(spec: QuantSpec) -> tuple[int, ...]:
    """scale_kind, tensor_level, group_size, block_rows, rounding, seed: what every op is asked."""
    kind = {"free": spec.scale_dtype or "float32", "e8m0": spec.scale_rule or "floor", "e4m3": "e4m3"}
    scale = kind[spec.row.scale_type]
    return (
        SCALE_KINDS["rceil" if scale == "e8m0" else scale],
        int(spec.has_tensor_scale),
        WHOLE_AXIS if spec.group_size is None else spec.group_size,
        spec.group_size if spec.strategy == "block" and spec.group_size else 1,
        ROUNDINGS[spec.rounding],
        0,
    )


def has_kernel(spec: QuantSpec) -> bool:
    """Whether ``fake_quant`` computes ``spec``."""
    return call_for(spec) is not None


def served() -> str:
    """What has kernels, dialect by dialect, for messages."""
    lines = []
    for dialect in DIALECTS.values():
        names = [name for name in NAMED if name in dialect.formats and _is_served(name, dialect.name)]
        if names:
            lines.append(f"{dialect.name}: {', '.join(names)}")
    return "; ".join(lines)


def _is_served(name: str, dialect: str) -> bool:
    """Whether there is a kernel for some granularity, without options."""
    spans = [""] if FORMATS[name].block else [":g32", ":channel"]
    return any(has_kernel(QuantSpec.parse(f"{name}{span}@{dialect}")) for span in spans)
