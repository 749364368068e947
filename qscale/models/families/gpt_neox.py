"""GPT-NeoX blocks, those of Pythia: LayerNorm, biases, attention and FFN side by side, a quarter rotary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qscale.models.families.family import Family, Linear, common

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qscale.models.ladder import ModelShape


class GPTNeoX(Family):
    """GPT-NeoX with a parallel residual and exact GELU (transformers' ``GPTNeoXForCausalLM``)."""

    name = "gpt_neox"
    blocks = "gpt_neox.layers"
    ffn_matrices = 2
    rotary = 0.25
    options: ClassVar[Mapping[str, float | None]] = {"rope_theta": 10_000.0, "norm_eps": 1e-5}
    keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "vocab_size": "vocab_size",
        "rope_theta": "rotary_emb_base",
        "norm_eps": "layer_norm_eps",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "attention_bias": True,
    }

    def linears(self, shape: ModelShape) -> tuple[Linear, ...]:
        """Q, K and V in one layer; O; the two of the FFN. All have biases."""
        width, ffn = shape.hidden_size, shape.intermediate_size
        return (
            Linear("attention.query_key_value", "qkv", width, 3 * width, bias=True),
            Linear("attention.dense", "o", width, width, bias=True),
            Linear("mlp.dense_h_to_4h", "fc1", width, ffn, bias=True),
            Linear("mlp.dense_4h_to_h", "fc2", ffn, width, bias=True),
        )

    def norms(self, shape: ModelShape) -> int:
        """Two gains and two biases."""
        return 4 * shape.hidden_size

    def final_norm(self, shape: ModelShape) -> int:
        """A gain and a bias."""
        return 2 * shape.hidden_size

    def config(self, shape: ModelShape, context: int) -> PretrainedConfig:
        """A ``GPTNeoXConfig``."""
        from transformers import GPTNeoXConfig

        fields = common(
            shape,
            context,
            intermediate_size=shape.intermediate_size,
            hidden_act="gelu",
            rotary_pct=self.rotary,
            rotary_emb_base=shape.option("rope_theta"),
            layer_norm_eps=shape.option("norm_eps"),
            use_parallel_residual=True,
            attention_bias=True,
            attention_dropout=0.0,
            hidden_dropout=0.0,
        )
        return GPTNeoXConfig(**fields)
