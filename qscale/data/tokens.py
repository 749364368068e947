"""Corpora in tokens: each split encoded once, cached and memory-mapped. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from qscale.data.cache import building, cache_folder, mapped
from qscale.data.corpus import Corpus, read_meta
from qscale.data.subwords import Subwords, documents_of

#: Part of the cache key: raised by one when the same text begins to give other tokens.
_VERSION = 1
#: Bytes of documents that are encoded in one go.
_BATCH = 4 << 20


def encoded(corpus: Corpus, tokenizer: Subwords) -> Corpus:
    """A corpus of bytes in the tokens of ``tokenizer``.

    Order, splits and sha256 are those of the bytes. The tokens are kept below ``$QSCALE_CACHE`` in the
    smallest of uint8, uint16 and uint32 that holds the vocabulary, whole documents in 4 MB at a time.

    Raises:
        CorpusError: The cache cannot be written or read.
    """
    folder = _folder(corpus, tokenizer)
    dtype = dtype_of(tokenizer.id.vocab_size)
    if not (folder / "meta.json").is_file():
        _build(corpus, tokenizer, dtype, folder)
    sizes = read_meta(folder, ("lengths",))["lengths"]
    return replace(
        corpus,
        train=mapped(folder / "train.bin", dtype, sizes[0]),
        validation=mapped(folder / "validation.bin", dtype, sizes[1]),
        lengths=mapped(folder / "lengths.bin", "<u4", sizes[1]),
        tokenizer=tokenizer.id,
    )


def is_cached(corpus: Corpus, tokenizer: Subwords) -> bool:
    """Whether :func:`encoded` has nothing to encode."""
    return (_folder(corpus, tokenizer) / "meta.json").is_file()


def _folder(corpus: Corpus, tokenizer: Subwords) -> Path:
    what = json.dumps([_VERSION, corpus.sha256, tokenizer.id.text])
    return cache_folder("tokens") / hashlib.sha256(what.encode()).hexdigest()[:16]


def dtype_of(vocab_size: int) -> str:
    """The smallest unsigned type, little-endian, that holds every id of a vocabulary."""
    return next(code for code in ("<u1", "<u2", "<u4") if vocab_size <= 256 ** int(code[-1]))


def _build(corpus: Corpus, tokenizer: Subwords, dtype: str, folder: Path) -> None:
    with building(folder, f"corpus {corpus.name!r} in tokens of {tokenizer.name!r}") as temporary:
        sizes = []
        for split in ("train", "validation"):
            count = 0
            # the lengths of the held-out tokens alone are needed
            with (
                (temporary / f"{split}.bin").open("wb") as ids,
                (temporary / "lengths.bin").open("wb") as file,
            ):
                for batch in _batches(getattr(corpus, split)):
                    if split == "train":
                        found = tokenizer.ids(batch)
                    else:
                        found, lengths = tokenizer.encode(batch)
                        file.write(lengths.astype("<u4").tobytes())
                    ids.write(found.astype(dtype).tobytes())
                    count += len(found)
            sizes.append(count)
        meta = {"lengths": sizes, "corpus": corpus.sha256, "tokenizer": tokenizer.id.text}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))


def _batches(stream: np.ndarray) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents_of(stream):
        batch.append(document)
        size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
