"""The CUDA kernels of Hadamard transforms and rotated fake quantization, every bit, on the emulator."""

from __future__ import annotations

import subprocess

import pytest
from cuda_emulator.build import HERE, build, environment, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

SEEDS = [(1, 1), (2, 7)]  # of the data, and of the order of threads and blocks


def run(name: str, kind: str, options: list[str], *arguments: str) -> None:
    program = build([HERE / f"{name}.cpp"], kind, program=True, options=options)
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment(kind)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 failures"


@pytest.mark.parametrize(("data", "order"), SEEDS)
def test_hadamard_kernels_when_threads_run_in_any_order_then_bits_are_exact(data, order):
    run("hadamard_kernels", "plain", ["-O1"], str(data), str(order))


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_hadamard_kernels_when_run_under_sanitizers_then_no_error_and_bits_are_exact(kind):
    run("hadamard_kernels", kind, [], "4", "5", "few")


@pytest.mark.parametrize(("data", "order"), SEEDS)
def test_rotated_kernels_when_threads_run_in_any_order_then_bits_are_exact(data, order):
    run("rotated_kernels", "plain", ["-O0"], str(data), str(order))


def test_rotated_kernels_when_run_under_a_sanitizer_then_no_error_and_bits_are_exact():
    quickly_built = ["-O0", "-DQSCALE_INTS_ALONE"]
    run("rotated_kernels", "address", quickly_built, "3", "11")
