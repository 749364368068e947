"""Query-key reparameterisation: the product of both projections is quantized, head by head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError

#: Names by which configurations of models say that positions rotate queries and keys.
_ROTARY = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim", "rotary_pct", "rotary_emb_base")


class QueryKey(nn.Module):
    """Attention logits ``x Q(W_q^T W_k) x^T / sqrt(head)``, one quantized matrix for each head.

    Two weights that are rounded apart oscillate against each other; their product is rounded once. The
    projections stay parameters. It holds only where nothing stands between queries and keys: no rotary
    positions (:func:`refuse_rotary`) and no norms. Source: OFQ, Liu et al. 2023 (ICML); unverified on
    language models. The product is computed in plain torch, in float32; the rounding is the quantizer's.

    Biases are an extension of ours. ``(W_q x + b_q)^T (W_k y + b_k)`` is ``x^T W_q^T W_k y + b_q^T W_k y``
    and two terms that are the same for every key y, so that the softmax does not see them: these are left
    out, and ``b_k`` with them. ``b_q^T W_k`` is added to each query in full precision.

    Args:
        query: ``hidden`` to ``heads * head``.
        key: ``hidden`` to ``kv_heads * head``; kv_heads divides heads.
        heads: Query heads.
        weight_quantizer: Of the products as one matrix, ``(heads * hidden, hidden)``, groups along the last
            axis.
        kv_heads: None: as many as heads.
        input_quantizer: Of x where it stands for queries.
        key_quantizer: Of x where it stands for keys.

    Raises:
        ConfigError: The sizes do not go together.
    """

    query: nn.Linear
    key: nn.Linear
    weight_quantizer: nn.Module
    input_quantizer: nn.Module | None
    key_quantizer: nn.Module | None
    heads: int
    kv_heads: int

    def __init__(
        self,
        query: nn.Linear,
        key: nn.Linear,
        heads: int,
        weight_quantizer: nn.Module,
        kv_heads: int | None = None,
        *,
        input_quantizer: nn.Module | None = None,
        key_quantizer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if (
            heads % kv_heads
            or query.out_features % heads
            or key.out_features * heads != query.out_features * kv_heads
        ):
            raise ConfigError(
                f"query-key reparameterisation: {heads} heads and {kv_heads} of keys do not go with "
                f"projections to {query.out_features} and {key.out_features} features"
            )
        self.query, self.key, self.weight_quantizer = query, key, weight_quantizer
        self.input_quantizer, self.key_quantizer = input_quantizer, key_quantizer
        self.heads, self.kv_heads = heads, kv_heads

    @property
    def scale(self) -> float:
        """``1 / sqrt(head)``, of the logits."""
        return 1 / math.sqrt(self.query.out_features // self.heads)

    @property
    def weight(self) -> Tensor:
        """``W_q^T W_k`` of each head, one below the other: ``(heads * hidden, hidden)``, not quantized."""
        return self._of_heads(self.query.weight).transpose(1, 2).matmul(self._keys()).flatten(0, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys whose products are the logits, but for :attr:`scale`.

        Args:
            x: ``(..., tokens, hidden)``.

        Returns:
            ``(..., heads, tokens, hidden)``, and ``(..., 1, tokens, hidden)`` for all heads.
        """
        queries = x if self.input_quantizer is None else self.input_quantizer(x)
        keys = x if self.key_quantizer is None else self.key_quantizer(x)
        with torch.autocast(x.device.type, enabled=False):  # what is rounded to codes is not rounded before
            product = self.weight_quantizer(self.weight).view(self.heads, x.shape[-1], x.shape[-1])
            bias = None
            if self.query.bias is not None:
                bias = self.query.bias.view(self.heads, 1, -1) @ self._keys()
        queries = queries.unsqueeze(-3) @ product
        return queries if bias is None else queries + bias, keys.unsqueeze(-3)

    def logits(self, x: Tensor) -> Tensor:
        """``(..., tokens, hidden)`` to ``(..., heads, tokens, tokens)``, before mask and softmax.

        Without what biases add to all keys alike.
        """
        queries, keys = self(x)
        found: Tensor = queries @ keys.transpose(-1, -2) * self.scale
        return found

    def _of_heads(self, weight: Tensor) -> Tensor:
        return weight.view(-1, self.query.out_features // self.heads, weight.shape[1])

    def _keys(self) -> Tensor:
        """The weights of keys for each query head, ``(heads, head, hidden)``."""
        return self._of_heads(self.key.weight).repeat_interleave(self.heads // self.kv_heads, 0)


def refuse_rotary(model: nn.Module) -> None:
    """Raise for a model whose positions rotate queries and keys: their product is not ``x W_q^T W_k x^T``.

    Raises:
        ConfigError: Its configuration or one of its modules says so.
    """
    config = getattr(model, "config", None)
    named = [name for name in _ROTARY if getattr(config, name, None) is not None]
    named += [name for name, _ in model.named_modules() if "rotary" in name.rpartition(".")[2].lower()]
    if named:
        raise ConfigError(
            f"{type(model).__name__} has rotary positions ({named[0]}): they stand between W_q and W_k, so "
            "query-key reparameterisation cannot be; use q=statsq/absmax, or a family without them"
        )
