"""The C++ unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, and what the objects export."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "csrc"
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def build(folder: Path, *options: str, target: str) -> None:
    cmake = [sys.executable, "-m", "cmake"]
    configure = ["-S", str(SOURCE), "-B", str(folder), "-DQSCALE_KERNELS=OFF", "-DQSCALE_TESTS=ON", *options]
    for arguments in (configure, ["--build", str(folder), "--target", target, "--parallel", "2"]):
        done = subprocess.run([*cmake, *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_compiler
def test_kernels_when_run_under_sanitizers_then_no_error_and_every_bit_is_right(tmp_path):
    build(tmp_path, "-DQSCALE_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O0", target="qscale_kernel_tests")
    done = subprocess.run(
        [tmp_path / "qscale_kernel_tests"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "instruction set plain" in done.stdout
    assert done.stdout.endswith("0 failures\n")


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set only")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_objects_when_built_for_an_instruction_set_then_they_share_no_symbol(tmp_path):
    # A weak symbol would be merged with its twin from another unit: AVX-512 code on a machine without it.
    # Nothing is inlined in a debug build, so nothing hides.
    build(tmp_path, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", target="qscale_cpu")
    units = list(tmp_path.rglob("*_avx*.cpp.o"))
    assert {unit.name.split("_avx")[0] for unit in units} >= {"fake_quant", "hadamard"}
    for unit in units:
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", unit], capture_output=True, text=True, check=True
        )
        symbols = [line.split(maxsplit=2)[1:] for line in listing.stdout.splitlines()]
        shared = [name for kind, name in symbols if kind.isupper() and not name.endswith("_kernels")]
        weak = [name for kind, name in symbols if kind in "WVuvw"]
        assert symbols
        assert (unit.name, shared + weak) == (unit.name, [])
