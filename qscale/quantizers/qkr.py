"""Query-key reparameterisation: the product of both projections is quantized, head by head."""

from __future__ import annotations

import math

from torch import Tensor, nn

from qscale.errors import ConfigError

#: Names by which configurations of models say that positions rotate queries and keys.
_ROTARY = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim", "rotary_pct", "rotary_emb_base")


class QueryKey(nn.Module):
    """Attention logits ``x Q(W_q^T W_k) x^T / sqrt(head)``, one quantized matrix for each head.

    Two weights that are rounded apart oscillate against each other; their product is rounded once. The
    projections stay parameters. It holds only where nothing stands between queries and keys: no rotary
    positions (:func:`refuse_rotary`), no norms and no biases. Source: OFQ, Liu et al. 2023 (ICML); unverified
    on language models. The product is computed in plain torch, the rounding is the quantizer's.

    Args:
        query: ``hidden`` to ``heads * head``, without bias.
        key: ``hidden`` to ``kv_heads * head``, without bias; kv_heads divides heads.
        heads: Query heads.
        quantizer: Of the products: ``(heads, hidden, hidden)``, groups along the last axis.
        kv_heads: None: as many as heads.

    Raises:
        ConfigError: A projection has a bias, or the sizes do not go together.
    """

    query: nn.Linear
    key: nn.Linear
    quantizer: nn.Module
    heads: int
    kv_heads: int

    def __init__(
        self,
        query: nn.Linear,
        key: nn.Linear,
        heads: int,
        quantizer: nn.Module,
        kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if query.bias is not None or key.bias is not None:
            raise ConfigError(
                "query-key reparameterisation: the projections of queries and keys have no bias"
            )
        if (
            heads % kv_heads
            or query.out_features % heads
            or key.out_features * heads != query.out_features * kv_heads
        ):
            raise ConfigError(
                f"query-key reparameterisation: {heads} heads and {kv_heads} of keys do not go with "
                f"projections to {query.out_features} and {key.out_features} features"
            )
        self.query, self.key, self.quantizer = query, key, quantizer
        self.heads, self.kv_heads = heads, kv_heads

    def product(self) -> Tensor:
        """``W_q^T W_k`` of each head, ``(heads, hidden, hidden)``, not quantized."""
        hidden = self.query.in_features
        query = self.query.weight.view(self.heads, -1, hidden)
        key = self.key.weight.view(self.kv_heads, -1, hidden)
        key = key.repeat_interleave(self.heads // self.kv_heads, 0)
        return query.transpose(1, 2) @ key

    def forward(self, x: Tensor) -> Tensor:
        """``(..., tokens, hidden)`` to logits ``(..., heads, tokens, tokens)``, before mask and softmax."""
        head = self.query.out_features // self.heads
        left = x.unsqueeze(-3) @ self.quantizer(self.product())
        logits: Tensor = left @ x.unsqueeze(-3).transpose(-1, -2) / math.sqrt(head)
        return logits


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
