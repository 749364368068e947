"""corpus.json: what a study began with, so that its ids can be made without the corpus. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

from qscale.data.tokenizer import TokenizerId
from qscale.errors import StoreError, StudyError
from qscale.sweep.grid import Identity, Source
from qscale.sweep.words import plural

_TOKENIZER_ID = re.compile(r"(bpe:[0-9]{1,9}@|file:)[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One source as it was when the study began."""

    identity: Identity
    path: str | None = None  #: absolute, of a corpus in files


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The sources of a study, and the threads and device that all its runs share: they change bits."""

    threads: int | None = None  #: None before the study began
    device: str = "cpu"
    notes: Mapping[Source, Note] = field(default_factory=dict)

    def note(self, source: Source) -> Note | None:
        """What is known of a source, also where its file is named in another way."""
        for known, note in self.notes.items():
            same = known.corpus == source.corpus or (note.path and note.path == file_path(source.corpus))
            if same and known.tokenizer == source.tokenizer:
                return note
        return None

    def with_source(self, source: Source, identity: Identity, *, where: Path) -> Begun:
        """The same with one more source, or unchanged.

        Raises:
            StoreError: The same corpus had other bytes when the study began, or its tokenizer other tokens.
        """
        for known, note in self.notes.items():
            if known.corpus == source.corpus and (then := note.identity.sha256) != identity.sha256:
                raise StoreError(
                    f"{where}: the corpus {source.corpus!r} has changed since this study began (sha256 "
                    f"{identity.sha256[:12]}, then {then[:12]}); restore it, or start a study in a new folder"
                )
        noted = self.note(source)
        if noted is not None and noted.identity.tokenizer != identity.tokenizer:
            now, before = (each and each.text for each in (identity.tokenizer, noted.identity.tokenizer))
            raise StoreError(
                f"{where}: the tokenizer {source.tokenizer!r} has changed since this study began: it is "
                f"{now}, and was {before}; restore it below tokenizers/, or start a study in a new folder"
            )
        kept = noted.path if noted is not None and noted.path and is_there(noted.path) else None
        note = Note(identity=identity, path=kept or file_path(source.corpus))
        return Begun(threads=self.threads, device=self.device, notes={**self.notes, source: note})

    def on(self, threads: int, device: str, *, where: Path) -> Begun:
        """The same with threads and device, which stay what they were at first.

        Raises:
            StudyError: The study began with others.
        """
        if self.threads is None:
            return Begun(threads=threads, device=device, notes=self.notes)
        if (self.threads, _kind(self.device)) != (threads, _kind(device)):
            raise StudyError(
                f"{where}: this study began with {plural(self.threads, 'thread')} on {self.device}; "
                f"pairs must share both: give --threads {self.threads} --device {self.device}, or start in a "
                "new folder"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """As corpus.json has it."""
        sources = []
        for source, note in self.notes.items():
            row: dict[str, Any] = {"corpus": source.corpus, "sha256": note.identity.sha256}
            if note.identity.tokenizer is not None:
                made = note.identity.tokenizer
                row["tokenizer"] = {"name": source.tokenizer, "id": made.text, "vocab_size": made.vocab_size}
            sources.append(row if note.path is None else {**row, "path": note.path})
        return {"threads": self.threads, "device": self.device, "sources": sources}

    @classmethod
    def from_json(cls, data: Any) -> Begun:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: It has another shape.
        """
        try:
            notes = {}
            for row in data["sources"]:
                made = row.get("tokenizer", {})
                if not isinstance(made, dict):
                    raise TypeError(f"{short_repr(made)} is not a tokenizer")
                source = Source(_text(row["corpus"]), _text(made["name"]) if made else "bytes")
                tokenizer = _tokenizer(made) if made else None
                path = row.get("path")
                notes[source] = Note(
                    identity=Identity(_text(row["sha256"]), tokenizer),
                    path=None if path is None else _text(path),
                )
            threads = None if data["threads"] is None else _number(data["threads"])
            return cls(threads=threads, device=_text(data["device"]), notes=notes)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the note of a study's sources: {error}") from error


def is_there(path: str) -> bool:
    """Whether there is such a file; a path too long for one is no error."""
    return os.path.exists(path)  # noqa: PTH110 - of Path it is


def file_path(corpus: str) -> str | None:
    """The absolute path of a corpus in files; None of others."""
    if not corpus.startswith("file:"):
        return None
    return str(Path(corpus.removeprefix("file:")).expanduser().absolute())


def _tokenizer(made: Any) -> TokenizerId:
    """A tokenizer's id, whose end names a file of the study."""
    text, size = _text(made["id"]), _number(made["vocab_size"])
    if _TOKENIZER_ID.fullmatch(text) is None:
        raise ValueError(f"{short_repr(text)} is not the id of a tokenizer")
    return TokenizerId(text, size)


def _text(value: Any) -> str:
    """Text of one line, which a terminal may be shown."""
    if type(value) is not str or not value.isprintable():
        raise TypeError(f"{short_repr(value)} is not text of one line")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise TypeError(f"{short_repr(value)} is not a positive number")
    return value


def _kind(device: str) -> str:
    """``cuda`` of ``cuda:1``: cards of one machine are taken as equal."""
    return device.partition(":")[0]
