"""The CUDA kernels of the other libraries' rules on the emulator: every bit, and nothing out of bounds."""

from __future__ import annotations

import subprocess

import pytest
from cuda_emulator.build import CSRC, HERE, build, environment, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

PROGRAM = HERE / "dialect_kernels.cpp"
RANGE = CSRC / "cuda" / "range.cu"
LIBRARIES = sorted((CSRC / "cuda").glob("dialects_*.cu"))


def run(kind: str, seed: int, order: int) -> None:
    plain = ([*LIBRARIES, RANGE], (), {})
    few = ([RANGE], ("-O0",), {PROGRAM: ("-DQSCALE_FEW_RULES",)})
    sources, options, more = plain if kind == "plain" else few
    program = build([PROGRAM, *sources], kind, program=True, options=options, more=more)
    done = subprocess.run(
        [program, str(seed), str(order)],
        env=environment(kind),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "0 failures"


@pytest.mark.long
@pytest.mark.parametrize(("seed", "order"), [(1, 1), (2, 7)])
def test_kernels_when_threads_run_in_any_order_then_bits_are_those_of_the_arithmetic_exact(seed, order):
    run("plain", seed, order)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["address", "thread"])
def test_kernels_when_run_with_a_sanitizer_then_it_finds_nothing(kind):
    run(kind, 3, 11)
