"""Loss on held-out sequences, kept per sequence, and paired differences between two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from qscale.training.ranks import Ranks

#: The same for every evaluation: the bits of a matrix product may depend on its number of rows.
_BATCH = 64


@torch.no_grad()
def sequence_losses(
    model: nn.Module, sequences: np.ndarray, device: str = "cpu", ranks: Ranks | None = None
) -> np.ndarray:
    """Mean loss of each sequence in nats per token, float64; ``sequences`` is ``(n, context + 1)``.

    Of several processes each takes every so manyth batch; all get all losses. Where there is none left for
    some they take the first again, as parts of a model are gathered by as many passes in every process.
    """
    ranks = ranks or Ranks()
    training, losses = model.training, []
    model.eval()
    order = np.arange(len(sequences))
    own = order[(order // _BATCH) % ranks.world == ranks.rank]
    for first in range(0, len(sequences), _BATCH * ranks.world):
        start = first + ranks.rank * _BATCH
        surplus = start >= len(sequences)
        start = 0 if surplus else start
        tokens = torch.from_numpy(sequences[start : start + _BATCH]).to(device)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        nats = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        if not surplus:
            losses.append(nats.view(len(tokens), -1).double().mean(dim=1).cpu().numpy())
    model.train(training)
    return ranks.join(np.concatenate(losses or [np.empty(0)]), own)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over sequences and its standard error; sequences, not tokens, are the independent units."""

    mean: float
    se: float


def estimate(losses: np.ndarray) -> Estimate:
    """Mean and standard error over sequences (0 where there is one)."""
    se = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
    return Estimate(float(losses.mean()), se)


def paired_delta(quantized: np.ndarray, baseline: np.ndarray) -> Estimate:
    """Mean difference of two models on the same sequences, with the standard error of the pairs.

    Raises:
        ValueError: The two were not evaluated on the same number of sequences.
    """
    if quantized.shape != baseline.shape:
        raise ValueError(f"{quantized.shape} quantized against {baseline.shape} baseline sequences")
    return estimate(quantized - baseline)
