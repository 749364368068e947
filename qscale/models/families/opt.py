"""OPT blocks: LayerNorm before each part, biases, ReLU, learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qscale.models.families.family import Family, Linear, common

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qscale.models.ladder import ModelShape

_OFFSET = 2  # rows of the table of positions before the first one


class OPT(Family):
    """OPT as it is at every size but 350M, which has its norms behind (transformers' ``OPTForCausalLM``)."""

    name = "opt"
    blocks = "model.decoder.layers"
    ffn_matrices = 2
    options: ClassVar[Mapping[str, float | None]] = {"max_positions": 2048}
    keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "hidden_size",
        "intermediate_size": "ffn_dim",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "vocab_size": "vocab_size",
        "max_positions": "max_position_embeddings",
    }
    fixed: ClassVar[Mapping[str, object]] = {
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
    }
    ties_by_default = True

    def linears(self, shape: ModelShape) -> tuple[Linear, ...]:
        """Q, K, V, O and the two of the FFN. All have biases."""
        width, ffn = shape.hidden_size, shape.intermediate_size
        return (
            Linear("self_attn.q_proj", "qkv", width, width, bias=True),
            Linear("self_attn.k_proj", "qkv", width, width, bias=True),
            Linear("self_attn.v_proj", "qkv", width, width, bias=True),
            Linear("self_attn.out_proj", "o", width, width, bias=True),
            Linear("fc1", "fc1", width, ffn, bias=True),
            Linear("fc2", "fc2", ffn, width, bias=True),
        )

    def norms(self, shape: ModelShape) -> int:
        """Two gains and two biases."""
        return 4 * shape.hidden_size

    def final_norm(self, shape: ModelShape) -> int:
        """A gain and a bias."""
        return 2 * shape.hidden_size

    def positions(self, shape: ModelShape) -> int:
        """A row for each position, and the rows before the first."""
        return (int(shape.option("max_positions")) + _OFFSET) * shape.hidden_size

    def config(self, shape: ModelShape, context: int) -> PretrainedConfig:
        """An ``OPTConfig``. No token is padding: the row of one would not train."""
        from transformers import OPTConfig

        fields = common(
            shape,
            context,
            max_position_embeddings=int(shape.option("max_positions")),
            ffn_dim=shape.intermediate_size,
            word_embed_proj_dim=shape.hidden_size,
            activation_function="relu",
            do_layer_norm_before=True,
            enable_bias=True,
            layer_norm_elementwise_affine=True,
            dropout=0.0,
            attention_dropout=0.0,
            layerdrop=0.0,
            pad_token_id=None,
        )
        return OPTConfig(**fields)
