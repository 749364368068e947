"""What an operation of PTX costs: slots to issue, and work for the pipes. An estimate of the machine code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

#: Slots to issue, and results of a thread in each pipe.
Cost = tuple[float, Mapping[str, float]]

_FREE: Cost = (0, {})
#: Operations that become many. A division is a reciprocal, a check, five or so fused steps and a branch; that
#: of 64-bit integers is a call.
_MANY: Mapping[str, Cost] = {
    "div.rn.f32": (10, {"xu": 1, "fma": 6, "alu": 1}),
    "rcp.rn.f32": (8, {"xu": 1, "fma": 3, "alu": 3}),
    "mul.lo.s64": (4, {"fma": 8}),
}
_DIVIDED: Mapping[str, Cost] = {
    "16": (20, {"xu": 2, "fma": 8, "alu": 9}),  # widened first
    "32": (20, {"xu": 2, "fma": 8, "alu": 9}),
    "64": (70, {"xu": 2, "fma": 40, "alu": 26}),
}


def cost(op: str) -> Cost:
    """Of one instruction.

    Moves, parameters (operands from constant memory), signs and magnitudes (parts of other instructions),
    widening and narrowing of integers (register pairs), and logic of predicates cost nothing. Sums and
    logic of 64 bits are two instructions.

    >>> cost("add.s64")
    (2, {'alu': 2})
    """
    if op in _MANY:
        return _MANY[op]
    name, *modifiers = op.split(".")
    kind = modifiers[-1] if modifiers else ""
    if name in ("mov", "cvta", "ret", "exit", "neg", "abs") or kind == "pred" or op.startswith("ld.param"):
        return _FREE
    if name in ("ld", "st", "atom"):
        words = (
            int(kind[1:]) / 32 * max((int(m[1]) for m in modifiers if re.fullmatch(r"v[24]", m)), default=1)
        )
        return (1, {"shared" if "shared" in modifiers else "global": max(words, 1)})
    if name in ("shfl", "redux"):
        return (1, {"shuffle": 1 if name == "shfl" else 2})
    if name in ("bra", "bar"):
        return (1, {})
    if name in ("div", "rem"):
        return _DIVIDED[kind[1:]]
    if kind.startswith("f64") or "f64" in modifiers:
        return (1, {"xu": 2}) if name == "cvt" else (1, {"fp64": 1})
    if name == "cvt":
        return _conversion(modifiers)
    if kind in ("f32", "f16", "f16x2") and name in ("add", "sub", "mul", "fma"):
        return (1, {"fma": 1})
    if name in ("mul", "mad"):
        return (1, {"fma": 2})  # half the rate
    if name in ("clz", "popc"):
        return (1, {"xu": 1})
    wide = kind.endswith("64") and name != "selp"
    return (2, {"alu": 2}) if wide else (1, {"alu": 1})


def _conversion(modifiers: list[str]) -> Cost:
    to, source = modifiers[-2:]
    if to[0] in "sub" and source[0] in "sub" and to != "bf16x2":
        return _FREE
    return (1, {"alu": 1}) if source == "f16" else (1, {"xu": 1})


def total(counts: Mapping[str, int]) -> tuple[float, Counter[str]]:
    """Slots, and work by pipe, of operations and how often each is executed."""
    slots, work = 0.0, Counter()
    for op, count in counts.items():
        issued, pipes = cost(op)
        slots += count * issued
        for pipe, results in pipes.items():
            work[pipe] += count * results
    return slots, work
