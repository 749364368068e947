"""A training step of small Llamas under each recipe, beside the plain step: time and memory.

The step is that of ``qscale.training.loop``: forward, loss, backward, clipping and AdamW, on 8 x 128 tokens.
Plain and quantized steps are taken in turns and the medians of their CPU times compared. Memory is the most
that is allocated at once within a step, added up from the allocator's events as torch's profiler has them;
parameters and the optimizer's moments, which lie outside the step, are not in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from qscale.models.families import build
from qscale.models.ladder import ModelShape
from qscale.models.surgery import quantize_model

WIDTHS = (64, 128, 256)
RECIPES = {
    "absmax": "w4a4:g32",
    "lsq": "w4a4:g32,q=lsq",
    "quest": "quest-w4a4",
    "lwc": "w4a4:g32,q=lwc/lac",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "rotation": "w4a4:g32,rot=hadamard:128",
}
_ROUNDS = 7


def training_step(width: int, recipe: str | None) -> Callable[[], None]:
    """A function that takes one step of a Llama of two blocks, its first two steps taken."""
    heads = width // 32
    shape = ModelShape(
        hidden_size=width, intermediate_size=5 * width // 2, num_layers=2, num_heads=heads, num_kv_heads=heads
    )
    model = build(shape, context=128, seed=0)
    if recipe is not None:
        quantize_model(model, recipe, shape.role)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    tokens = torch.randint(0, shape.vocab_size, (8, 129), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    step()
    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that is allocated at once within a step, beyond what was there before it."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        step()
    allocated = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def _cpu_seconds(step: Callable[[], None]) -> float:
    began = time.thread_time()
    step()
    return time.thread_time() - began


@pytest.fixture(scope="module", params=WIDTHS)
def plain(request: pytest.FixtureRequest) -> tuple[int, Callable[[], None]]:
    """A width, and the step of its plain model."""
    return request.param, training_step(request.param, None)


@pytest.mark.parametrize("name", RECIPES)
def test_training_step(
    name: str, plain: tuple[int, Callable[[], None]], benchmark: Any, steps: list[str]
) -> None:
    """Times the quantized step; then, in turns with it, the plain one."""
    width, plain_step = plain
    step = training_step(width, RECIPES[name])
    benchmark.group = f"a training step at width {width}"
    benchmark.pedantic(step, rounds=1)
    if not benchmark.enabled:
        return
    seconds: dict[Callable[[], None], list[float]] = {plain_step: [], step: []}
    for _ in range(_ROUNDS):
        for each, found in seconds.items():
            found.append(_cpu_seconds(each))
    before, after = (statistics.median(found) for found in seconds.values())
    bytes_before, bytes_after = peak_bytes(plain_step), peak_bytes(step)
    benchmark.extra_info.update({"x plain": after / before, "memory x plain": bytes_after / bytes_before})
    steps.append(
        f"| {width} | {name} | {before * 1e3:.1f} | {after / before:.2f} "
        f"| {bytes_before / 2**20:.1f} | {bytes_after / bytes_before:.2f} |"
    )
