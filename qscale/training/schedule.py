"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from qscale.training.config import RunConfig


def trunk_rate(config: RunConfig, step: int) -> float:
    """Rate of step number ``step`` (from 0) on the trunk: linear warm-up, then constant."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def branch_rate(config: RunConfig, step: int) -> float:
    """Rate of step number ``step`` of a whole run: the trunk's, then a cooldown to 0 over the last steps.

    With x the part of the cooldown that is over, the factor is ``1 - x`` (``linear``) or ``1 - sqrt(x)``.
    Source: Haegele et al. 2024 (arXiv:2405.18392), section 3.
    """
    rate = trunk_rate(config, step)
    if step < config.branch_step:
        return rate
    over = (step - config.branch_step) / (config.steps - config.branch_step)
    return rate * (1 - over if config.cooldown_shape == "linear" else 1 - math.sqrt(over))
