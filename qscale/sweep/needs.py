"""What a run needs: threads, memory, disk. Estimates, so that a plan can be made before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from qscale.models.ladder import ModelShape
from qscale.sweep import machine
from qscale.sweep.grid import Study
from qscale.training.config import RunConfig

#: Parameters that one more thread is worth: below, two processes of one thread beat one of two (measured 2x).
_PARAMETERS_PER_THREAD = 10e6
#: A process with torch and transformers loaded, and its corpus.
_PROCESS = 0.45e9
#: Bytes of a parameter in training: itself, its gradient and two moments of AdamW in float32.
_TRAINED = 16
#: Numbers that an element of a block's hidden state leaves for the backward pass, quantized layers included.
_KEPT = 40
#: Copies of the logits in float32: themselves, their logarithms and their gradient.
_LOGITS = 4


def threads_for(shapes: Iterable[ModelShape], cores: int, device: str) -> int:
    """Threads of a worker: one more for every 10 M parameters of the largest model, and one beside a GPU."""
    if device != "cpu":
        return 1
    largest = max((shape.N_total for shape in shapes), default=0)
    return max(1, min(cores, int(largest / _PARAMETERS_PER_THREAD)))


def threads_of(study: Study, device: str) -> int:
    """Threads of a worker on this machine, by the largest model of a study."""
    shapes = [shape for grid in study.grids for shape in grid.sizes.values()]
    return threads_for(shapes, machine.cores(), device)


def workers_of(threads: int, device: str) -> int:
    """A worker for each GPU of this machine, or as many as its cores have threads for."""
    cards = machine.cards() if device == "cuda" else []
    return len(cards) or max(1, machine.cores() // threads)


def memory_of(config: RunConfig, *, device: str = "cpu") -> float:
    """Bytes that a worker holds at most while it trains a run; of a GPU's worker, those of its host."""
    shape = config.model
    if device != "cpu":
        return _PROCESS + 8 * shape.N_total  # a checkpoint on its way to the disk
    tokens = config.batch_sequences // config.accumulation * config.context
    hidden = tokens * shape.num_layers * shape.hidden_size * _KEPT
    attention = tokens * shape.num_layers * shape.num_heads * config.context
    logits = tokens * shape.vocab_size * _LOGITS
    number = 2 if config.precision == "bfloat16" else 4
    return _PROCESS + _TRAINED * shape.N_total + number * (hidden + attention) + 4 * logits


def disk_of(configs: Iterable[RunConfig]) -> float:
    """Bytes that a study leaves: branch checkpoints, the last weights of baselines, losses and curves."""
    checkpoints: dict[tuple[str, int], float] = {}
    other = 0.0
    for config in configs:
        if config.source() is None:
            checkpoints[config.trunk_id, config.branch_step] = 12.0 * config.model.N_total
        other += 8 * config.eval_windows + 20_000  # curve, record and diagnostics of a small run
        other += 4 * config.model.N_total if config.recipe is None else 0
    return sum(checkpoints.values()) + other
