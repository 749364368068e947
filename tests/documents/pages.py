"""The pages as tests see them: blocks of Python, lines of shell, changes of files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What people read, as paths from the root.
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
    )
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: An indented block: after an empty line, four spaces or more.
_INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")
_REMARK = re.compile(r"\s{2,}# .*$")
#: A line that prints, and the remark behind it.
PRINT = re.compile(r"^ *print\(.*?\)(?:  # (.*))?$", re.MULTILINE)


def text_of(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    return [Block(*found.groups()) for found in _FENCE.finditer(text_of(page))]


def python_of(page: str) -> list[str]:
    """The blocks of Python."""
    return [block.text for block in blocks(page) if block.language == "python"]


def indented(page: str) -> list[list[str]]:
    """The lines of each indented block, without fenced ones and without their remarks."""
    plain = _FENCE.sub("", text_of(page))
    return [
        [_REMARK.sub("", line[4:]).rstrip() for line in found[1].splitlines()]
        for found in _INDENTED.finditer(plain)
    ]


def agrees(block: str, printed: str) -> None:
    """Hold what was printed to the remarks behind `print(...)`, one line each.

    A remark begins with the line itself, or its numbers are among those of the line as they round.
    """
    remarks, lines = PRINT.findall(block), printed.splitlines()
    assert len(lines) == len(remarks), f"{len(lines)} lines printed by\n{block}"
    for line, remark in zip(lines, remarks, strict=True):
        assert remark, f"a print without a remark in\n{block}"
        if remark.startswith(line):
            continue
        said = re.findall(r"(?<!\w)\d+\.?\d*", remark)
        assert said, f"{remark!r} says nothing of {line!r}"
        numbers = [float(number) for number in re.findall(r"\d+\.\d+|\d+", line)]
        for number in said:
            places = len(number.partition(".")[2])
            assert float(number) in [round(n, places) for n in numbers], f"{remark!r} of {line!r}"
