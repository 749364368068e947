"""Follows one thread of a launch through its PTX, with the launch's arguments, and counts what it executes.

What lanes pass each other is taken to be the thread's own value, and what other threads left in shared memory
to be 1: that changes values, and no branch of an ordinary tensor.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ptx.listing import Instruction, Kernel, code

#: Shared memory and parameters, where no pointer of a launch can be.
_SHARED, _PARAMETERS = 1 << 60, 1 << 61
_MOST = 2_000_000
_ONE = 0x3F800000

Load = Callable[[int, int], int]  # address and bytes to bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a kernel is launched with; ``arguments`` are bytes, one of each parameter."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int = 0  #: dynamic bytes
    arguments: Sequence[bytes] = ()


@dataclass(slots=True)
class Walk:
    """Where a thread has come to.

    Raises:
        NotImplementedError: An instruction is not known here.
        RuntimeError: It does not end.
    """

    kernel: Kernel
    launch: Launch
    load: Load
    thread: tuple[int, int, int] = (0, 0, 0)
    block: tuple[int, int, int] = (0, 0, 0)
    registers: dict[str, int] = field(default_factory=dict)
    memory: dict[tuple[int, int], int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, int] = field(default_factory=dict)
    most_waited: int = 0  #: bytes from memory that it has asked for before it needs any of them

    def run(self) -> Counter[str]:
        """How often each operation is executed, from the start to the return."""
        at, steps = 0, 0
        instructions, labels = code(self.kernel)
        while at < len(instructions):
            instruction = instructions[at]
            at += 1
            steps += 1
            if steps > _MOST:
                raise RuntimeError(f"{self.kernel.demangled} goes on after {_MOST} instructions")
            taken = instruction.predicate is None or (
                bool(self.registers[instruction.predicate]) != instruction.negated
            )
            self.counts[instruction.op] += 1
            if not taken:
                continue
            if instruction.op in ("ret", "exit"):
                break
            if instruction.op.split(".")[0] == "bra":
                at = labels[instruction.operands[0]]
            else:
                self.execute(instruction)
        return self.counts

    def execute(self, instruction: Instruction) -> None:
        if self.waiting and any(
            r in self.waiting for r in re.findall(r"%\w+", ",".join(instruction.operands[1:]))
        ):
            self.waiting.clear()
        name, *modifiers = instruction.op.split(".")
        run = getattr(self, f"_{name}", None)
        if run is not None:
            run(modifiers, instruction.operands)
            return
        compute = _COMPUTED.get(name)
        if compute is None:
            raise NotImplementedError(f"{instruction.op} in {self.kernel.demangled}")
        to, *sources = instruction.operands
        kind = modifiers[-1]
        values = [_read(self.value(source), kind) for source in sources]
        self.put(to, _bits(compute(modifiers, *values), kind))

    # Operands are bits.

    def value(self, operand: str) -> int:
        if operand in self.registers:
            return self.registers[operand]
        if operand.startswith("{"):
            parts = [self.value(part) for part in _parts(operand)]
            width = (
                16
                if any(part.startswith("%rs") or not part.startswith("%") for part in _parts(operand))
                else 32
            )
            return sum(part << (i * width) for i, part in enumerate(parts))
        if operand.startswith("%"):
            return self._special(operand)
        if operand[:2] in ("0f", "0F", "0d", "0D"):
            return int(operand[2:], 16)
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand):
            return int(operand.removesuffix("U"), 0) & 0xFFFFFFFFFFFFFFFF
        names = [name for name, _ in self.kernel.parameters]
        if operand in names:
            return _PARAMETERS + (names.index(operand) << 20)
        return _SHARED  # the name of the block's dynamic shared memory

    def put(self, to: str, bits: int) -> None:
        self.registers[to.split("|")[0]] = bits

    def _special(self, name: str) -> int:
        base, _, axis = name.partition(".")
        values = {
            "%tid": self.thread,
            "%ntid": self.launch.block,
            "%ctaid": self.block,
            "%nctaid": self.launch.grid,
        }.get(base)
        if values is None:
            raise NotImplementedError(f"{name} in {self.kernel.demangled}")
        return values["xyz".index(axis)]

    # Instructions that are more than arithmetic.

    def _place(self, operand: str) -> int:
        base, _, offset = operand.strip("[]").partition("+")
        return self.value(base) + int(offset or 0)

    def _ld(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, source = operands
        size = int(modifiers[-1][1:]) // 8
        for i, register in enumerate(_parts(to)):
            at = self._place(source) + i * size
            self.put(register, self._loaded(at, size))
            if at < _SHARED:
                self.waiting[register] = size
        self.most_waited = max(self.most_waited, sum(self.waiting.values()))

    def _loaded(self, at: int, size: int) -> int:
        if at >= _PARAMETERS:
            number, place = divmod(at - _PARAMETERS, 1 << 20)
            return int.from_bytes(self.launch.arguments[number][place : place + size], "little")
        if (at, size) in self.memory:
            return self.memory[at, size]
        return _ONE if at >= _SHARED else self.load(at, size)

    def _st(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, source = operands
        size = int(modifiers[-1][1:]) // 8
        for i, register in enumerate(_parts(source)):
            self.memory[self._place(to) + i * size, size] = self.value(register)

    def _mov(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, source = operands
        bits = self.value(source)
        if not to.startswith("{"):
            self.put(to, bits)
            return
        parts = _parts(to)
        width = int(modifiers[-1][1:]) // len(parts)
        for i, register in enumerate(parts):
            self.put(register, bits >> (i * width) & ((1 << width) - 1))

    def _shfl(self, _: list[str], operands: Sequence[str]) -> None:
        to, source = operands[:2]
        self.put(to, self.value(source))
        if "|" in to:
            self.registers[to.split("|")[1]] = 1

    def _redux(self, _: list[str], operands: Sequence[str]) -> None:
        self.put(operands[0], self.value(operands[1]))

    def _bar(self, _: list[str], __: Sequence[str]) -> None:
        pass

    def _atom(self, _: list[str], operands: Sequence[str]) -> None:
        self.put(operands[0], 0)

    def _cvta(self, _: list[str], operands: Sequence[str]) -> None:
        self.put(operands[0], self.value(operands[1]))

    def _setp(self, modifiers: list[str], operands: Sequence[str]) -> None:
        kind = modifiers[-1]
        to, a, b = operands[:3]
        left, right = _read(self.value(a), kind), _read(self.value(b), kind)
        compare = modifiers[0]
        unordered = kind[0] == "f" and (math.isnan(left) or math.isnan(right))
        if compare in ("num", "nan"):
            holds = unordered == (compare == "nan")
        elif unordered:
            holds = compare in ("equ", "neu", "ltu", "leu", "gtu", "geu", "ne")
        else:
            compare = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(compare, compare)
            holds = _COMPARED[compare.removesuffix("u") if len(compare) == 3 else compare](left, right)
        if modifiers[1] in ("and", "or") and len(operands) == 4:
            other = self.value(operands[3])
            holds = holds and bool(other) if modifiers[1] == "and" else holds or bool(other)
        self.put(to, int(holds))

    def _selp(self, _: list[str], operands: Sequence[str]) -> None:
        to, a, b, predicate = operands
        self.put(to, self.value(a if self.registers[predicate] else b))

    def _cvt(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, *sources = operands
        target, source = modifiers[-2:]
        if target in _SMALL or source in _SMALL:
            self._cvt_small(target, source, to, sources)
            return
        values = [_read(self.value(s), source) for s in sources]
        if len(values) == 2:  # the second operand is the lower half
            kind = target.removesuffix("x2")
            high, low = (_bits(v, kind) for v in values)
            self.put(to, high << 16 | low)
            return
        (value,) = values
        rounded = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
        if source[0] in "fb" and not (isinstance(value, float) and not math.isfinite(value)):
            for modifier, function in rounded.items():
                if modifier in modifiers:
                    value = function(value)
        self.put(to, _bits(value, target))

    def _cvt_small(self, target: str, source: str, to: str, sources: Sequence[str]) -> None:
        """FP8 in pairs: by way of halves, near enough for what a thread does next."""
        down = _SMALL[target if target in _SMALL else source]
        if target in _SMALL:
            high, low = (_bits(_read(self.value(s), source), "f16") >> down & 0xFF for s in sources)
            self.put(to, high << 8 | low)
        else:
            codes = self.value(sources[0])
            self.put(to, (codes >> 8 & 0xFF) << 16 + down | (codes & 0xFF) << down)

    def _mul(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, *sources = operands
        kind = modifiers[-1]
        a, b = (_read(self.value(s), kind) for s in sources)
        self.put(to, _product(a, b, modifiers))

    def _mad(self, modifiers: list[str], operands: Sequence[str]) -> None:
        to, *sources = operands
        kind = modifiers[-1]
        a, b = (_read(self.value(s), kind) for s in sources[:2])
        width = 64 if "wide" in modifiers else int(kind[1:])
        self.put(to, (_product(a, b, modifiers) + self.value(sources[2])) & ((1 << width) - 1))


def _parts(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{}").split(",")]


def _product(a: float, b: float, modifiers: Sequence[str]) -> int:
    kind = modifiers[-1]
    if kind[0] == "f":
        return _bits(a * b, kind)
    width = int(kind[1:])
    product = int(a) * int(b)
    if "hi" in modifiers:
        return product >> width & ((1 << width) - 1)
    return product & ((1 << (2 * width if "wide" in modifiers else width)) - 1)


#: FP8 pairs: where their codes stand in a half, but for the bias of E4M3.
_SMALL = {"e4m3x2": 7, "e5m2x2": 8}
_FORMATS = {"f16": "<e", "f32": "<f", "f64": "<d"}


def _read(bits: int, kind: str) -> int | float:
    """The number that bits stand for."""
    if kind == "pred":
        return bits
    width = int(kind.removesuffix("x2").lstrip("sufb"))
    bits &= (1 << width) - 1
    if kind[0] == "f":
        return struct.unpack(_FORMATS[kind], bits.to_bytes(width // 8, "little"))[0]
    if kind == "bf16":
        return _read(bits << 16, "f32")
    return bits - (1 << width) if kind[0] == "s" and bits >> (width - 1) else bits


def _bits(value: float, kind: str) -> int:
    """Of a number, rounded to the kind."""
    if kind == "pred":
        return int(value) & 1
    if kind == "bf16":
        return _bits(value, "f32") + 0x8000 >> 16
    width = int(kind[1:])
    if kind[0] == "f":
        try:
            return int.from_bytes(struct.pack(_FORMATS[kind], value), "little")
        except OverflowError:
            return int.from_bytes(struct.pack(_FORMATS[kind], math.copysign(math.inf, value)), "little")
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else 0
    return value & ((1 << width) - 1)


def _quotient(modifiers: Sequence[str], a: float, b: float) -> float:
    if modifiers[-1][0] != "f":
        return int(abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    if b == 0 or math.isinf(a):
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def _remainder(_: Sequence[str], a: int, b: int) -> int:
    return int(math.copysign(abs(a) % abs(b), a)) if max(abs(a), abs(b)) < 2**53 else abs(a) % abs(b)


def _extreme(choose: Callable[[float, float], float]) -> Callable[..., float]:
    def run(modifiers: Sequence[str], a: float, b: float) -> float:
        if isinstance(a, float) and (math.isnan(a) or math.isnan(b)):
            return math.nan if "NaN" in modifiers else b if math.isnan(a) else a
        return choose(a, b)

    return run


def _permuted(_: Sequence[str], a: int, b: int, selector: int) -> int:
    both = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes(bytes(both[selector >> (4 * i) & 7] for i in range(4)), "little")


def _leading(modifiers: Sequence[str], a: int) -> int:
    return int(modifiers[-1][1:]) - a.bit_length()


def _inserted(_: Sequence[str], a: int, b: int, at: int, count: int) -> int:
    mask = ((1 << count) - 1) << at
    return b & ~mask | a << at & mask


def _shifted_up(_: Sequence[str], a: int, by: int) -> int:
    return a << min(by, 64)


_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}

_COMPUTED: Mapping[str, Callable[..., float]] = {
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a - b,
    "fma": lambda _, a, b, c: a * b + c,
    "div": _quotient,
    "rem": _remainder,
    "rcp": lambda m, a: _quotient(m, 1.0, a),
    "abs": lambda _, a: abs(a),
    "neg": lambda _, a: -a,
    "max": _extreme(max),
    "min": _extreme(min),
    "and": lambda _, a, b: a & b,
    "or": lambda _, a, b: a | b,
    "xor": lambda _, a, b: a ^ b,
    "not": lambda _, a: ~a,
    "shl": _shifted_up,
    "shr": lambda _, a, by: a >> min(by, 63),
    "bfi": _inserted,
    "prmt": _permuted,
    "clz": _leading,
    "popc": lambda _, a: a.bit_count(),
}
