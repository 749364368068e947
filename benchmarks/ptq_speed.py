"""The speed of quantization after training, a layer at a time, against products of matrices.

    OMP_NUM_THREADS=1 python benchmarks/ptq_speed.py

One thread. Times are those the thread was on a processor: others on the machine disturb them less than those
of the clock. A round takes, one after the other, a product of float64 matrices and each method; of the
rounds the medians are printed. The floor of a method is the time that the product takes for as many
operations as the method's algebra has, counted below; that of RTN is a copy of the weight.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from qscale.formats import QuantSpec
from qscale.ptq.layers import Layer, Site
from qscale.ptq.methods.awq import AWQ
from qscale.ptq.methods.gptq import GPTQ
from qscale.ptq.methods.rtn import RTN
from qscale.ptq.statistics import Statistics
from qscale.quantizers import make_quantizer

TOKENS = 2048
SHAPES = ((1024, 1024), (2816, 1024), (1024, 2816))
OTHERS = ("llmcompressor", "gptqmodel")


def operations(name: str, rows: int, width: int, group: int) -> float:
    """Additions and multiplications of a method's algebra.

    ``X^T X`` is symmetric: half a product. GPTQ: the Cholesky factor of the moments and its inverse, a third
    of ``width^3`` each; the feedback, half a product of the weight with the factor; and the guard, a product
    with the moments. AWQ: for each of 20 scales ``d M d^T``, half a product as ``M`` is symmetric; for each
    of 10 limits a product of every group with its own moments; and ``d M d^T`` twice in the end.
    """
    square = rows * width**2
    return {
        "moments": TOKENS * width**2,
        "gptq": 2 * width**3 / 3 + square + 2 * square,
        "awq": 20 * square + 10 * 2 * rows * width * group + 2 * square,
    }[name]


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measured(rows: int, width: int, spec: QuantSpec, rounds: int) -> None:
    """Prints the rows of one shape."""
    torch.manual_seed(0)
    weight, x = torch.randn(rows, width) * 0.02, torch.randn(TOKENS, width)
    quantizer = make_quantizer("absmax", spec, operand="weight", shape=(rows, width), name="layer")
    layer = Layer(name="layer", weight=weight, quantizer=quantizer)

    def moments() -> Statistics:
        found = Statistics(width=width, needs={"moments", "mean"})
        found.add(x)
        return found

    found = moments()
    site = Site(layers=[layer], statistics=found)
    left, right = torch.randn(rows, width).double(), torch.randn(width, width).double()
    awq, gptq, rtn = AWQ(), GPTQ(), RTN()
    runs: dict[str, Callable[[], object]] = {
        "product": lambda: left @ right,
        "copy": weight.clone,
        "moments": moments,
        "gptq": lambda: gptq.round(layer, weight, found),
        "awq": lambda: (awq.transform(site), awq.limit(layer, found)),
        "rtn": lambda: rtn.round(layer, weight, found),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took = seconds(run)
            if turn:  # the first makes buffers and plans
                times[name].append(took)
    rate = [2 * rows * width**2 / took for took in times["product"]]
    for name in ("moments", "gptq", "awq"):
        count = operations(name, rows, width, spec.group_length(width))
        floors = [count / each for each in rate]
        ratio = statistics.median(t / f for t, f in zip(times[name], floors, strict=True))
        took, floor = statistics.median(times[name]), statistics.median(floors)
        print(
            f"| {rows} x {width} | {name} | {took:.4f} | {count / 1e9:.2f} | {floor:.4f} | {ratio:.2f} |",
            flush=True,
        )
    ratio = statistics.median(t / c for t, c in zip(times["rtn"], times["copy"], strict=True))
    took, floor = statistics.median(times["rtn"]), statistics.median(times["copy"])
    print(f"| {rows} x {width} | rtn | {took:.4f} | copy | {floor:.4f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spec", default="int4:g128")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| rows x width | method | seconds | Gflop | floor, seconds | ratio |\n|---|---|---|---|---|---|")
    for rows, width in SHAPES:
        measured(rows, width, QuantSpec.parse(asked.spec), asked.rounds)
    for name in OTHERS:
        try:
            print(f"{name} {version(name)} is installed; this benchmark does not run it")
        except PackageNotFoundError:
            print(f"{name} is not installed")


if __name__ == "__main__":
    main()
