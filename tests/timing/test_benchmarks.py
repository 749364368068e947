"""The files of ``benchmarks/`` run, and print what their README promises."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_benchmarks_when_run_on_little_then_end_with_the_table_of_ratios():
    if find_spec("pytest_benchmark") is None:
        pytest.skip("pytest-benchmark is not installed: pip install 'qscale[bench]'")
    options = "--benchmark-only --benchmark-max-time 0.01 --sizes 256 --seconds 0.001 --no-peers"
    chosen = ["-k", "int4:g32 and float32", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", *options.split(), *chosen],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("int4:g32/")]
    assert lines == [["int4:g32/float32/256", "into"], ["int4:g32/float32/256", "new"]]
    assert "x copy" in done.stdout
