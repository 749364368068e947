"""Compiles kernels for the CUDA emulator: three kinds of build, each made once for its text."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
CACHE = HERE.parents[1] / "build" / "cuda_emulator"

COMMON = (
    *("-std=c++17", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *(f"-I{CSRC}", f"-I{HERE / 'include'}"),
)
KINDS = {
    "plain": ("-O2",),
    "address": (
        *("-O1", "-fsanitize=address,undefined,float-cast-overflow"),
        *("-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    ),
    "thread": ("-O1", "-fsanitize=thread"),
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
    libraries: Sequence[str] = (),
) -> Path:
    """A shared library for ctypes (or a program) of sources that include kernels, and the emulator.

    Args:
        sources: C++ files; they may include ``cuda/*.cuh`` and whatever lies in ``csrc/``.
        kind: ``plain``, ``address`` (out of bounds, misaligned, undefined) or ``thread`` (data races).
        program: Link a program: the sources have a ``main``.
        options: More compiler options.
        libraries: What to link, beside the emulator.

    Raises:
        AssertionError: The compiler's messages.
    """
    define = f"-DQSCALE_EMULATOR_{kind.upper()}"
    objects = [_made([HERE / "emulator.cpp"], "emulator.o", "-O2", define, "-c")]
    compiled = (*KINDS[kind], define, *options, "-c")
    with ThreadPoolExecutor() as compilers:
        objects += compilers.map(lambda source: _made([source], f"{source.stem}.o", *compiled), sources)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
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
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: others build too.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / name
            _run(["c++", *COMMON, *language, *inputs, "-o", made, *options])
            made.replace(target)
    return target
