"""Corpora: text read from this machine, split by document, cached as memory-mapped bytes. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from qscale.data.batches import evaluation_sequences
from qscale.data.cache import building, cache_folder, damaged, mapped
from qscale.data.hub import HubSource
from qscale.data.tokenizer import BYTES, DOCUMENT_END, TokenizerId
from qscale.errors import CorpusError

KNOWN = ("python", "file:PATH", "hf:NAME")

#: Part of the cache key: raised by one when the same files begin to give other bytes.
_VERSION = 1
#: The share of documents that is held out, at least one.
_HELD_OUT = 0.02
#: One long text is cut into documents of about this many bytes, at line ends.
_BLOCK = 65536
#: Distributions whose ``.py`` files make up the corpus ``python``.
_PACKAGES = ("torch", "sympy", "networkx", "numpy", "scipy")
_TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of a training and a validation split, whole documents in each; bytes unless encoded."""

    name: str
    sha256: str  #: of the exact bytes of both splits, whatever the tokenizer
    documents: int
    sources: dict[str, str]  #: where the bytes came from, such as package versions
    train: np.ndarray  #: token ids: uint8, uint16 or uint32, memory-mapped, read only
    validation: np.ndarray
    tokenizer: TokenizerId = BYTES
    lengths: np.ndarray | None = None  #: bytes of each token of ``validation``; None: one each

    def check(self, tokens: int, context: int, *, allow_repeat: bool = False) -> None:
        """Make sure that the training split has ``tokens`` tokens in sequences of ``context``.

        Raises:
            CorpusError: It has fewer and ``allow_repeat`` is false, or it holds no whole sequence.
        """
        available = max(0, (len(self.train) - 1) // context * context)
        if available == 0:
            raise CorpusError(f"corpus {self.name!r} has no training sequence of {context} tokens")
        if tokens > available and not allow_repeat:
            raise CorpusError(
                f"corpus {self.name!r} has {available:,} training tokens{self._unit}, fewer than the "
                f"{tokens:,} asked for: ask for fewer, name a larger corpus, or allow repetition "
                "(--allow-repeat)"
            )

    def check_evaluation(self, windows: int, context: int) -> None:
        """Make sure that the validation split has ``windows`` sequences of ``context`` tokens.

        Raises:
            CorpusError: It has fewer.
        """
        available = max(0, (len(self.validation) - 1) // context)
        if windows > available:
            raise CorpusError(
                f"corpus {self.name!r} has {available:,} held-out sequences of {context} tokens{self._unit}, "
                f"fewer than eval_windows={windows}: ask for fewer, or name a larger corpus"
            )

    def bytes_per_token(self, windows: int, context: int) -> float:
        """Bytes of the evaluated text over its tokens: the targets of ``evaluation_sequences``.

        The end of a document counts as the one byte that it is in a stream of bytes, so that all tokenizers
        share one measure of the same text.
        """
        if self.lengths is None:
            return 1.0
        targets = evaluation_sequences(self.lengths, context, windows)[:, 1:]
        return int(targets.sum()) / targets.size

    @property
    def _unit(self) -> str:
        return "" if self.tokenizer == BYTES else f" of tokenizer {self.tokenizer.text!r}"

    def describe(self) -> str:
        """One line: name, size, splits, hash, sources."""
        sources = ", ".join(f"{name} {version}" for name, version in self.sources.items())
        return (
            f"{self.name}: {self.documents:,} documents, {len(self.train):,} training and "
            f"{len(self.validation):,} validation tokens ({self.tokenizer.text}), "
            f"sha256 {self.sha256[:12]} ({sources})"
        )


def load(name: str) -> Corpus:
    """A corpus by name, as bytes: ``python``, ``file:PATH`` or ``hf:NAME[:CONFIG],bytes=LIMIT``.

    ``python`` is the source code of the installed packages torch, sympy, networkx, numpy and scipy, about
    100 MB. ``file:`` takes a text, a jsonl file (key ``text``) or a folder of them; ``hf:`` streams a data
    set once, through the package ``datasets`` (:class:`~qscale.data.hub.HubSource`).

    Documents (files; lines of a jsonl file; rows; 64 kB blocks of one long text) are freed of exact copies
    and ordered by the sha256 of their bytes, which has nothing to do with where they came from; the first
    2 % of them are the validation split. The result is cached below ``$QSCALE_CACHE`` (default: the user's
    cache folder).

    Raises:
        CorpusError: Unknown name, missing path or package, no text found, fewer than two documents.
        ConfigError: A name of ``hf:`` that cannot be read.
    """
    if name == "python":
        found = {package: version for package in _PACKAGES if (version := _version_of(package))}
        if not found:
            raise CorpusError(
                f"corpus 'python' reads the source of {', '.join(_PACKAGES)}, none of which is installed"
            )
        return _cached(name, found, _python_documents(found))
    if name.startswith("file:"):
        path = Path(name.removeprefix("file:")).expanduser()
        files = [file.absolute() for file in _text_files(path)]
        sources = {str(f): f"{f.stat().st_size} bytes, {f.stat().st_mtime_ns}" for f in files}
        whole = path.is_dir()
        corpus = _cached(name, sources, (document for f in files for document in _documents(f, whole)))
        kind = "file" if path.is_file() else f"folder of {len(files)} files"
        return replace(corpus, sources={path.name: kind})
    if name.startswith("hf:"):
        source = HubSource.parse(name)
        return _cached(str(source), {source.name: f"split {source.split}"}, source.documents())
    nearest = get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise CorpusError(
        f"unknown corpus {name!r}; {hint}known: {', '.join(KNOWN)}; a text of your own is file:PATH"
    )


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python_documents(packages: dict[str, str]) -> Iterator[bytes]:
    for package in packages:
        # where the version was found: an environment may see the packages of another one
        root = Path(str(metadata.distribution(package).locate_file(package)))
        for path in sorted(root.rglob("*.py")):
            yield path.read_bytes()


def _text_files(path: Path) -> list[Path]:
    if not os.path.exists(path):  # noqa: PTH110 - of Path it is an error where the name is too long
        raise CorpusError(
            f"corpus path {str(path)!r} does not exist{_place(path)}: name a text file, a jsonl file "
            "or a folder"
        )
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix in (*_TEXT_SUFFIXES, ".jsonl") and p.is_file())
    if not files:
        raise CorpusError(f"folder {str(path)!r} holds no {', '.join(_TEXT_SUFFIXES)} or .jsonl file")
    return files


def _place(path: Path) -> str:
    """Where a relative path was looked for: the current folder, not that of a study file."""
    return "" if path.is_absolute() else f" in {str(Path.cwd())!r}"


def _documents(path: Path, whole: bool) -> Iterator[bytes]:
    """The documents of one file; ``whole`` keeps a text in one piece, so that a split never cuts a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if path.suffix != ".jsonl":
        yield from [data] if whole else blocks(data)
        return
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield row["text"].encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f"{str(path)!r} line {number}: a JSON object with a text field 'text' is wanted ({error!r})"
            ) from error


def blocks(data: bytes) -> Iterator[bytes]:
    """One long text in pieces of about 64 kB, cut at line ends where there are any; they join to the text."""
    start = 0
    while len(data) - start > _BLOCK:
        end = data.find(b"\n", start + _BLOCK) + 1
        if end == 0:  # no line end in the rest: cut where we are, so that one huge line has blocks too
            end = start + _BLOCK
        yield data[start:end]
        start = end
    yield data[start:]


def _cached(name: str, sources: dict[str, str], documents: Iterator[bytes]) -> Corpus:
    key = hashlib.sha256(json.dumps([_VERSION, name, sources]).encode()).hexdigest()[:16]
    folder = cache_folder() / key
    if not (folder / "meta.json").is_file():
        _build(name, sources, documents, folder)
    meta = read_meta(folder, ("sha256", "documents", "lengths"))
    train, validation = (
        mapped(folder / f"{split}.bin", "u1", length)
        for split, length in zip(("train", "validation"), meta["lengths"], strict=True)
    )
    return Corpus(
        name=name,
        sha256=meta["sha256"],
        documents=meta["documents"],
        sources=sources,
        train=train,
        validation=validation,
    )


def read_meta(folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """What a cache folder says of itself.

    Raises:
        CorpusError: It cannot be read, or lacks a key.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return {key: meta[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder) from error


def _build(name: str, sources: dict[str, str], documents: Iterator[bytes], folder: Path) -> None:
    with building(folder, f"corpus {name!r}") as temporary:
        spool = temporary / "documents"
        places, end = {}, 0
        with spool.open("wb") as file:  # on disk, as a corpus may be larger than memory
            for document in documents:
                key = hashlib.sha256(document).digest()
                if key not in places and document.strip():
                    places[key] = (end, end + len(document))
                    end += file.write(document)
        if len(places) < 2:
            raise CorpusError(
                f"corpus {name!r} has {len(places)} document(s): at least two are needed, one to hold out; "
                "a text is cut every 64 kB, so name a longer one, or a folder"
            )
        text = mapped(spool, "u1", end)
        ordered = [places[key] for key in sorted(places)]
        held_out = max(1, round(_HELD_OUT * len(ordered)))
        digest, lengths = hashlib.sha256(), []
        for split, parts in (("train", ordered[held_out:]), ("validation", ordered[:held_out])):
            length = 0
            with (temporary / f"{split}.bin").open("wb") as file:
                for start, stop in parts:
                    document = text[start:stop].tobytes() + DOCUMENT_END
                    digest.update(document)
                    length += file.write(document)
            lengths.append(length)
        spool.unlink()
        meta = {"sha256": digest.hexdigest(), "lengths": lengths, "documents": len(ordered), "name": name}
        (temporary / "meta.json").write_text(json.dumps(meta | {"sources": sources}, indent=1))
