"""Compiles kernels for the CUDA emulator: three kinds of build, each made once for its text."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
CACHE = HERE.parents[1] / "build" / "cuda_emulator"

COMMON = (
    *("-std=c++17", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    "-Wno-unknown-pragmas",
    *(f"-I{CSRC}", f"-I{HERE / 'include'}"),
)
# Compiling takes longer than running: no -O2, and addresses are checked by calls, not in line.
KINDS = {
    "plain": ("-O1",),
    "address": (
        *("-O1", "-g1", "-fsanitize=address,undefined,float-cast-overflow"),
        *("-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
        "--param=asan-instrumentation-with-call-threshold=0",
    ),
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
}
PRELOADED = {"plain": None, "address": "libasan.so", "thread": "libtsan.so"}

# Fibres switch stacks by a few lines of assembly.
why_not = (
    "the emulator's fibres are written for x86-64 and Linux"
    if (platform.machine(), sys.platform) != ("x86_64", "linux")
    else "no C++ compiler"
    if shutil.which("c++") is None
    else None
)


def build(
    sources: Sequence[Path],
    kind: str = "plain",
    *,
    program: bool = False,
    options: Sequence[str] = (),
    more: Mapping[Path, Sequence[str]] = MappingProxyType({}),
    libraries: Sequence[str] = (),
) -> Path:
    """A shared library for ctypes (or a program) of sources that include kernels, and the emulator.

    Args:
        sources: C++ files; they may include ``cuda/*.cuh`` and whatever lies in ``csrc/``.
        kind: ``plain``, ``address`` (out of bounds, misaligned, undefined) or ``thread`` (data races).
        program: Link a program: the sources have a ``main``.
        options: More compiler options.
        more: And still more, of some sources.
        libraries: What to link, beside the emulator.

    Raises:
        AssertionError: The compiler's messages.
    """
    define = f"-DQSCALE_EMULATOR_{kind.upper()}"
    objects = [_made([HERE / "emulator.cpp"], "emulator.o", "-O2", define, "-c")]
    compiled = (*KINDS[kind], define, *options, "-c")
    with ThreadPoolExecutor(2) as compilers:
        objects += compilers.map(
            lambda source: _made([source], f"{source.stem}.o", *compiled, *more.get(source, ())), sources
        )
    how, ending = ("-rdynamic", "") if program else ("-shared", ".so")
    return _made(objects, f"{sources[0].stem}-{kind}{ending}", *KINDS[kind], how, "-ldl", *libraries)


def environment(kind: str, *, library: bool = False) -> dict[str, str]:
    """What a process needs to run such a program or, with ``library``, to load such a library."""
    sanitizers = {
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    preloaded = PRELOADED[kind] if library else None
    return {**os.environ, **sanitizers, **({"LD_PRELOAD": _library(preloaded)} if preloaded else {})}


@cache
def _library(name: str) -> str:
    return _run(["c++", f"-print-file-name={name}"]).strip()


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def _headers() -> bytes:
    """A digest of all that may be included, and of the compiler."""
    digest = hashlib.sha256(_run(["c++", "--version"]).encode())
    for folder in (CSRC, HERE):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".h", ".cuh"):
                digest.update(path.read_bytes())
    return digest.digest()


def _made(inputs: Sequence[Path], name: str, *options: str) -> Path:
    digest = hashlib.sha256(_headers() + repr((COMMON, options)).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    language = ("-x", "c++") if "-c" in options else ()  # of .cu too
    target = CACHE / digest.hexdigest()[:16] / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Others build too, and wait for what one of them has begun. Whole or not at all: it may be cut off.
    with _alone(target.parent), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        if not target.exists():
            made = Path(folder) / name
            _run(["c++", *COMMON, *language, *inputs, "-o", made, *options])
            made.replace(target)
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process or thread is in here for the folder."""
    import fcntl  # not everywhere, as little as the emulator

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
