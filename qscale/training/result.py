"""From a finished run to its record."""

from __future__ import annotations

import platform
import resource
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch

from qscale.data import tokenizer
from qscale.data.corpus import Corpus
from qscale.formats import Recipe
from qscale.models.ladder import ModelShape
from qscale.records import Record
from qscale.training.config import RunConfig
from qscale.training.evaluate import Estimate, estimate
from qscale.training.losses import losses_sha256


def make_record(
    config: RunConfig,
    corpus: Corpus,
    device: str,
    seconds: float,
    *,
    losses: np.ndarray | None = None,
    delta: Estimate | None = None,
    baseline: Record | None = None,
    diverged_step: int | None = None,
    relmse: tuple[float | None, float | None] = (None, None),
    measured: Mapping[str, Any] | None = None,
) -> Record:
    """The record of a run that took ``seconds``; ``losses`` per sequence, None where it diverged.

    ``measured`` are fields of a record that a pass of the mode ptq has found.
    """
    shape = config.model
    diverged = losses is None or not np.isfinite(losses).all()
    loss = None if losses is None or diverged else estimate(losses)
    trained = (config.steps - config.branch_step) * config.tokens_per_step
    both, weight, inputs = group_lengths(shape, config.recipe)
    return Record(
        run_id=config.run_id,
        config=config.to_json(),
        mode=config.mode,
        N=shape.N,
        N_total=shape.N_total,
        D=config.tokens,
        epochs=config.tokens / len(corpus.train),
        G=both,
        G_weight=weight,
        G_input=inputs,
        loss=None if loss is None else loss.mean,
        loss_se=None if loss is None else loss.se,
        bits_per_byte=None
        if loss is None
        else tokenizer.bits_per_byte(loss.mean, corpus.bytes_per_token(config.eval_windows, config.context)),
        eval_tokens=config.eval_windows * config.context,
        diverged=diverged,
        diverged_step=diverged_step,
        wall_seconds=seconds,
        tokens_per_second=trained / seconds if seconds else 0.0,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        versions={name: metadata.version(name) for name in ("torch", "transformers", "numpy", "qscale")},
        host={
            "machine": platform.machine(),
            "device": device,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        baseline_run_id=None if baseline is None else baseline.run_id,
        delta=None if delta is None else delta.mean,
        delta_se=None if delta is None else delta.se,
        relmse_weight=relmse[0],
        relmse_input=relmse[1],
        eval_losses_sha256=None if losses is None else losses_sha256(losses),
        **(measured or {}),
    )


def diverged_record(config: RunConfig, corpus: Corpus, device: str, step: int) -> Record:
    """The record of a run whose trunk diverged at ``step``, before the run could leave it."""
    return make_record(config, corpus, device, 0.0, diverged_step=step)


def group_lengths(shape: ModelShape, recipe: str | None) -> tuple[float | None, float | None, float | None]:
    """The G of a run, and that of its weights and of its inputs.

    G is None where nothing is quantized, where weights and inputs differ in it, and where one of them has a
    scale per tensor, which has no length.
    """
    if recipe is None:
        return None, None, None
    parsed = Recipe.parse(recipe)
    weight, inputs = (shape.group_length(parsed, operand) for operand in ("weight", "input"))
    used = [
        length
        for length, spec in ((weight, parsed.weight), (inputs, parsed.input))
        if length is not None or spec is not None
    ]
    return (used[0] if len(set(used)) == 1 else None), weight, inputs
