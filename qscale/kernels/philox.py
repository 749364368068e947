"""Random words by their number, the same on every device and for any number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def random_words(count: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Words 0 to ``count - 1`` of a seed, as int64 from 0 to 2**32 - 1.

    Four words come of one counter: word ``i`` is number ``i % 4`` of counter ``i // 4``.

    Source: Philox 4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Example:
        >>> [f"{word:08x}" for word in random_words(4, 0).tolist()]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    counter = torch.arange((count + 3) // 4, dtype=torch.int64, device=device)
    nothing = torch.zeros_like(counter)
    words = philox((counter & _WORD, counter >> 32, nothing, nothing), (seed & _WORD, seed >> 32 & _WORD))
    return torch.stack(words, dim=-1).reshape(-1)[:count]


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each counter, all of them int64 from 0 to 2**32 - 1."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        (upper_a, lower_a), (upper_c, lower_c) = _product(_MULTIPLIERS[0], a), _product(_MULTIPLIERS[1], c)
        a, b, c, d = upper_c ^ b ^ low, lower_c, upper_a ^ d ^ high, lower_a
        low, high = (low + _INCREMENTS[0]) & _WORD, (high + _INCREMENTS[1]) & _WORD
    return a, b, c, d


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower word of a product; in halves of 16 bits, for int64 has a sign."""
    low, high = factor * (word & 0xFFFF), factor * (word >> 16)
    middle = high + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF
