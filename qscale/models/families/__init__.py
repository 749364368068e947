"""Model families: a registry that loads no torch, and real models with initial weights from a seed alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from qscale.errors import ConfigError
from qscale.models.families.family import Family, Linear, Role
from qscale.models.families.gpt_neox import GPTNeoX
from qscale.models.families.llama import Llama
from qscale.models.families.opt import OPT
from qscale.models.families.qwen3 import Qwen3

if TYPE_CHECKING:
    from torch import nn

    from qscale.models.ladder import ModelShape

__all__ = ["FAMILIES", "Family", "Linear", "Role", "build", "family_of"]

#: Every family by name; a new one is a file beside this one and a class here.
FAMILIES: dict[str, Family] = {family.name: family for family in (Llama(), Qwen3(), GPTNeoX(), OPT())}


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
        ConfigError: Unknown name; the nearest known one is given.

    Example:
        >>> from qscale.models.ladder import shape_of
        >>> [linear.role for linear in family_of("opt").linears(shape_of("opt-125m"))]
        ['qkv', 'qkv', 'qkv', 'o', 'fc1', 'fc2']
    """
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    nearest = get_close_matches(str(name).lower().replace("-", "_"), list(FAMILIES), n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(f"unknown family {name!r}; {hint}known: {', '.join(FAMILIES)}")


def build(shape: ModelShape, *, context: int, seed: int) -> nn.Module:
    """A causal language model of this shape, in float32 on the CPU.

    Initial weights are normal with standard deviation ``1/sqrt(fan_in)`` (matrices that write to the residual
    stream divided by ``sqrt(2 layers)``), 0.02 for embeddings and learned positions; gains are ones and
    biases zeros. They are drawn by NumPy's frozen MT19937, whose bits depend on neither SIMD width nor
    version, as ``torch.randn``'s do.
    """
    with _quiet():
        from transformers import AutoModelForCausalLM

        config = family_of(shape.family).config(shape, context)
        make: Callable[..., nn.Module] = AutoModelForCausalLM.from_config
        model = make(config, attn_implementation="sdpa")
    _initialize(model, shape, seed)
    return model


def _initialize(model: nn.Module, shape: ModelShape, seed: int) -> None:
    """Draw every parameter anew from ``seed``, in the order of the model's parameter names."""
    import numpy as np
    import torch
    from torch import nn

    family = family_of(shape.family)
    writers = tuple(f".{x.name}.weight" for x in family.linears(shape) if family.writes_residual(x))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    generator = np.random.RandomState(seed)  # frozen by NumPy's policy: the same numbers in every release
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
                continue
            deviation = 0.02 if id(parameter) in tables else 1 / math.sqrt(parameter.shape[1])
            if name.endswith(writers):
                deviation /= math.sqrt(2 * shape.num_layers)
            values = generator.standard_normal(parameter.shape) * deviation
            parameter.copy_(torch.from_numpy(values))


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines: transformers imports a torchao that is installed, which tells what it lacks here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
