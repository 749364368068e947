"""The CUDA kernels of fake quantization on the emulator: every bit, and nothing out of bounds."""

from __future__ import annotations

import subprocess

import pytest
from cuda_emulator.build import CSRC, HERE, build, environment, why_not

pytestmark = pytest.mark.skipif(why_not is not None, reason=str(why_not))

PROGRAM = HERE / "fake_quant_kernels.cpp"
INTS = [CSRC / "cuda" / name for name in ("fake_quant_int.cu", "range.cu", "dequantize.cu")]
FLOAT, CODEBOOK = (CSRC / "cuda" / f"fake_quant_{name}.cu" for name in ("float", "codebook"))


def run(kind: str, seed: int) -> None:
    if kind == "plain":
        # With the conversions of newer devices, which floats alone have; the ops run without them.
        sources, options, more = [*INTS, FLOAT, CODEBOOK], (), {FLOAT: ("-DQSCALE_EMULATED_CASTS",)}
    else:
        sources, options, more = INTS, ("-O0",), {PROGRAM: ("-DQSCALE_ONLY_INTS",)}
    program = build([PROGRAM, *sources], kind, program=True, options=options, more=more)
    done = subprocess.run(
        [program, str(seed)],
        env=environment(kind),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "0 failures" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("seed", [4, 5])
def test_kernels_when_threads_run_in_any_order_then_bits_are_those_of_the_arithmetic_exact(seed):
    run("plain", seed)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["address", "thread"])
def test_kernels_when_run_with_a_sanitizer_then_it_finds_nothing(kind):
    run(kind, seed=7)
