"""The C++ unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, and what the objects export."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "csrc"

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of one build for both tests, without optimization."""
    folder = tmp_path_factory.mktemp("sanitized")
    cmake = [sys.executable, "-m", "cmake"]
    options = ("-DQSCALE_KERNELS=OFF", "-DQSCALE_TESTS=ON", "-DQSCALE_SANITIZE=ON")
    configure = ["-S", str(SOURCE), "-B", str(folder), *options, "-DCMAKE_CXX_FLAGS_RELEASE=-O0"]
    for arguments in (
        configure,
        ["--build", str(folder), "--target", "qscale_kernel_tests", "--parallel", "2"],
    ):
        done = subprocess.run([*cmake, *arguments], capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_kernels_when_run_under_sanitizers_then_no_error_and_every_bit_is_right(built):
    program = built / "qscale_kernel_tests"
    done = subprocess.run([program], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "instruction set plain" in done.stdout
    assert done.stdout.endswith("0 failures\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set only")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_objects_when_built_for_an_instruction_set_then_they_share_no_symbol(built):
    # A weak symbol would be merged with its twin from another unit: AVX-512 code on a machine without it.
    # Without optimization next to nothing is inlined, so nothing hides.
    units = list(built.rglob("*_avx*.cpp.o"))
    assert {unit.name.split("_avx")[0] for unit in units} >= {"fake_quant", "hadamard", "dialects"}
    for unit in units:
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", unit], capture_output=True, text=True, check=True
        )
        symbols = [line.split(maxsplit=2)[1:] for line in listing.stdout.splitlines()]
        # AddressSanitizer marks each table by one more symbol.
        exported = [name for kind, name in symbols if kind.isupper() and not name.startswith("__odr_asan.")]
        shared = [name for name in exported if not name.endswith("_kernels")]
        weak = [name for kind, name in symbols if kind in "WVuvw"]
        assert exported
        assert (unit.name, shared + weak) == (unit.name, [])
