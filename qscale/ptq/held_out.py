"""Losses of held-out sequences by a model that has one block in memory at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qscale.ptq.blocks import Calls

#: Logits that are in memory at a time, at least one sequence's.
_LOGITS = 1 << 24


class Source(Protocol):
    """A model, and its blocks as they come and go."""

    model: nn.Module
    blocks: dict[str, nn.Module]

    def load(self, name: str) -> None: ...

    def free(self, name: str) -> None: ...

    def identity(self) -> str: ...


class HeldOut:
    """Sequences on their way through the blocks, in the model's dtype.

    Args:
        model: As for :class:`qscale.ptq.blocks.Calls`.
        blocks: Likewise.
        sequences: Tokens, ``(count, context + 1)``.
    """

    def __init__(self, model: nn.Module, blocks: dict[str, nn.Module], sequences: np.ndarray) -> None:
        self.calls = Calls(model, blocks, sequences[:, :-1])
        self.sequences = sequences
        vocabulary = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
        self.together = max(1, _LOGITS // (vocabulary * max(1, sequences.shape[1] - 1)))

    def losses(self) -> np.ndarray:
        """Mean loss of each sequence in nats per token, float64, once all blocks have been gone through."""
        found: list[Tensor] = []
        start = 0
        for tokens, hidden in zip(self.calls.tokens, self.calls.hidden, strict=True):
            targets = torch.from_numpy(self.sequences[start : start + len(tokens), 1:]).to(tokens.device)
            start += len(tokens)
            for first in range(0, len(tokens), self.together):
                part = slice(first, first + self.together)
                logits = self.calls.logits(tokens[part], hidden[part]).float()
                nats = functional.cross_entropy(
                    logits.flatten(0, 1), targets[part].flatten(), reduction="none"
                )
                found.append(nats.view(len(logits), -1).double().mean(dim=1).cpu())
        return torch.cat(found).numpy() if found else np.empty(0)


@torch.no_grad()
def losses(source: Source, sequences: np.ndarray) -> np.ndarray:
    """Losses of a model as it is, a block at a time: nats per token, one a sequence, float64."""
    first = next(iter(source.blocks))
    source.load(first)
    held_out = HeldOut(source.model, source.blocks, sequences)
    for name in source.blocks:
        source.load(name)
        held_out.calls.advance(name)
        source.free(name)
    return held_out.losses()
