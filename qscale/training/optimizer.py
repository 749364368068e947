"""AdamW over a model's parameters: which decay, and at what rate each learns."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from qscale.training.config import RunConfig


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone; parameters of one dimension do not decay.

    ``mup``: the matrices of the blocks and the head learn at ``mup_width / fan_in`` times the rate, all else
    at the rate itself; with first weights of ``1/sqrt(fan_in)`` and heads of one size, the best rate is then
    nearly that of the width ``mup_width``. (The head's first weights are not smaller than the standard ones,
    as muP's are; its rate is muP's.) Source: Yang et al. 2022 (arXiv:2203.03466), table 8.
    """
    return torch.optim.AdamW(
        _groups(config, model, model.named_parameters()),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def add_learned(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Have the optimizer learn what quantizers add to the model: scales, which do not decay."""
    if learned := list(parameters):
        optimizer.add_param_group({"params": learned, "weight_decay": 0.0, "multiplier": 1.0})


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, for every group by its own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


def _groups(
    config: RunConfig, model: nn.Module, named: Iterable[tuple[str, nn.Parameter]]
) -> list[dict[str, object]]:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): []}
    for _, parameter in named:
        matrix = parameter.ndim > 1
        multiplier = 1.0
        if config.parametrization == "mup" and matrix and id(parameter) not in tables:
            multiplier = config.mup_width / parameter.shape[1]
        groups.setdefault((matrix, multiplier), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if matrix else 0.0,
            "multiplier": multiplier,
        }
        for (matrix, multiplier), parameters in groups.items()
        if parameters
    ]
