"""Query-key reparameterisation in OPT's attention: one quantized matrix a head between inputs and inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec, Recipe
from qscale.models import attention
from qscale.quantizers import QueryKey, make_quantizer
from qscale.quantizers.qkr import refuse_rotary

if TYPE_CHECKING:
    from transformers.models.opt.modeling_opt import OPTAttention


class QueryKeyAttention(nn.Module):
    """OPT's attention with logits by :class:`QueryKey`; parameters are shared and keep their names.

    ``sdpa`` takes ``x Q`` for queries and ``x`` for keys; a cache holds the quantized inputs, once for all
    heads, in place of keys. The bias of keys adds the same to the logits of all keys: it learns no more.
    """

    def __init__(self, old: OPTAttention, query_key: QueryKey) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = old.config, old.layer_idx, True
        self.num_heads, self.dropout = old.num_heads, old.dropout
        self.k_proj, self.v_proj, self.q_proj = old.k_proj, old.v_proj, old.q_proj
        self.out_proj = old.out_proj
        self.query_key = query_key
        if self.k_proj.bias is not None:
            self.k_proj.bias.requires_grad_(False)
        self.train(old.training)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``(batch, tokens, hidden)`` to the same, as OPT's."""
        queries, keys = self.query_key(hidden_states)
        values = self.v_proj(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        out, weights = attention.attention(
            self,
            queries,
            keys.expand(-1, self.num_heads, -1, -1),
            values,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.query_key.scale,
            **options,
        )
        return self.out_proj(out.flatten(2)), weights


def find_attentions(model: nn.Module, spec: QuantSpec) -> dict[str, nn.Module]:
    """The attention modules that can be reparameterised, by dotted name.

    Raises:
        ConfigError: The model has rotary positions, other attention than OPT's, or not ``sdpa``.
    """
    from transformers.models.opt.modeling_opt import OPTAttention

    refuse_rotary(model)
    found: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, OPTAttention)
    }
    if not found:
        raise ConfigError(
            f"qkr={spec}: {type(model).__name__} has no attention of OPT's kind; it is built for that alone"
        )
    attention.check_sdpa(model, f"qkr={spec}")
    return found


def reparameterize(model: nn.Module, recipe: Recipe, names: list[str]) -> None:
    """Replace attention modules, some that :func:`find_attentions` found, in place.

    The product is quantized by the quantizer of weights under the spec ``recipe.qkr``, inputs by the input
    quantizers that the projections have by now.
    """
    for name in names:
        assert recipe.qkr is not None
        old: Any = model.get_submodule(name)
        quantizer = make_quantizer(
            recipe.quantizer_for("weight"),
            recipe.qkr,
            operand="weight",
            shape=(old.num_heads * old.embed_dim, old.embed_dim),
            name=f"{name}.query_key.weight",
        )
        product = QueryKey(
            old.q_proj,
            old.k_proj,
            old.num_heads,
            quantizer.to(old.q_proj.weight.device),
            input_quantizer=getattr(old.q_proj, "input_quantizer", None),
            key_quantizer=getattr(old.k_proj, "input_quantizer", None),
        )
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, QueryKeyAttention(old, product))
