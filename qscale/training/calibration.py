"""Timing a model's training steps, on random tokens, and whether compiling repays its time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from qscale.models.families import build
from qscale.models.surgery import quantize_model
from qscale.training.config import RunConfig
from qscale.training.engine import gradients
from qscale.training.optimizer import make_optimizer
from qscale.training.ranks import Ranks

_STEPS = 8  # that are timed, either way
_LEAST_STEPS = 2  # where a step takes long
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a run trains."""

    seconds: float  #: of a step, the median
    tokens_per_second: float
    steps: int  #: that were timed


def time_steps(config: RunConfig, *, device: str = "cpu", seconds: float = 2.0) -> Pace:
    """Time whole optimizer steps of a run, with as many threads as torch has now.

    Args:
        config: The run; compiled where it says so, and compiling is not timed.
        device: Where it trains.
        seconds: To take at most, but for the first step and two more.
    """
    model = _model(config).to(device)
    optimizer = make_optimizer(config, model)
    stepper: nn.Module = torch.compile(model) if config.compiled else model  # type: ignore[assignment]
    tokens, ranks, parameters = _tokens(config).to(device), Ranks(), list(model.parameters())

    def step() -> float:
        began = time.perf_counter()
        gradients(stepper, tokens, config)
        ranks.clip(parameters, config.gradient_clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if tokens.device.type != "cpu":
            torch.get_device_module(tokens.device).synchronize()
        return time.perf_counter() - began

    step()  # memory is fetched, learned scales start, graphs are compiled
    taken: list[float] = []
    while len(taken) < _LEAST_STEPS or (len(taken) < _STEPS and sum(taken) < seconds):
        taken.append(step())
    one = median(taken)
    return Pace(seconds=one, tokens_per_second=config.tokens_per_step / one, steps=len(taken))


def try_compiling(config: RunConfig) -> Trial:
    """Time some steps of a run's model, plain and compiled.

    The optimizer's part is the same either way and left out.
    """
    model, tokens = _model(config), _tokens(config)

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


def _model(config: RunConfig) -> nn.Module:
    """A run's model, quantized."""
    model = build(config.model, context=config.context, seed=config.init_seed)
    if config.recipe is not None:
        quantize_model(model, config.recipe, config.model.role)
    return model


def _tokens(config: RunConfig) -> Tensor:
    """As many random tokens as a step has, ``(sequences, context + 1)``."""
    size = (config.batch_sequences, config.context + 1)
    return torch.randint(0, config.model.vocab_size, size, generator=torch.Generator().manual_seed(0))
