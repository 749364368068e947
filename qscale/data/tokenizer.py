"""Tokenizers by name, and what a run's identity keeps of them. No torch, no NumPy.

``bytes`` needs no vocabulary; ``bpe:SIZE`` is trained on the training split of the corpus; ``file:PATH`` is
a ``tokenizer.json`` of the user's own. ``subwords.py`` trains, reads and applies the last two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qscale import bounded
from qscale.errors import ConfigError

KNOWN = ("bytes", "bpe:SIZE", "file:PATH")

#: Ends a document in a stream of bytes; text does not contain it.
DOCUMENT_END = b"\x00"

#: A vocabulary of BPE starts from all bytes, and one merge is the least to learn.
_LEAST_SIZE, _LARGEST_SIZE = 257, 10**8


@dataclass(frozen=True, slots=True)
class TokenizerId:
    """What a run depends on: a text that fixes every token, and how many tokens there are.

    ``bytes``; ``bpe:4096@`` or ``file:`` and the first 16 hex digits of the sha256 of the tokenizer's JSON.
    """

    text: str
    vocab_size: int


BYTES = TokenizerId("bytes", 256)


def parse(name: str) -> tuple[str, str]:
    """Kind (``bytes``, ``bpe``, ``file``) and argument of a tokenizer's name.

    Raises:
        ConfigError: Unknown, with the nearest known name; or a size that is no vocabulary of BPE.

    Example:
        >>> parse("bpe:4096")
        ('bpe', '4096')
    """
    kind, _, argument = name.partition(":")
    if (kind == "file" and argument) or name == "bytes":
        return kind, argument
    if kind == "bpe" and argument:
        if (
            not (argument.isascii() and argument.isdigit())
            or not _LEAST_SIZE <= int(argument[:12]) < _LARGEST_SIZE
        ):
            raise ConfigError(
                f"tokenizer {bounded.one_line(repr(name), 80)}: a vocabulary has a whole number of tokens, "
                f"at least {_LEAST_SIZE} (256 bytes and a merge), such as bpe:4096"
            )
        return kind, str(int(argument))
    nearest = get_close_matches(name[:80], KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(
        f"unknown tokenizer {bounded.one_line(repr(name), 80)}; {hint}known: {', '.join(KNOWN)}"
    )


def planned(name: str) -> TokenizerId:
    """What is known of a tokenizer before it is made, for plans.

    The vocabulary of a file that cannot be read from here counts as that of bytes.

    Raises:
        ConfigError: As :func:`parse`.
    """
    kind, argument = parse(name)
    if kind == "bytes":
        return BYTES
    if kind == "bpe":
        return TokenizerId(name, int(argument))
    try:
        text = bounded.read_text(Path(argument).expanduser(), bounded.TOKENIZER_BYTES)
        size = vocab_size(bounded.loads(text))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a home that is nobody's
        size = BYTES.vocab_size
    return TokenizerId(name, size)


def vocab_size(data: Any) -> int:
    """Tokens of a ``tokenizer.json``, added ones too: one more than the largest id.

    Raises:
        ValueError: It holds none.
    """
    try:
        vocabulary = data["model"]["vocab"]
        added = [row["id"] for row in data.get("added_tokens") or []]
        # Unigram models list pairs of token and score, by id; the others map tokens to ids.
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        size = max((*ids, *added)) + 1
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no vocabulary ({bounded.one_line(repr(error))})") from error
    if type(size) is not int or not 0 < size < 2**31:
        raise ValueError("no vocabulary: its ids are no numbers of tokens")
    return size


def check(run: str, corpus: TokenizerId, model_vocab_size: int) -> None:
    """Make sure that a corpus is in the tokens that a run was planned with, and that its model has them.

    Raises:
        ConfigError: Another tokenizer, or a vocabulary that is too small.
    """
    if run != corpus.text:
        raise ConfigError(
            f"the run was planned with tokenizer {run!r}, and the corpus is in tokens of {corpus.text!r}: "
            "plan the study again"
        )
    check_vocabulary(corpus, model_vocab_size)


def check_vocabulary(tokenizer: TokenizerId, model_vocab_size: int) -> None:
    """Make sure that a model's vocabulary holds every token.

    Raises:
        ConfigError: It is too small.
    """
    if model_vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"vocab_size={model_vocab_size}: tokenizer {tokenizer.text!r} needs at least "
            f"{tokenizer.vocab_size}; leave vocab_size out to follow the tokenizer"
        )


def bits_per_byte(nats_per_token: float, bytes_per_token: float = 1.0) -> float:
    """Loss in bits per byte of text, the unit in which different tokenizers compare.

    >>> round(bits_per_byte(math.log(2)), 12)
    1.0
    """
    return nats_per_token / math.log(2) / bytes_per_token
