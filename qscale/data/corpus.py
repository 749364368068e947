"""Corpora: text read from this machine, split by document, cached as memory-mapped bytes. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from qscale.data.tokenizer import DOCUMENT_END
from qscale.errors import CorpusError

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
    """Byte tokens of a training and a validation split, whole documents in each."""

    name: str
    sha256: str  #: of the exact bytes of both splits
    documents: int
    sources: dict[str, str]  #: where the bytes came from, such as package versions
    train: np.ndarray  #: uint8, memory-mapped, read only
    validation: np.ndarray

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
                f"corpus {self.name!r} has {available:,} training tokens, fewer than the {tokens:,} "
                "asked for: ask for fewer, name a larger corpus, or allow repetition (--allow-repeat)"
            )

    def check_evaluation(self, windows: int, context: int) -> None:
        """Make sure that the validation split has ``windows`` sequences of ``context`` tokens.

        Raises:
            CorpusError: It has fewer.
        """
        available = max(0, (len(self.validation) - 1) // context)
        if windows > available:
            raise CorpusError(
                f"corpus {self.name!r} has {available:,} held-out sequences of {context} tokens, fewer than "
                f"eval_windows={windows}: ask for fewer, or name a larger corpus"
            )

    def describe(self) -> str:
        """One line: name, size, splits, hash, sources."""
        sources = ", ".join(f"{name} {version}" for name, version in self.sources.items())
        return (
            f"{self.name}: {self.documents:,} documents, {len(self.train):,} training and "
            f"{len(self.validation):,} validation bytes, sha256 {self.sha256[:12]} ({sources})"
        )


def load(name: str) -> Corpus:
    """A corpus by name: ``python``, or ``file:PATH`` for a text, a jsonl file or a folder of them.

    ``python`` is the source code of the installed packages torch, sympy, networkx, numpy and scipy, about
    100 MB. Documents (files; lines of a jsonl file, key ``text``; 64 kB blocks of one long text) are freed
    of exact copies and ordered by the sha256 of their bytes; the first 2 % are the validation split.
    The result is cached below ``$QSCALE_CACHE`` (default: the user's cache folder).

    Raises:
        CorpusError: Unknown name, missing path, no text found, fewer than two documents.
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
        files = _text_files(path)
        sources = {str(f): f"{f.stat().st_size} bytes, {f.stat().st_mtime_ns}" for f in files}
        whole = path.is_dir()
        corpus = _cached(name, sources, (document for f in files for document in _documents(f, whole)))
        kind = "file" if path.is_file() else f"folder of {len(files)} files"
        return Corpus(**{**corpus.__dict__, "sources": {path.name: kind}})
    raise CorpusError(f"unknown corpus {name!r}: use 'python', or 'file:PATH' for a text of your own")


def cache_folder() -> Path:
    """Where built corpora are kept: ``$QSCALE_CACHE``, else ``qscale`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("QSCALE_CACHE") or Path(base) / "qscale") / "corpora"


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python_documents(packages: dict[str, str]) -> Iterator[bytes]:
    for package in packages:
        root = Path(sysconfig.get_paths()["purelib"]) / package
        if not root.is_dir():
            root = Path(sysconfig.get_paths()["platlib"]) / package
        for path in sorted(root.rglob("*.py")):
            yield path.read_bytes()


def _text_files(path: Path) -> list[Path]:
    if not path.exists():
        raise CorpusError(
            f"corpus path {str(path)!r} does not exist: name a text file, a jsonl file or a folder"
        )
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix in (*_TEXT_SUFFIXES, ".jsonl") and p.is_file())
    if not files:
        raise CorpusError(f"folder {str(path)!r} holds no {', '.join(_TEXT_SUFFIXES)} or .jsonl file")
    return files


def _documents(path: Path, whole: bool) -> Iterator[bytes]:
    """The documents of one file; ``whole`` keeps a text in one piece, so that a split never cuts a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if path.suffix != ".jsonl":
        yield from [data] if whole else _blocks(data)
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


def _blocks(data: bytes) -> Iterator[bytes]:
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
    meta = json.loads((folder / "meta.json").read_text())
    splits = {split: _mapped(folder / f"{split}.bin") for split in ("train", "validation")}
    if [len(splits["train"]), len(splits["validation"])] != meta["lengths"]:
        raise CorpusError(f"the cache of corpus {name!r} is damaged: delete {str(folder)!r} and run again")
    return Corpus(name=name, sha256=meta["sha256"], documents=meta["documents"], sources=sources, **splits)


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _build(name: str, sources: dict[str, str], documents: Iterator[bytes], folder: Path) -> None:
    by_hash = {hashlib.sha256(d).digest(): d for d in documents if d.strip()}
    if len(by_hash) < 2:
        raise CorpusError(
            f"corpus {name!r} has {len(by_hash)} document(s): at least two are needed, one to hold out"
        )
    ordered = [by_hash[key] for key in sorted(by_hash)]
    held_out = max(1, round(_HELD_OUT * len(ordered)))
    splits = {"train": ordered[held_out:], "validation": ordered[:held_out]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        digest, lengths = hashlib.sha256(), []
        for split, parts in splits.items():
            data = b"".join(part + DOCUMENT_END for part in parts)
            digest.update(data)
            lengths.append(len(data))
            (temporary / f"{split}.bin").write_bytes(data)
        meta = {"sha256": digest.hexdigest(), "lengths": lengths, "documents": len(ordered), "name": name}
        (temporary / "meta.json").write_text(json.dumps(meta | {"sources": sources}, indent=1))
        try:
            temporary.rename(folder)
        except OSError:  # another process built the same corpus first
            if not (folder / "meta.json").is_file():
                raise
    except OSError as error:
        raise CorpusError(f"corpus {name!r} cannot be cached in {str(folder.parent)!r}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
