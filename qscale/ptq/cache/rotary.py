"""Keys before the rotary embedding: an attention function gets them after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from qscale.errors import ConfigError

Positions = tuple[Tensor, Tensor]  #: cosines and sines, ``(batch or 1, tokens, turned channels)``


class BeforeRotary(nn.Module):
    """A coder of keys as they are before the rotary embedding.

    The embedding is undone, keys are stored, and it is done again: what an attention that keeps keys before
    the embedding computes, up to rounding. Without an embedding the coder is all there is.

    Args:
        coder: Of the keys.
        rotary: ``apply_rotary_pos_emb`` of the model's own code; None where it has none.
    """

    def __init__(self, coder: nn.Module, rotary: Callable[..., tuple[Tensor, Tensor]] | None) -> None:
        super().__init__()
        self.coder, self.rotary = coder, rotary
        self.positions: Positions | None = None  #: of the call under way

    def forward(self, x: Tensor) -> Tensor:
        """Undo the embedding, store, do it again."""
        if self.positions is None:
            return cast("Tensor", self.coder(x))
        return self._turned(self.coder(self.undone(x)), *self.positions).to(x.dtype)

    def undone(self, x: Tensor) -> Tensor:
        """Keys before the embedding."""
        if self.positions is None:
            return x
        cos, sin = (part.float() for part in self.positions)
        power = cos.square() + sin.square()  # 1, unless the embedding scales too
        return self._turned(x, cos / power, -sin / power).to(x.dtype)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.rotary is None or x.shape[2] != cos.shape[1]:
            raise ConfigError(
                "keys before the rotary embedding: the model's own apply_rotary_pos_emb and whole "
                "sequences, without a cache, are wanted; quantize keys after it"
            )
        wide = x.float()
        return self.rotary(wide, wide, cos.float(), sin.float())[1]


def rotary_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The function by which an attention module of transformers turns queries and keys."""
    return getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)


def tell_positions(module: nn.Module, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A hook before an attention module: have its coder of keys know the positions of the call."""
    quantizers = getattr(module, "kv_quantizers", None)
    found = [] if quantizers is None else quantizers["key"].modules()
    for inner in found:
        if isinstance(inner, BeforeRotary):
            inner.positions = kwargs.get("position_embeddings")
