"""Which quantizers there are, and which operands and formats each serves. No torch: planners ask here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from qscale.errors import SpecError
from qscale.formats.calls import FAMILIES, call_for, served
from qscale.formats.dialects import DIALECTS
from qscale.formats.spec import QuantSpec

_CALL = re.compile(r"([a-z]\w*)(?:\(([^()/]*)\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A quantizer as a recipe names it."""

    name: str
    operands: tuple[str, ...]
    formats: str  #: what it serves, for people
    serves: Callable[[QuantSpec], bool]
    parameter: str | None = None  #: the one number that it takes, in (0, 1]
    learns: bool = False  #: its scales are learned in training


def _any_kernel(spec: QuantSpec) -> bool:
    return call_for(spec) is not None


def _scaled(spec: QuantSpec) -> bool:
    """A scale may be given in float32, one a group of a row, and no zero point is needed."""
    call = call_for(spec)
    free = spec.symmetric and spec.row.scale_type == "free" and spec.scale_dtype is None
    return call is not None and call.op in FAMILIES and free and _in_rows(spec) and spec.rounding == "even"


def _in_rows(spec: QuantSpec) -> bool:
    return spec.strategy in ("group", "channel", "token")


def _plain_int(spec: QuantSpec) -> bool:
    """An integer of which only the number of bits is used."""
    known = spec.type == "int" and spec.row.block is None and spec.symmetric and not spec.full_range
    plain = spec.scale_dtype is None and spec.scale_rule is None and spec.rounding == "even"
    return known and plain and _in_rows(spec) and spec.dialect in ("qscale", "quest")


def _two_bits(spec: QuantSpec) -> bool:
    return spec.format == "int2" and spec.dialect == "qscale" and _scaled(spec)


_BOTH = ("weight", "input")
_SCALED = (
    "symmetric integers, floats and codebooks with float32 scales per group, channel or token, ties to even"
)
_INTEGERS = "int2 to int8 per group, channel or token, without options"

#: Every quantizer by the name that a recipe uses; ``qscale.quantizers`` has a module for each.
METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(name="absmax", operands=_BOTH, formats="every spec with a kernel", serves=_any_kernel),
        Method(name="clip", operands=_BOTH, formats=_SCALED, serves=_scaled, parameter="ratio"),
        Method(name="lwc", operands=("weight",), formats=_SCALED, serves=_scaled, learns=True),
        Method(name="lac", operands=("input",), formats=_SCALED, serves=_scaled, learns=True),
        Method(name="lsq", operands=_BOTH, formats=_SCALED, serves=_scaled, learns=True),
        Method(name="quest", operands=_BOTH, formats=_INTEGERS, serves=_plain_int),
        Method(name="statsq", operands=("weight",), formats=_INTEGERS, serves=_plain_int),
        Method(
            name="seq",
            operands=("weight",),
            formats="int2 (three values) and int2:full (four) per group or channel",
            serves=_two_bits,
            learns=True,
        ),
    )
}


def parse_call(text: str) -> tuple[str, float | None]:
    """Name and parameter of a quantizer: ``clip(0.9)`` is ``("clip", 0.9)``, ``absmax`` ``("absmax", None)``.

    Raises:
        SpecError: It cannot be read, is not known, or its parameter is missing, superfluous or out of range.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise SpecError(f"quantizer {text!r} cannot be read: use a name such as absmax, or clip(0.9)")
    name, number = match[1], match[2]
    if name not in METHODS:
        nearest = get_close_matches(name, list(METHODS), n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise SpecError(f"unknown quantizer {name!r}; {hint}known: {', '.join(METHODS)}")
    parameter = METHODS[name].parameter
    if (number is None) != (parameter is None):
        wanted = f"takes a {parameter}, such as {name}(0.9)" if parameter else "takes no parameter"
        raise SpecError(f"quantizer {text!r}: {name} {wanted}")
    if number is None:
        return name, None
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise SpecError(f"quantizer {text!r}: {parameter} is a number above 0 and up to 1")
    return name, value


def parse_methods(text: str) -> tuple[str, str]:
    """The quantizers of weight and input: ``absmax/lac`` names both, ``lsq`` is that of either.

    >>> parse_methods("clip(0.90)/lac")
    ('clip(0.9)', 'lac')
    """
    parts = text.split("/")
    if len(parts) > 2:
        raise SpecError(f"quantizer {text!r}: give one, or weight/input such as absmax/lac")
    found = [(name, value) for name, value in map(parse_call, parts)]
    texts = [name if value is None else f"{name}({value:g})" for name, value in found]
    return texts[0], texts[-1]


def check_served(method: str, operand: str, spec: QuantSpec) -> None:
    """Raise where a quantizer does not serve an operand or its spec; the message names what serves.

    Raises:
        SpecError: As said.
    """
    row = METHODS[parse_call(method)[0]]
    if call_for(spec) is None and row.name == "absmax":
        if DIALECTS[spec.dialect].scale_is_given:
            raise SpecError(
                f"{spec}: dialect {spec.dialect!r} has no scale of its own; no quantizer gives one"
            )
        raise SpecError(f"{spec} has no kernel; there are kernels for {served()}")
    fitting = [m.name for m in METHODS.values() if operand in m.operands and m.serves(spec)]
    others = f"{spec} as {operand} is served by {', '.join(fitting)}" if fitting else f"nothing serves {spec}"
    if operand not in row.operands:
        raise SpecError(
            f"quantizer {row.name!r} is for {' and '.join(row.operands)}, not {operand}; {others}"
        )
    if not row.serves(spec):
        raise SpecError(f"quantizer {row.name!r} serves {row.formats}; {others}")
