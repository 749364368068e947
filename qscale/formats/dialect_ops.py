"""Which op computes a spec of another library, and with what numbers; no torch, like ``calls``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qscale.formats.spec import QuantSpec

#: An op and its arguments after the tensor.
Plan = tuple[str, tuple[int, ...]]

#: For ``group_size``: the whole last axis is one group.
_WHOLE_AXIS = -1

#: Elements by the numbers that ops have for them.
ELEMENTS = {"e4m3": 0, "e5m2": 1, "e2m3": 2, "e3m2": 3, "e2m1": 4, "int8": 5}
MAPPINGS = {"symmetric": 0, "noclip": 1, "asymmetric": 2}
SCALE_RULES = {"floor": 0, "ceil": 1, "rceil": 2, "even": 3}
CODEBOOKS = {"nf4": 0, "fp4_bnb": 1}

_ELEMENT_OF = {
    "fp8_e4m3": "e4m3",
    "fp8_e5m2": "e5m2",
    "mxfp8_e4m3": "e4m3",
    "mxfp8_e5m2": "e5m2",
    "mxfp6_e2m3": "e2m3",
    "mxfp6_e3m2": "e3m2",
    "mxfp4": "e2m1",
    "mxint8": "int8",
}

#: Dialects that fill a short last group, or let groups run on from row to row. The others want whole groups.
ANY_LENGTH = ("bitsandbytes", "microxcaling", "te", "ocp")


def plan(spec: QuantSpec) -> Plan | None:
    """The op with compiled kernels that computes ``spec``, or None where there is none.

    >>> plan(QuantSpec.parse("int4:g32@torchao"))
    ('fake_quant_torchao_int', (4, 0, 32))
    """
    chosen = _PLANS.get(spec.dialect)
    found = None if chosen is None else chosen(spec)
    return None if found is None else (f"fake_quant_{spec.dialect}_{found[0]}", found[1])


def whole_groups(spec: QuantSpec) -> int:
    """What the last axis must be a multiple of: the group, or 1 where the library takes any length."""
    return 1 if spec.group_size is None or spec.dialect in ANY_LENGTH else spec.group_size


def _element(spec: QuantSpec) -> int:
    return ELEMENTS[_ELEMENT_OF[spec.format]]


def _group(spec: QuantSpec) -> int:
    return _WHOLE_AXIS if spec.group_size is None else spec.group_size


def _torchao(spec: QuantSpec) -> Plan:
    group = _group(spec)
    if spec.format == "nvfp4":
        return "nvfp4", (int(spec.tensor_scale), group)
    if spec.type == "int":
        # The fake quantizer serves symmetric groups and rows, and asymmetric tokens; the primitives the rest.
        mapping = spec.scale_rule or ("symmetric" if spec.symmetric else "asymmetric")
        by_rows = "token" if mapping == "asymmetric" else "group channel token"
        op = "int" if mapping != "noclip" and spec.strategy in by_rows.split() else "affine"
        return op, (spec.num_bits, MAPPINGS[mapping], group)
    if spec.row.block is None:
        return "float8", (_element(spec), group)
    return "mx", (_element(spec), SCALE_RULES[spec.scale_rule or "floor"], group)


def _compressed_tensors(spec: QuantSpec) -> Plan:
    group = _group(spec)
    if spec.format == "nvfp4":
        return "nvfp4", (group,)
    if spec.type == "int":
        return "int", (spec.num_bits, int(spec.symmetric), group)
    if spec.row.block is None:
        return "float8", (group,)
    return "mx", (_element(spec), group)


def _modelopt(spec: QuantSpec) -> Plan | None:
    group = _group(spec)
    if spec.type == "int":
        return "int", (spec.num_bits, group)
    if spec.format == "nf4" and spec.group_size is None:
        return None
    names = {"fp8_e4m3": "float8", "mxfp8_e4m3": "mxfp8"}
    return names.get(spec.format, spec.format), (group,)


def _bitsandbytes(spec: QuantSpec) -> Plan | None:
    return None if spec.group_size is None else ("4bit", (CODEBOOKS[spec.format], spec.group_size))


_PLANS: Mapping[str, Callable[[QuantSpec], Plan | None]] = {
    "torchao": _torchao,
    "compressed_tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "bitsandbytes": _bitsandbytes,
    "microxcaling": lambda spec: ("mx", (_element(spec), int(spec.rounding == "away"), _group(spec))),
    "te": lambda spec: ("nvfp4", (_group(spec),)),
    "ocp": lambda spec: ("mx", (_element(spec), _group(spec))),
}
