"""``python -m benchmarks``: prints the table; with ``--threads`` for more than one thread."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch

from benchmarks.cases import Case, fake_quant_cases
from benchmarks.harness import measure, overhead
from benchmarks.rotations import comparisons, hadamard_cases
from qscale.kernels import backends, fake_quant, hadamard


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads of the ops (default 1)")
    torch.set_num_threads(parser.parse_args().threads)
    threads, isa = torch.get_num_threads(), backends()[0].detail
    print(f"{_processor()}, {threads} threads, torch {torch.__version__}, {isa}")
    _print_timings(chain(fake_quant_cases(), hadamard_cases()), "x copy")
    _print_timings(comparisons(), "x other")
    _print_overheads()


def _print_timings(cases: Iterable[Case], floor: str) -> None:
    columns = f"{'min us':>10}{'median us':>11}{'max us':>10}{'GB/s':>8}{floor:>9}"
    print(f"\n{'case':<36}{columns}")
    for case in cases:
        t = measure(case)
        microseconds = (1e6 * s for s in (t.min_s, t.median_s, t.max_s))
        low, middle, high = (f"{us:.1f}" for us in microseconds)
        print(f"{t.name:<36}{low:>10}{middle:>11}{high:>10}{t.gigabytes_per_s:>8.1f}{t.times_floor:>9.2f}")


def _print_overheads() -> None:
    """One call to 64 elements, beside the cheapest operator that torch has."""
    x = torch.randn(8, 8)
    parameter = x.clone().requires_grad_()
    rows = {
        "torch.empty_like": lambda: torch.empty_like(x),
        "fake_quant, no gradient": lambda: fake_quant(x, "int4:g8"),
        "fake_quant, with gradient": lambda: fake_quant(parameter, "int4:g8"),
        "hadamard, no gradient": lambda: hadamard(x),
        "hadamard, with gradient": lambda: hadamard(parameter),
    }
    print(f"\n{'a call on 8 x 8':<28}{'us':>10}")
    for name, call in rows.items():
        print(f"{name:<28}{1e6 * overhead(call):>10.2f}")


def _processor() -> str:
    """The model name that Linux reports; elsewhere, the architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
