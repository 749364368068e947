"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from qscale.training.config import RunConfig

_FINETUNE_WARMUP = 0.05  # of the steps of the phase, at most


def trunk_rate(config: RunConfig, step: int) -> float:
    """Rate of step number ``step`` (from 0) on the trunk: linear warm-up, then constant."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def branch_rate(config: RunConfig, step: int) -> float:
    """Rate of step number ``step`` of a whole run.

    ``cooldown``: the trunk's, then a cooldown to 0 over the last steps. With x the part of the cooldown that
    is over, the factor is ``1 - x`` (``linear``) or ``1 - sqrt(x)``. Source: Haegele et al. 2024
    (arXiv:2405.18392), section 3.

    ``cosine``: warm-up, then ``final_rate + (1 - final_rate) * (1 + cos(pi x)) / 2`` of the peak, x from the
    end of the warm-up. Source: Loshchilov and Hutter 2017 (arXiv:1608.03983).

    ``finetune``, whatever the schedule of the run it goes on from: a warm-up over a twentieth of the phase
    (or ``warmup_steps``, if shorter) to ``finetune_rate`` of the peak, then linear to 0. The rates that the
    source on fractions (arXiv:2509.22935) used are not known.
    """
    if config.mode == "finetune":
        return _finetune_rate(config, step)
    rate = trunk_rate(config, step)
    if config.schedule == "cosine":
        over = max(0, step - config.warmup_steps) / (config.steps - config.warmup_steps)
        return rate * (config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * over)) / 2)
    if step < config.branch_step:
        return rate
    over = (step - config.branch_step) / (config.steps - config.branch_step)
    return rate * (1 - over if config.cooldown_shape == "linear" else 1 - math.sqrt(over))


def _finetune_rate(config: RunConfig, step: int) -> float:
    taken, steps = step - config.branch_step, config.steps - config.branch_step
    warmup = min(config.warmup_steps, round(_FINETUNE_WARMUP * steps))
    peak = config.learning_rate * config.finetune_rate
    if taken < warmup:
        return peak * (taken + 1) / warmup
    return peak * (steps - taken) / (steps - warmup)
