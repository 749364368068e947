"""The ops of CUDA tensors, with their bindings, on the emulator: the tests of the CPU's kernels hold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cuda_emulator.build import HERE, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

TESTS = (
    *("test_golden", "test_given_scales", "test_gradients_exact", "test_scale_gradients", "test_packing"),
    "test_codes",
    *("test_random_rounding", "test_float_exact", "test_hadamard", "test_dialects_compiled"),
)
OTHERS = "reference or plain or avx2 or avx512"  # what the tests of the CPU run already
UNCHECKED = "a_sign_is_another_number"  # signs are not looked at on a device: that would be to wait


def test_ops_when_their_kernels_run_on_the_emulator_then_the_tests_of_the_cpu_hold():
    tests = HERE.parent
    files = [str(tests / "kernels" / f"{name}.py") for name in TESTS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "cuda_emulator.emulated",
        "-k",
        f"not ({OTHERS} or {UNCHECKED})",
    ]
    env = {**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", *files],
        env=env, cwd=tests.parent, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
