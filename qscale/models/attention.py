"""Fake-quantized keys and values: an attention function that transformers finds by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.quantizers import make_quantizer

#: The name under which ``config._attn_implementation`` finds it.
NAME = "qscale_sdpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """Which keys and values a query finds in full precision: the latest ones.

    A query finds a key quantized once the key's group of tokens is complete and ends before the last
    ``tokens`` tokens, its own included.

    Example:
        >>> Recent(tokens=1).full(3).int().tolist()
        [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
        >>> Recent(group=2).full(4).int()[-2:].tolist()  # the second pair lacks a token
        [[0, 0, 1, 1], [0, 0, 0, 0]]
    """

    tokens: int = 0
    group: int = 1

    def full(self, count: int) -> Tensor:
        """``(queries, keys)`` of a sequence: whether a key, or what comes after, is in full precision."""
        at = torch.arange(count)
        ends = (at // self.group + 1) * self.group
        return ends[None, :] > at[:, None] + 1 - self.tokens

    def share(self, count: int) -> float:
        """The part of what all queries of a sequence find that is in full precision."""
        return float(self.full(count).tril().sum()) / (count * (count + 1) / 2)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """``sdpa`` of transformers, after the quantizers that ``module`` has for keys and values.

    Keys come here after the rotary embedding, ``(batch, heads, tokens, head)``; groups run along the head.
    With ``module.kv_recent``, a :class:`Recent` for keys and one for values, the latest stay as they are.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    quantizers = getattr(module, "kv_quantizers", None)
    if quantizers is not None:
        recent = getattr(module, "kv_recent", None)
        if recent is not None:
            return _mixed(query, (key, value), quantizers, recent, mask, options), None
        key, value = quantizers["key"](key), quantizers["value"](value)
    out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, mask, **options)
    return out


def quantize_keys_and_values(model: nn.Module, spec: QuantSpec, attentions: dict[str, nn.Module]) -> None:
    """Have the attention modules given, by dotted name, fake-quantize keys and values; in place.

    Raises:
        ConfigError: The model does not look its attention function up by name, or another than ``sdpa``.
        SpecError: The spec has no kernel.
    """
    look_up(model, attentions, f"kv={spec}")
    for name, module in attentions.items():
        module.kv_quantizers = nn.ModuleDict(
            {
                part: make_quantizer(
                    "absmax", spec, operand="input", shape=(0,), name=f"{name}.kv_quantizers.{part}"
                )
                for part in ("key", "value")
            }
        )
        module.kv_quantizers.train(module.training)


def look_up(model: nn.Module, attentions: Mapping[str, nn.Module], what: str) -> None:
    """Have a model's attention be :func:`attention`, which quantizes where a module says how.

    Raises:
        ConfigError: As for :func:`quantize_keys_and_values`; ``what`` needs it.
    """
    check_sdpa(model, what)
    config = getattr(model, "config", None)
    for name, module in attentions.items():
        if getattr(module, "config", None) is not config:
            raise ConfigError(f"{what}: {name} does not look up its attention in the model's config")
    _register()
    setattr(config, "_attn_implementation", NAME)  # noqa: B010 - any object that has it


def leave(model: nn.Module) -> None:
    """Take away what quantizes keys and values, in place: the model looks up ``sdpa`` again."""
    for module in model.modules():
        for name in ("kv_quantizers", "kv_recent"):
            if hasattr(module, name):
                delattr(module, name)
    config = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", None) == NAME:
        setattr(config, "_attn_implementation", "sdpa")  # noqa: B010 - as above


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


def _mixed(
    query: Tensor,
    stored: tuple[Tensor, Tensor],
    quantizers: nn.ModuleDict,
    recent: Mapping[str, Recent],
    mask: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Attention of queries that find late keys and values as they are, earlier ones quantized.

    Every query scores both and takes one of them: twice the products of ``sdpa``, and the scores in memory.
    """
    count = stored[0].shape[2]
    if query.shape[2] != count:
        raise ConfigError("recent keys in full precision: whole sequences are wanted, without a cache")
    groups = query.shape[1] // stored[0].shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in stored)
    rounded = {
        part: quantizers[part](x).repeat_interleave(groups, 1)
        for part, x in zip(("key", "value"), stored, strict=True)
    }
    full = {part: one.full(count).to(query.device) for part, one in recent.items()}
    scores = torch.where(
        full["key"], query @ key.transpose(-1, -2), query @ rounded["key"].transpose(-1, -2)
    ).float()
    scaling = options.get("scaling")
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if mask is None:
        mask = torch.ones(count, count, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = nn.functional.dropout(scores.softmax(-1).to(query.dtype), options.get("dropout", 0.0))
    out: Tensor = (weights * full["value"]) @ value + (weights * ~full["value"]) @ rounded["value"]
    return out.transpose(1, 2).contiguous()


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
