"""PTX as text, taken apart into kernels and instructions."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)[^{]*\{\n(.*?)\n\}\n", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.([a-z]+)(\d+)\s+(\w+)(?:\[(\d+)\])?")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_STATEMENT = re.compile(r"\s*(?:\{\s*)?(?:(@!?)([%\w]+)\s+)?([a-z][\w.:]*)(?:\s+(.*))?$", re.DOTALL)
_OPERATION = re.compile(r"(?:^|[;{])\s*(?:@!?%\w+\s+)?([a-z]\w*\.[\w.:]+)\s", re.MULTILINE)
_LABEL = re.compile(r"\s*([$\w]+):\s*$")
_OPERAND = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|[^,\s]+")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``op`` with all its suffixes, such as ``ld.global.v4.u32``."""

    op: str
    operands: tuple[str, ...] = ()
    predicate: str | None = None  #: a register
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel as text; ``code`` takes it apart."""

    name: str  #: mangled
    parameters: tuple[tuple[str, int], ...]  #: name and bytes
    body: str = field(repr=False)

    @property
    def operations(self) -> list[str]:
        """Of each instruction that has a suffix, all of it, such as ``ld.global.v4.u32``."""
        return _OPERATION.findall(self.body)

    @property
    def local_bytes(self) -> int:
        """What is declared in local memory."""
        return sum(int(n) for n in re.findall(r"\.local\s[^;]*\[(\d+)\]", self.body))

    @property
    def demangled(self) -> str:
        """The name as it was written, without namespaces and arguments."""
        return _demangled(self.name)


def kernels_of(text: str) -> tuple[str, list[Kernel]]:
    """The architecture of a PTX file, and its kernels."""
    target = re.search(r"^\.target\s+(\w+)", text, re.MULTILINE)
    if target is None:
        raise ValueError("this is no PTX: it has no line .target")
    kernels = [
        Kernel(
            name=name,
            parameters=tuple((p[2], int(p[1]) // 8 * int(p[3] or 1)) for p in _PARAMETER.findall(parameters)),
            body=_COMMENT.sub("", body),
        )
        for name, parameters, body in _ENTRY.findall(text)
    ]
    return target[1], kernels


def code(kernel: Kernel) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions, and before which of them each label stands.

    Raises:
        ValueError: Some text is no instruction.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for statement in _statements(kernel.body):
        if (label := _LABEL.match(statement)) is not None:
            labels[label[1]] = len(instructions)
        elif (found := _STATEMENT.match(statement)) is not None:
            operands = tuple(_OPERAND.findall(found[4] or ""))
            instructions.append(Instruction(found[3], operands, found[2], found[1] == "@!"))
        else:
            raise ValueError(f"not an instruction: {statement.strip()!r}")
    return instructions, labels


def _statements(body: str) -> Iterator[str]:
    """Between semicolons; labels by themselves, and declarations left out."""
    for part in body.split(";"):
        # Inline assembly stands in braces of its own.
        text = part.strip().removeprefix("}").strip()
        while (label := re.match(r"([$\w]+:)(?!:)\s*", text)) is not None:
            yield label[1]
            text = text[label.end() :]
        text = text.lstrip("{}").strip()
        if text and not text.startswith("."):
            yield text


def _demangled(name: str) -> str:
    if shutil.which("c++filt") is None:
        return name
    text = _demangle_all((name,))[0]
    text = text.replace("qscale::", "").replace("cuda::", "").replace("(Output)", "Output")
    text = re.sub(r"^(?:void|cudaError) ", "", text)
    depth = 0
    for i, c in enumerate(text):
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            return text[:i]
    return text


_cache: dict[str, str] = {}


def _demangle_all(names: Sequence[str]) -> list[str]:
    missing = [name for name in names if name not in _cache]
    if missing:
        done = subprocess.run(
            ["c++filt"], input="\n".join(missing), capture_output=True, text=True, check=True
        )
        _cache.update(zip(missing, done.stdout.splitlines(), strict=True))
    return [_cache[name] for name in names]


def demangle(kernels: Sequence[Kernel]) -> None:
    """Look all names up at once, which is quicker than one by one."""
    if shutil.which("c++filt") is not None:
        _demangle_all([kernel.name for kernel in kernels])
