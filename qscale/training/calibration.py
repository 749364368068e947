"""Whether compiling a model repays its time: tried on the model itself, with random tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from qscale.models.families import build
from qscale.models.surgery import quantize_model
from qscale.training.config import RunConfig
from qscale.training.engine import gradients

_STEPS = 8  # that are timed, either way
_MARGIN = 2.0  # times the time of compiling that must be saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What compiling costs and saves."""

    plain: float  #: seconds of a step
    compiled: float
    compiling: float  #: seconds, once a process and model
    steps: int  #: of the run

    @property
    def worth_it(self) -> bool:
        """Whether a run saves twice what compiling takes."""
        return self.steps * (self.plain - self.compiled) > _MARGIN * self.compiling

    @property
    def sentence(self) -> str:
        """For the log."""
        verdict = "compiled" if self.worth_it else "not compiled"
        return (
            f"torch.compile: a step takes {1e3 * self.compiled:.3g} ms for {1e3 * self.plain:.3g} ms, "
            f"compiling {self.compiling:.3g} s; over {self.steps} steps: {verdict}"
        )


def try_compiling(config: RunConfig) -> Trial:
    """Time some steps of a run's model, plain and compiled.

    The optimizer's part is the same either way and left out.
    """
    model = build(config.model, context=config.context, seed=config.init_seed)
    if config.recipe is not None:
        quantize_model(model, config.recipe, config.model.role)
    size = (config.batch_sequences, config.context + 1)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.model.vocab_size, size, generator=generator)

    def seconds(stepper: nn.Module) -> float:
        began = time.perf_counter()
        gradients(stepper, tokens, config)
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    seconds(model)
    plain = median(seconds(model) for _ in range(_STEPS))
    stepper: nn.Module = torch.compile(model)  # type: ignore[assignment]
    first = seconds(stepper)
    compiled = median(seconds(stepper) for _ in range(_STEPS))
    return Trial(plain=plain, compiled=compiled, compiling=first - compiled, steps=config.steps)
