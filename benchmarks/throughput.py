"""Tokens a second of W4A4 training on two cores: two workers of one thread, against the obvious way.

The obvious way is transformers' Trainer on two threads with fake quantization in plain torch operations.
Both train the same model on batches of 8 x 128 bytes; compiling, where it is asked for, is not timed. Run it
on a machine with nothing else to do:

    python benchmarks/throughput.py [size ...]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

SIZES = ("tiny-20k", "tiny-164k", "tiny-985k")
RECIPE = "w4a4:g32"
SECONDS = 5.0  # of each arm, after a warm-up
ROUNDS = 3


def plain_fake_quant(x, group=32):
    """INT4 absmax in torch operations, straight through, as it is usually written."""
    shape = x.shape
    grouped = x.reshape(-1, group)
    scale = grouped.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 7
    rounded = (grouped / scale).round().clamp(-7, 7) * scale
    return (grouped + (rounded - grouped).detach()).reshape(shape)


def obvious(size: str) -> float:
    """Tokens a second of Trainer on the threads that this process has."""
    import torch
    from torch import nn
    from torch.nn import functional
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from qscale.models.families import build
    from qscale.models.ladder import shape_of

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    class Quantized(nn.Linear):
        def forward(self, x):
            return functional.linear(plain_fake_quant(x), plain_fake_quant(self.weight), self.bias)

    shape = shape_of(size)
    model = build(shape, context=128, seed=0)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and ".layers." in name:
            layer.__class__ = Quantized
    rows = torch.randint(0, 256, (100_000, 128))

    class Clock(TrainerCallback):
        began = steps = 0

        def on_step_end(self, _args, state, control, **_):
            if state.global_step == 10:
                self.began = time.perf_counter()
            elif self.began and time.perf_counter() - self.began > SECONDS:
                self.steps, self.spent = state.global_step - 10, time.perf_counter() - self.began
                control.should_training_stop = True

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=8, max_steps=10_000, learning_rate=1e-3,
            max_grad_norm=1.0, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            logging_strategy="no", optim="adamw_torch",
        )  # fmt: skip
        data = [{"input_ids": row, "labels": row} for row in rows]
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[clock]).train()
    return clock.steps * 8 * 128 / clock.spent


def ours(size: str, compiled: bool = False) -> float:
    """Tokens a second of one worker of one thread."""
    from dataclasses import replace
    from pathlib import Path

    import torch

    from qscale.data import corpus as corpora
    from qscale.sweep.grid import Study
    from qscale.training.engine import Training
    from qscale.training.how import How
    from qscale.training.schedule import trunk_rate

    torch.set_num_threads(1)
    corpus = corpora.load("python")
    study = Study.parse(f"{{sizes: [{size}], tokens: [50M], recipes: ['{RECIPE}'], modes: [scratch]}}")
    (run,) = (replace(run, compiled=compiled) for run in study.runs(corpus.sha256) if run.recipe)
    with tempfile.TemporaryDirectory() as folder:
        ends = time.perf_counter() + 3600
        training = Training(run, corpus, Path(folder), How(should_stop=lambda: time.perf_counter() > ends))
        training.quantize(run.recipe)
        training.advance(10, trunk_rate, run.steps)
        began = time.perf_counter()
        ends = began + SECONDS
        training.advance(run.steps, trunk_rate, run.steps)
        return (training.step - 10) * run.tokens_per_step / (time.perf_counter() - began)


def start(arm: str, size: str, threads: int) -> subprocess.Popen[str]:
    """A process that measures one arm."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--arm", arm, size]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def speed(process: subprocess.Popen[str]) -> float:
    """What it measured."""
    out, _ = process.communicate()
    return float(json.loads(out.splitlines()[-1]))


def main(sizes: tuple[str, ...]) -> None:
    """Rounds of all arms in turn; medians, and ours over the obvious way on two threads and on one."""
    heads = ("two workers", "compiled", "Trainer, 2", "Trainer, 1", "ratio", "compiled")
    print(f"{'size':<12}" + "".join(f"{head:>13}" for head in heads) + f"   tokens a second, {RECIPE}")
    for size in sizes:
        rounds = []
        for _ in range(ROUNDS):
            workers = [
                sum(speed(worker) for worker in [start(arm, size, 1) for _ in range(2)])
                for arm in ("ours", "compiled")
            ]
            rounds.append((*workers, *(speed(start("obvious", size, threads)) for threads in (2, 1))))
        eager, compiled, two, one = (statistics.median(column) for column in zip(*rounds, strict=True))
        cells = [f"{found:,.0f}" for found in (eager, compiled, two, one)]
        cells += [f"{eager / two:.1f}", f"{compiled / two:.1f}"]
        print(f"{size:<12}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


ARMS = {"ours": ours, "compiled": partial(ours, compiled=True), "obvious": obvious}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        print(json.dumps(ARMS[sys.argv[2]](sys.argv[3])))
    else:
        main(tuple(sys.argv[1:]) or SIZES)
