"""What the gate looks for in a compiled kernel."""

from __future__ import annotations

import re

from ptx.build import Compiled
from ptx.listing import Kernel

#: Operations whose last bits are the processor's own, and those that lose subnormals.
_INEXACT = re.compile(r"(div|rcp|sqrt|rsqrt|ex2|lg2|sin|cos|tanh)\.(approx|full)|\.ftz\b")
#: Without a rounding mode, ptxas may make one instruction of a product and a sum.
_CONTRACTIBLE = re.compile(r"(add|sub|mul|mad)(\.sat)?\.f(16x2|16|32|64|bf16)$")


def inexact(kernel: Kernel) -> set[str]:
    """Operations that need not round as they were written."""
    return {op for op in kernel.operations if _INEXACT.search(op) or _CONTRACTIBLE.match(op)}


def fused(kernel: Kernel) -> bool:
    """Whether a product and a sum are one operation."""
    return any(op.startswith("fma.") for op in kernel.operations)


def outside_registers(compiled: Compiled) -> bool:
    """Whether something of a thread lies in memory."""
    usage, kernel = compiled.usage, compiled.kernel
    accessed = any(".local" in op for op in kernel.operations)
    return bool(usage.spilled or usage.stack or usage.local or kernel.local_bytes or accessed)


def widest(kernel: Kernel, access: str) -> int:
    """Bytes of the widest access ``ld`` or ``st`` to global memory."""
    pattern = re.compile(rf"{access}\.global(?:\.\w+)*?(?:\.v([24]))?\.[a-z]+(\d+)")
    found = map(pattern.fullmatch, kernel.operations)
    return max((int(m[1] or 1) * int(m[2]) // 8 for m in found if m is not None), default=0)


def shuffles(kernel: Kernel) -> int:
    """How many exchanges between lanes it has."""
    return sum(op.startswith(("shfl.sync", "redux.sync")) for op in kernel.operations)
