"""Llama blocks: RMSNorm, rotary positions, grouped queries, SwiGLU, no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qscale.models.families.family import Family, Linear, common

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qscale.models.ladder import ModelShape


class Llama(Family):
    """Llama 1 to 3 without the long-context scaling of 3.1 (transformers' ``LlamaForCausalLM``)."""

    name = "llama"
    blocks = "model.layers"
    ffn_matrices = 3
    grouped_queries = True
    rotary = 1.0
    options: ClassVar[Mapping[str, float | None]] = {
        "head_dim": None,
        "rope_theta": 10_000.0,
        "norm_eps": 1e-6,
    }
    keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "vocab_size": "vocab_size",
        "head_dim": "head_dim",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
    }
    fixed: ClassVar[Mapping[str, object]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}

    def linears(self, shape: ModelShape) -> tuple[Linear, ...]:
        """Q, K, V, O, gate, up and down."""
        width, ffn = shape.hidden_size, shape.intermediate_size
        queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
        return (
            Linear("self_attn.q_proj", "qkv", width, queries),
            Linear("self_attn.k_proj", "qkv", width, keys),
            Linear("self_attn.v_proj", "qkv", width, keys),
            Linear("self_attn.o_proj", "o", queries, width),
            Linear("mlp.gate_proj", "fc1", width, ffn),
            Linear("mlp.up_proj", "fc1", width, ffn),
            Linear("mlp.down_proj", "fc2", ffn, width),
        )

    def norms(self, shape: ModelShape) -> int:
        """Two gains."""
        return 2 * shape.hidden_size

    def final_norm(self, shape: ModelShape) -> int:
        """A gain."""
        return shape.hidden_size

    def config(self, shape: ModelShape, context: int) -> PretrainedConfig:
        """A ``LlamaConfig``."""
        from transformers import LlamaConfig

        fields = common(
            shape,
            context,
            intermediate_size=shape.intermediate_size,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_size,
            rope_theta=shape.option("rope_theta"),
            rms_norm_eps=shape.option("norm_eps"),
        )
        return LlamaConfig(**fields)
