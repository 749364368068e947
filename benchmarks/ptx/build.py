"""Builds the CUDA library, and keeps the PTX and what ptxas reports: once for each state of the sources."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ptx.listing import Kernel, kernels_of

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda_gate"
DEFAULT = "90-real"
NAME = "_C_cuda.abi3.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What ptxas says a kernel takes, in bytes and registers of a thread."""

    registers: int
    shared: int  #: static
    stack: int
    spilled: int  #: stored and loaded
    local: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A kernel for one architecture."""

    unit: str
    arch: str  #: such as ``sm_90``
    kernel: Kernel
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A build: ``_C_cuda.abi3.so`` and the objects of its units lie in ``folder``."""

    folder: Path
    log: str = field(repr=False)
    compiled: tuple[Compiled, ...] = field(repr=False)
    cpu_s: float  #: that the build took

    @property
    def path(self) -> Path:
        return self.folder / NAME


@cache
def nvcc() -> str | None:
    """``CUDACXX``, or the compiler on the path or where the toolkit installs itself; None without any."""
    usual = sorted(Path("/usr/local").glob("cuda*/bin/nvcc"))
    found = (os.environ.get("CUDACXX"), shutil.which("nvcc"), *map(str, reversed(usual)))
    return next((path for path in found if path and Path(path).is_file()), None)


def why_not() -> str | None:
    """Why the library cannot be built here."""
    if nvcc() is None:
        return "no nvcc: set CUDACXX to it to compile the CUDA kernels"
    if _ninja() is None:
        return "no ninja: pip install ninja"
    return None


def units() -> list[Path]:
    """Every unit of CUDA code there is."""
    return sorted((CSRC / "cuda").glob("*.cu"))


def build(architectures: str = DEFAULT, csrc: Path = CSRC) -> Library:
    """The library, from the cache if nothing has changed.

    Args:
        architectures: As ``QSCALE_CUDA_ARCHITECTURES`` of ``csrc/CMakeLists.txt``, such as ``80-real;120``.
        csrc: The sources.

    Raises:
        RuntimeError: There is no nvcc, or the build failed; its output.
    """
    if (reason := why_not()) is not None:
        raise RuntimeError(reason)
    target = CACHE / _digest(architectures, csrc)
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            _make(Path(made) / "made", architectures, csrc)
            (Path(made) / "made").replace(target)
    log = (target / "build.log").read_text(encoding="utf-8")
    cpu_s = float((target / "cpu_s.txt").read_text(encoding="utf-8"))
    return Library(folder=target, log=log, compiled=tuple(_compiled(target, log)), cpu_s=cpu_s)


def _make(folder: Path, architectures: str, csrc: Path) -> None:
    work, kept = folder / "work", folder / "kept"
    kept.mkdir(parents=True)
    cmake = [sys.executable, "-m", "cmake"]
    configure = [
        *("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_ninja()}", "-S", str(csrc), "-B", str(work)),
        *("-DQSCALE_KERNELS=ON", "-DQSCALE_CUDA=ON", f"-DQSCALE_CUDA_ARCHITECTURES={architectures}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_CUDA_COMPILER={nvcc()}"),
        *(f"-DCMAKE_CUDA_FLAGS=--keep --keep-dir={kept}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"),
    ]
    _run([*cmake, *configure])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Two at a time, and ninja keeps apart what they print.
    log = _run([*cmake, "--build", str(work), "--target", "_C_cuda", "--parallel", "2"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    (folder / "build.log").write_text(log, encoding="utf-8")
    (folder / "cpu_s.txt").write_text(f"{cpu_s:.1f}", encoding="utf-8")
    for path in [*work.glob("*.so"), *work.glob("compile_commands.json"), *work.rglob("*.cu.o")]:
        path.replace(folder / path.name)
    for path in [*kept.glob("*.ptx"), *kept.glob("*.cubin")]:
        path.replace(folder / path.name)
    shutil.rmtree(work)
    shutil.rmtree(kept)


def _compiled(folder: Path, log: str) -> Iterable[Compiled]:
    found = dict(usages(log))
    for path in sorted(folder.glob("*.ptx")):
        unit = path.name.split(".")[0]
        arch, kernels = kernels_of(path.read_text(encoding="utf-8"))
        for kernel in kernels:
            # PTX for later machines is not assembled.
            if (arch, kernel.name) in found:
                yield Compiled(unit=unit, arch=arch, kernel=kernel, usage=found[arch, kernel.name])


def usages(log: str) -> Iterable[tuple[tuple[str, str], Usage]]:
    """By architecture and mangled name, what ``ptxas -v`` reports."""
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", log):
        head = re.match(r"ptxas info\s+: Compiling entry function '(\w+)' for '(\w+)'", part)
        if head is None:
            continue

        def number(pattern: str, part: str = part) -> int:
            return sum(map(int, re.findall(pattern, part)))

        yield (
            (head[2], head[1]),
            Usage(
                registers=number(r"Used (\d+) registers"),
                shared=number(r"(\d+) bytes smem"),
                stack=number(r"(\d+) bytes stack frame") + number(r"(\d+) bytes cumulative stack"),
                spilled=number(r"(\d+) bytes spill"),
                local=number(r"(\d+) bytes lmem"),
            ),
        )


def _ninja() -> str | None:
    beside = Path(sys.executable).parent / "ninja"
    return str(beside) if beside.is_file() else shutil.which("ninja")


def _digest(architectures: str, csrc: Path) -> str:
    import torch

    version = _run([str(nvcc()), "--version"])
    digest = hashlib.sha256(
        repr((architectures, version, torch.__version__, _make.__code__.co_code)).encode()
    )
    for path in sorted(csrc.rglob("*")):
        if path.is_file() and path.parent.name != "cpu":
            digest.update(path.relative_to(csrc).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} ...\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done.stdout + done.stderr
