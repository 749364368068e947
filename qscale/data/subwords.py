"""Tokenizers with a vocabulary: trained on a corpus, read from a file, and applied. No torch.

All goes through the package ``tokenizers``, loaded when it is needed. A stream of tokens is the encoding of
the stream of bytes, document by document: nothing is lost, so losses compare in bits per byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from qscale import bounded
from qscale.data.cache import cache_folder
from qscale.data.corpus import Corpus, blocks
from qscale.data.tokenizer import DOCUMENT_END, TokenizerId, parse, vocab_size
from qscale.errors import ConfigError, CorpusError, StoreError

#: Raised by one when the same corpus begins to give another vocabulary.
_VERSION = 1
#: Bytes of the training split that BPE learns from: documents lie in random order, so these are a sample.
_TRAINING_BYTES = 32 << 20
#: A merge must be worth more than one place in the text.
_LEAST_COUNT = 2
#: What tokenizers in use call the end of a document, the most specific first.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eos|>", "[EOS]", "[SEP]")
#: Invalid bytes, as ``surrogateescape`` decodes them.
_INVALID = re.compile("([\udc80-\udcff])")


class Subwords:
    """One tokenizer, ready to encode.

    Args:
        name: As the user named it.
        text: The JSON of its ``tokenizer.json``.

    Raises:
        ConfigError: The text is not such a file.
        StoreError: The package ``tokenizers`` is missing.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        package = _package()
        try:
            size = vocab_size(json.loads(text))
            encoder = package.Tokenizer.from_str(text)
        except Exception as error:  # the package raises bare exceptions
            raise ConfigError(
                f"tokenizer {name!r} cannot be read ({error}): a tokenizer.json of the package tokenizers is "
                "wanted"
            ) from error
        encoder.no_truncation()
        encoder.no_padding()
        encoder.encode_special_tokens = True  # text that looks like a special token is text
        self._encoder = encoder
        kind, argument = parse(name)
        prefix = f"bpe:{argument}@" if kind == "bpe" else "file:"
        # A small corpus may give fewer merges than asked for; models have the size asked for all the same.
        self.id = TokenizerId(
            prefix + hashlib.sha256(text.encode()).hexdigest()[:16],
            max(size, int(argument)) if kind == "bpe" else size,
        )

    def ids(self, documents: Iterable[bytes]) -> np.ndarray:
        """The token ids of :meth:`encode`, without the work of their lengths."""
        pieces = _with_ends(documents)
        texts = [piece for piece in pieces if isinstance(piece, str)]
        encodings = iter(self._encoder.encode_batch_fast(texts, add_special_tokens=False))
        found: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                found += next(encodings).ids
            else:
                found += self._ending if piece is None else self._byte_tokens(piece)
        return np.array(found, dtype=np.int64)

    def encode(self, documents: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Documents, each with the token that ends it where there is one.

        Bytes that are no UTF-8 become the tokens of those bytes where the vocabulary has them. A document
        is encoded in pieces of about 64 kB.

        Returns:
            Token ids, and the bytes of text that each stands for: int64, one dimension. Where one character
            is shared by tokens that are not bytes themselves, the last of them has its bytes.
        """
        pieces = _with_ends(documents)
        texts = [piece for piece in pieces if isinstance(piece, str)]
        encodings = iter(self._encoder.encode_batch(texts, add_special_tokens=False))
        ids: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        carried = 0  # bytes that no token stands for, such as blanks that a tokenizer drops
        for piece in pieces:
            if isinstance(piece, str):
                encoding = next(encodings)
                found = np.array(encoding.ids, dtype=np.int64)
                sizes = self._sizes(piece, encoding, found)
                spare = len(piece.encode()) if not len(found) else 0
            elif piece is None:
                found = np.array(self._ending, dtype=np.int64)
                sizes, spare = np.ones(len(found), dtype=np.int64), 0
            else:
                found, spare = np.array(self._byte_tokens(piece), dtype=np.int64), 0
                sizes = np.eye(1, len(found), dtype=np.int64)[0]
            if len(sizes):
                sizes[0] += carried
                carried = 0
            carried += spare
            ids.append(found)
            lengths.append(sizes)
        return np.concatenate([*ids, _EMPTY]), np.concatenate([*lengths, _EMPTY])

    def _sizes(self, piece: str, encoding: Any, ids: np.ndarray) -> np.ndarray:
        """Bytes of each token: its own where tokens are made of bytes, else from where each begins."""
        total = len(piece.encode())
        own: np.ndarray = self._table[ids]
        if int(own.sum()) == total or not len(ids):
            return own
        ends = np.cumsum([0, *(len(character.encode()) for character in piece)])
        starts = np.maximum.accumulate([0, *(start for start, _ in encoding.offsets[1:]), len(piece)])
        sizes: np.ndarray = np.diff(ends[starts])
        return sizes

    @cached_property
    def _table(self) -> np.ndarray:
        """Bytes of each token, if its text is made of the letters that stand for bytes."""
        table = np.zeros(self.id.vocab_size, dtype=np.int64)
        for token, number in self._encoder.get_vocab().items():
            table[number] = len(token) if _LETTERS.issuperset(token) else len(token.encode())
        return table

    @cached_property
    def _ending(self) -> list[int]:
        for token in (*_ENDS, _letter(DOCUMENT_END[0])):
            if (number := self._encoder.token_to_id(token)) is not None:
                return [int(number)]
        return []

    def _byte_tokens(self, byte: int) -> list[int]:
        for token in (_letter(byte), f"<0x{byte:02X}>"):
            if (number := self._encoder.token_to_id(token)) is not None:
                return [int(number)]
        return list(self._encoder.encode("\ufffd", add_special_tokens=False).ids)


def text_of(name: str, corpus: Corpus) -> str:
    """The JSON of a tokenizer: read from its file, or trained on the training split of a corpus of bytes.

    BPE learns from the first 32 MiB of the split. The same corpus and version of ``tokenizers`` give the same
    text; it is cached below ``$QSCALE_CACHE``.

    Raises:
        ConfigError: Unknown tokenizer, or a file that cannot be read.
        StoreError: The package ``tokenizers`` is missing.

    Source: byte pair encoding, Sennrich et al. 2016 (arXiv:1508.07909); on bytes, Radford et
    al. 2019 (GPT-2).
    """
    kind, argument = parse(name)
    if kind == "file":
        path = Path(argument)
        try:
            path = path.expanduser()
            return bounded.read_text(path, bounded.TOKENIZER_BYTES)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a home that is nobody's
            place = "" if path.is_absolute() else f" in {str(Path.cwd())!r}"
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(
                f"tokenizer file {str(path)!r} cannot be read{place} ({reason}): name a tokenizer.json"
            ) from error
    _package()
    what = json.dumps([_VERSION, name, corpus.sha256, metadata.version("tokenizers")])
    path = cache_folder("tokenizers") / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        _write(path, train(documents_of(corpus.train[:_TRAINING_BYTES]), int(argument)))
    return path.read_text(encoding="utf-8")


def train(documents: Iterable[bytes], size: int) -> str:
    """The JSON of a byte-level BPE tokenizer of at most ``size`` tokens, all 256 bytes among them.

    Text is cut into words by GPT-2's pattern; merges are learned within words. No token is special: a
    document ends with the token of the byte 0, as in a stream of bytes.
    """
    _package()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=_LEAST_COUNT,
        initial_alphabet=[_letter(byte) for byte in range(256)],
        show_progress=False,
    )
    texts = (piece for document in documents for piece in _pieces(document) if isinstance(piece, str))
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def documents_of(stream: np.ndarray, chunk: int = 1 << 24) -> Iterator[bytes]:
    """The documents of a stream of bytes, without their ends; what follows the last end is left out."""
    start = 0
    for at in range(0, len(stream), chunk):
        for end in at + np.flatnonzero(stream[at : at + chunk] == DOCUMENT_END[0]):
            yield stream[start:end].tobytes()
            start = int(end) + 1


def _pieces(document: bytes) -> Iterator[str | int]:
    """Runs of valid text, and each byte that is none."""
    for block in blocks(document):
        try:
            text = block.decode()
        except UnicodeDecodeError:
            for part in _INVALID.split(block.decode(errors="surrogateescape")):
                if part:
                    yield ord(part) - 0xDC00 if _INVALID.fullmatch(part) else part
        else:
            if text:
                yield text


def _with_ends(documents: Iterable[bytes]) -> list[str | int | None]:
    """The pieces of documents, None after each document."""
    return [piece for document in documents for piece in (*_pieces(document), None)]


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level vocabularies write for a byte: itself if it prints, else from U+0100 up."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printing)
    return {byte: chr(byte) for byte in printing} | {b: chr(0x100 + i) for i, b in enumerate(others)}


_BYTE_LETTERS = _byte_letters()
_LETTERS = frozenset(_BYTE_LETTERS.values())
_EMPTY = np.empty(0, dtype=np.int64)


def _letter(byte: int) -> str:
    return _BYTE_LETTERS[byte]


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise StoreError(
            "a tokenizer other than bytes needs tokenizers, which is not installed: "
            "pip install 'qscale[train]'"
        ) from error
    return tokenizers


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError as error:
        raise CorpusError(f"tokenizer cannot be cached in {str(path.parent)!r}: {error}") from error
