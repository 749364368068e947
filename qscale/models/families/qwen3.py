"""Qwen3 blocks: those of Llama, with a norm on each query and key head and heads of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qscale.models.families.family import common
from qscale.models.families.llama import Llama

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qscale.models.ladder import ModelShape


class Qwen3(Llama):
    """Dense Qwen3 without sliding windows (transformers' ``Qwen3ForCausalLM``)."""

    name = "qwen3"
    heads_of_any_size = True
    required = ("num_kv_heads", "head_dim")  # transformers has sizes of its own for a file without them
    fixed: ClassVar[Mapping[str, object]] = {
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
    }

    def norms(self, shape: ModelShape) -> int:
        """Two gains of the width, and one each for queries and keys, shared by the heads."""
        return super().norms(shape) + 2 * shape.head_size

    def config(self, shape: ModelShape, context: int) -> PretrainedConfig:
        """A ``Qwen3Config``."""
        from transformers import Qwen3Config

        fields = common(
            shape,
            context,
            intermediate_size=shape.intermediate_size,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_size,
            rope_theta=shape.option("rope_theta"),
            rms_norm_eps=shape.option("norm_eps"),
        )
        return Qwen3Config(**fields)
