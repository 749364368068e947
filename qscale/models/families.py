"""Model families: transformers models built from a shape, with initial weights from a seed alone."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import nn

from qscale.models.ladder import ModelShape

# transformers imports a torchao that is installed, which logs what it lacks on this machine.
_logged_before = logging.root.manager.disable
logging.disable(logging.WARNING)
try:
    from transformers import LlamaConfig, LlamaForCausalLM
finally:
    logging.disable(_logged_before)


def build(shape: ModelShape, *, context: int, seed: int) -> nn.Module:
    """A causal language model of this shape, in float32 on the CPU.

    Initial weights are normal with standard deviation ``1/sqrt(fan_in)`` (matrices that write to the residual
    stream divided by ``sqrt(2 layers)``), 0.02 for the embedding, and ones for norm gains. They are
    drawn by NumPy's frozen MT19937, whose bits depend on neither SIMD width nor version, as
    ``torch.randn``'s do.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tie_embeddings,
        use_cache=False,
    )
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config)
    initialize(model, shape.num_layers, seed)
    return model


@torch.no_grad()
def initialize(model: nn.Module, layers: int, seed: int) -> None:
    """Draw every parameter anew from ``seed``, in the order of the model's parameter names."""
    generator = np.random.RandomState(seed)  # frozen by NumPy's policy: the same numbers in every release
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        deviation = 0.02 if "embed" in name else 1 / math.sqrt(parameter.shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= math.sqrt(2 * layers)
        values = generator.standard_normal(parameter.shape) * deviation
        parameter.copy_(torch.from_numpy(values))
