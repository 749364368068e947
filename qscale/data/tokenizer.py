"""Tokenizers: text to token ids. For now bytes, which need no vocabulary file."""

from __future__ import annotations

import math

from qscale.errors import ConfigError

#: Vocabulary size by tokenizer name.
VOCABULARY = {"bytes": 256}

#: Ends a document in a stream of byte tokens; text does not contain it.
DOCUMENT_END = b"\x00"


def check(tokenizer: str, vocab_size: int) -> None:
    """Make sure that a model's vocabulary holds every token.

    Raises:
        ConfigError: Unknown tokenizer, or a vocabulary that is too small.
    """
    if tokenizer not in VOCABULARY:
        raise ConfigError(f"unknown tokenizer {tokenizer!r}; known: {', '.join(VOCABULARY)}")
    if vocab_size < VOCABULARY[tokenizer]:
        raise ConfigError(
            f"vocab_size={vocab_size}: tokenizer {tokenizer!r} needs at least {VOCABULARY[tokenizer]}"
        )


def bits_per_byte(nats_per_token: float, bytes_per_token: float = 1.0) -> float:
    """Loss in bits per byte of text, the unit in which different tokenizers compare.

    >>> round(bits_per_byte(math.log(2)), 12)
    1.0
    """
    return nats_per_token / math.log(2) / bytes_per_token
