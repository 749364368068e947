"""The speed of quantization after training, a layer at a time, against products of matrices.

    OMP_NUM_THREADS=1 python benchmarks/ptq_speed.py

One thread. Times are those the thread was on a processor: others on the machine disturb them less than those
of the clock. A round takes, one after the other, a product of float64 matrices and each method; of the
rounds the medians are printed. The floor of a method is the time that the product takes for as many
operations as the method's algebra has, counted below; that of RTN is a copy of the weight.

GPTQ of llm-compressor and GPTQModel, where they are installed, is timed on the same layers, turn by turn
with ours on their grid of 16 levels (`full`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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


def process_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


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


def llmcompressor_gptq(weight: torch.Tensor, x: torch.Tensor, spec: QuantSpec) -> Callable[[], torch.Tensor]:
    """Moments, scales and rounding of one layer, as its GPTQModifier takes them; columns in order."""
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq import gptq_quantize, helpers
    from llmcompressor.observers import Observer

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=spec.group_size)
    linear = _linear(weight)

    def run() -> torch.Tensor:
        moments = helpers.make_empty_hessian(linear)
        moments, count = helpers.accumulate_hessian(x, linear, moments, torch.zeros(()))
        observer = Observer.load_from_registry(
            "memoryless_minmax", base_name="weight", args=args, module=linear
        )
        observer(linear.weight)
        parts = helpers.prepare_batch([linear], [observer.get_qparams()], {linear: moments}, {linear: count})
        rounded, _, gave_up = gptq_quantize.quantize_weight(*parts, args)
        assert not gave_up.any()
        return rounded[0]

    return run


def gptqmodel_gptq(weight: torch.Tensor, x: torch.Tensor, spec: QuantSpec) -> Callable[[], torch.Tensor]:
    """Likewise; its damping and order of columns set to ours."""
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization import gptq as theirs

    # Made once: a configuration makes a folder for what it offloads.
    config: Any = QuantizeConfig(
        bits=4, group_size=spec.group_size, desc_act=False, act_group_aware=False, damp_percent=0.01
    )
    linear = _linear(weight)

    def run() -> torch.Tensor:
        one = theirs.GPTQ(linear, config)
        one.quantizer.configure(perchannel=True)
        one.add_batch(x, x)
        return one.quantize()[0]

    return run


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return linear


def _correlated(width: int) -> torch.Tensor:
    """Inputs with directions that matter more than others, as models have them: what GPTQ lives on."""
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    return torch.randn(TOKENS, width) * torch.arange(1, width + 1) ** -0.5 @ basis


def against(name: str, rows: int, width: int, spec: QuantSpec, rounds: int) -> str:
    """Their seconds for moments and GPTQ, ours, and the ratio, turn by turn on the same weight and inputs.

    Seconds are of all threads of the process: peers have threads of their own. Errors are of the layer's
    output, and of rounding to nearest by ours for comparison.
    """
    if spec.format != "int4" or spec.strategy != "group":
        return "compared on int4 in groups alone"
    spec = QuantSpec.parse(f"{spec.format}:g{spec.group_size}:full")  # the levels that they have
    torch.manual_seed(0)
    weight, x = torch.randn(rows, width) * 0.02, _correlated(width)
    quantizer = make_quantizer("absmax", spec, operand="weight", shape=(rows, width), name="layer")
    layer = Layer(name="layer", weight=weight, quantizer=quantizer)
    make = {"llmcompressor": llmcompressor_gptq, "gptqmodel": gptqmodel_gptq}[name]
    theirs = make(weight, x, spec)
    torch.set_num_threads(1)  # importing a peer may have set another number

    def ours() -> torch.Tensor:
        found = Statistics(width=width, needs={"moments", "mean"})
        found.add(x)
        return GPTQ().round(layer, weight, found).weight

    def error(rounded: torch.Tensor) -> float:
        return float((x @ (weight - rounded).T).square().sum() / (x @ weight.T).square().sum())

    pairs = [(process_seconds(theirs), process_seconds(ours)) for _ in range(rounds + 1)][1:]
    took, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(t / o for t, o in pairs)
    errors = " | ".join(f"{error(each):.5f}" for each in (theirs(), ours(), quantizer(weight)))
    return f"{took:.4f} | {own:.4f} | {ratio:.2f} | {errors}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spec", default="int4:g128")
    parser.add_argument("--peers", action="store_true", help="the peers alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.peers:
        print(
            "| rows x width | method | seconds | Gflop | floor, seconds | ratio |\n|---|---|---|---|---|---|"
        )
    for rows, width in () if asked.peers else SHAPES:
        measured(rows, width, QuantSpec.parse(asked.spec), asked.rounds)
    print("\n| peer | rows x width | its seconds | qscale | ratio | its error | qscale | nearest |")
    print("|---|---|---|---|---|---|---|---|")
    for name in OTHERS:
        try:
            found = version(name)
        except PackageNotFoundError:
            print(f"| {name} is not installed |")
            continue
        for rows, width in SHAPES:
            try:
                line = against(name, rows, width, QuantSpec.parse(asked.spec), asked.rounds)
            except Exception as error:
                line = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"| {name} {found} | {rows} x {width} | {line} |", flush=True)


if __name__ == "__main__":
    main()
