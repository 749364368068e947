"""The order of sequences, from a seed alone: independent of batch size, threads and machine. No torch."""

from __future__ import annotations

import numpy as np

from qscale.errors import ConfigError

#: Held-out sequences are the same for every run of a study, whatever its seeds.
_EVAL_SEED = 20250514


def _order(windows: int, *key: int) -> np.ndarray:
    # argsort of raw Philox output: a bit stream that NumPy promises to keep, unlike its permutation
    seed = np.random.SeedSequence(key).generate_state(2, np.uint64)
    return np.argsort(np.random.Philox(key=seed).random_raw(windows), kind="stable")


class Windows:
    """A token stream cut into sequences of ``context`` tokens, each with the next token as last target."""

    def __init__(self, stream: np.ndarray, context: int) -> None:
        self.stream = stream
        self.context = context
        self.count = max(0, (len(stream) - 1) // context)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Sequences by index: int64, ``(len(indices), context + 1)``."""
        positions = indices[:, None] * self.context + np.arange(self.context + 1)
        return self.stream[positions].astype(np.int64)


class TrainingBatches:
    """Shuffled sequences for training; every epoch has an order of its own.

    The sequences of step ``n`` are numbers ``n * size`` to ``(n + 1) * size`` of one endless list that the
    seed fixes, so a resumed run or a branch needs its step number and nothing else, and batch size, workers
    and ranks change nothing about the list.
    """

    def __init__(self, stream: np.ndarray, context: int, seed: int) -> None:
        self.windows = Windows(stream, context)
        self.seed = seed
        self._epoch = -1
        self._indices = np.empty(0, dtype=np.int64)

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """Tokens of one step: int64, ``(size / ranks, context + 1)``.

        Of ``ranks`` processes that share a step, each takes every ``ranks``-th of its ``size`` sequences, the
        first of them number ``rank``.

        Raises:
            ConfigError: The ranks do not divide the batch.
        """
        if size % ranks:
            raise ConfigError(f"a batch of {size} sequences cannot be shared evenly by {ranks} ranks")
        return self.sequences(np.arange(step * size + rank, (step + 1) * size, ranks))

    def sequences(self, numbers: np.ndarray) -> np.ndarray:
        """The sequences of these numbers in the endless list: int64, ``(len(numbers), context + 1)``."""
        count = self.windows.count
        rows = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(numbers // count):
            if epoch != self._epoch:
                self._indices, self._epoch = _order(count, self.seed, int(epoch)), int(epoch)
            chosen = numbers // count == epoch
            rows[chosen] = self._indices[numbers[chosen] % count]
        return self.windows.take(rows)


def evaluation_sequences(stream: np.ndarray, context: int, count: int) -> np.ndarray:
    """``count`` held-out sequences drawn over the whole stream: int64, ``(count, context + 1)``.

    Returns fewer where the stream has fewer.
    """
    windows = Windows(stream, context)
    return windows.take(_order(windows.count, _EVAL_SEED)[:count])
