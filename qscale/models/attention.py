"""Fake-quantized keys and values: an attention function that transformers finds by its name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.quantizers import make_quantizer

#: The name under which ``config._attn_implementation`` finds it.
NAME = "qscale_sdpa"


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """``sdpa`` of transformers, after the quantizers that ``module`` has for keys and values.

    Keys come here after the rotary embedding, ``(batch, heads, tokens, head)``; groups run along the head.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    quantizers = getattr(module, "kv_quantizers", None)
    if quantizers is not None:
        key, value = quantizers["key"](key), quantizers["value"](value)
    out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, mask, **options)
    return out


def quantize_keys_and_values(model: nn.Module, spec: QuantSpec, attentions: dict[str, nn.Module]) -> None:
    """Have the attention modules given, by dotted name, fake-quantize keys and values; in place.

    Raises:
        ConfigError: The model does not look its attention function up by name, or another than ``sdpa``.
        SpecError: The spec has no kernel.
    """
    check_sdpa(model, f"kv={spec}")
    config = getattr(model, "config", None)
    for name, module in attentions.items():
        if getattr(module, "config", None) is not config:
            raise ConfigError(f"kv={spec}: {name} does not look up its attention in the model's config")
        module.kv_quantizers = nn.ModuleDict(
            {
                part: make_quantizer(
                    "absmax", spec, operand="input", shape=(0,), name=f"{name}.kv_quantizers.{part}"
                )
                for part in ("key", "value")
            }
        )
        module.kv_quantizers.train(module.training)
    _register()
    setattr(config, "_attn_implementation", NAME)  # noqa: B010 - any object that has it


def check_sdpa(model: nn.Module, what: str) -> None:
    """Raise where a model's attention is not ``sdpa``; ``what`` needs it.

    Raises:
        ConfigError: As said.
    """
    chosen = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if chosen not in ("sdpa", NAME):
        raise ConfigError(
            f"{what}: the attention of {type(model).__name__} is {chosen!r}; build the model with 'sdpa'"
        )


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
