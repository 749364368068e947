"""The library that makes faults: built once for its text, and what it reads from the environment."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "build" / "faults"
OPTIONS = ("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-shared")
#: The library is loaded into programs that bring a C++ library of their own, or none.
LINKED = ("-static-libstdc++", "-static-libgcc", "-ldl")

why_not = (
    "LD_PRELOAD and /proc are Linux's"
    if sys.platform != "linux"
    else "no C++ compiler"
    if shutil.which("c++") is None
    else None
)

#: ``log`` does no harm and notes every call. ``kill`` and ``torn`` end the process: before or after the
#: call, or in the middle of what it writes; ``cut`` is ``torn``, and ends the driver too. ``full`` lasts
#: until the mark ``released`` is made, for all processes chosen; ``full-once`` and ``io`` are one failing
#: call; from ``clock`` on it is an hour earlier.
Kind = Literal["log", "kill", "torn", "cut", "full", "full-once", "io", "clock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens at the ``at``-th call of a chosen process, once in all processes together."""

    kind: Kind
    at: int = 1
    who: str = "workers"  #: or ``driver``, ``worker:N``, ``all``
    path: str = ""  #: a pattern of paths in the store; every path where it is empty
    calls: tuple[str, ...] = ()  #: of create, open, write, sync, truncate, close, rename, unlink, mkdir; all
    seed: int = 0  #: where a write is torn; odd: killed when the call is done, even: before

    def environment(self, root: Path, marks: Path) -> dict[str, str]:
        """What a process needs that has this fault below ``root``; what it did is noted in ``marks``."""
        return {
            "LD_PRELOAD": str(library()),
            "QSCALE_FAULT_ROOT": str(root),
            "QSCALE_FAULT_MARKS": str(marks),
            "QSCALE_FAULT_KIND": self.kind,
            "QSCALE_FAULT_AT": str(self.at),
            "QSCALE_FAULT_WHO": self.who,
            "QSCALE_FAULT_PATH": self.path,
            "QSCALE_FAULT_CALLS": ",".join(self.calls),
            "QSCALE_FAULT_SEED": str(self.seed),
        }


@cache
def library() -> Path:
    """The shared library.

    Raises:
        AssertionError: The compiler's messages.
    """
    source = HERE / "shim.cpp"
    digest = hashlib.sha256(source.read_bytes() + repr((OPTIONS, LINKED)).encode()).hexdigest()[:16]
    target = CACHE / digest / "shim.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: others build too.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            command = ["c++", *OPTIONS, str(source), "-o", str(made), *LINKED]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            made.replace(target)
    return target
