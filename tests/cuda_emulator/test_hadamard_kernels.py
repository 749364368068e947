"""The CUDA kernels of Hadamard transforms and rotated fake quantization, every bit, on the emulator."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cuda_emulator.build import CSRC, HERE, build, environment, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

SEEDS = [(1, 1), (2, 7)]  # of the data, and of the order of threads and blocks


HADAMARD = CSRC / "cuda" / "hadamard.cu"
INTS, *OTHERS = (CSRC / "cuda" / f"rotated_{name}.cu" for name in ("int", "float", "codebook"))


def run(name: str, kind: str, rotated: list[Path], *arguments: str) -> None:
    main = HERE / f"{name}.cpp"
    quickly_built = () if kind == "plain" else ("-O0",)
    more = {main: () if kind == "plain" else ("-DQSCALE_INTS_ALONE",)}
    program = build([main, HADAMARD, *rotated], kind, program=True, options=quickly_built, more=more)
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=900, check=False, env=environment(kind)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 failures"


@pytest.mark.parametrize(("data", "order"), [SEEDS[0], pytest.param(*SEEDS[1], marks=pytest.mark.long)])
def test_hadamard_kernels_when_threads_run_in_any_order_then_bits_are_exact(data, order):
    run("hadamard_kernels", "plain", [], str(data), str(order))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["address", "thread"])
def test_hadamard_kernels_when_run_under_sanitizers_then_no_error_and_bits_are_exact(kind):
    run("hadamard_kernels", kind, [], "4", "5", "few")


@pytest.mark.long
@pytest.mark.parametrize(("data", "order"), SEEDS)
def test_rotated_kernels_when_threads_run_in_any_order_then_bits_are_exact(data, order):
    run("rotated_kernels", "plain", [INTS, *OTHERS], str(data), str(order))


@pytest.mark.long
def test_rotated_kernels_when_run_under_a_sanitizer_then_no_error_and_bits_are_exact():
    run("rotated_kernels", "address", [INTS], "3", "11")
