"""The run store: a folder is the database, and a run is done exactly when its record can be read. No torch.

study.yaml                  the grid as given
corpus.json                 name and hash of the corpus, so that ids can be made without it; threads, device
runs/<run_id>/              config.json, curve.jsonl, checkpoint/, eval_losses.npy, and last record.json
trunks/<trunk_id>/          config.json, curve.jsonl, checkpoint/, branches/
tokenizers/<sha256>.json    the vocabulary, unless tokens are bytes
logs/                       what workers said on stderr
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from qscale import bounded
from qscale.data.tokenizer import TokenizerId
from qscale.errors import ConfigError, StoreError, StudyError
from qscale.records import Record, RecordVersionError
from qscale.sweep import files
from qscale.sweep.grid import Study
from qscale.sweep.jobs import Job
from qscale.sweep.strangers import Strangers, explain
from qscale.sweep.words import plural
from qscale.training import paths
from qscale.training.config import RunConfig


def quiet(_line: str) -> None:
    """Says nothing."""


class Store:
    """A study's folder.

    Args:
        path: An existing study folder; :meth:`create` makes one.
        say: Told in one line of anything found damaged.

    Raises:
        StoreError: The folder is missing, unreadable or holds no study.
    """

    def __init__(self, path: Path | str, say: Callable[[str], None] = quiet) -> None:
        self.path = Path(path)
        self.say = say
        try:
            if not self.path.is_dir():
                raise StudyError(
                    f"{self.path} is not a folder; name a study folder, made by 'qscale sweep run'"
                )
            with self.study_file.open("rb"):
                pass
        except FileNotFoundError as error:
            raise StudyError(
                f"{self.path} holds no study.yaml: it is not a study folder; make one with "
                "'qscale sweep run STUDY.yaml --out FOLDER'"
            ) from error
        except OSError as error:
            raise files.store_error("read the study folder", self.path, error) from error

    @classmethod
    def create(
        cls, path: Path | str, text: str, say: Callable[[str], None] = quiet, *, replace: bool = False
    ) -> Store:
        """A study folder with ``text`` as its study.yaml, new or extended; what is in it stays.

        Args:
            path: The folder.
            text: The study.
            say: As for :class:`Store`.
            replace: Take ``text`` even where finished runs then no longer belong to the study.

        Raises:
            StudyError: The folder is something else, or finished runs would no longer belong.
        """
        path = Path(path)
        study = Study.parse(text)
        try:
            if not (path / "study.yaml").exists() and path.is_dir() and any(path.iterdir()):
                raise StudyError(f"{path} is not empty and holds no study: name a new folder")
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StudyError(f"{path} is a file, or lies below one: name a new folder") from error
        except OSError as error:
            raise files.store_error("make the study folder", path, error) from error
        there = _text(path / "study.yaml", bounded.STUDY_BYTES)
        if there is not None and there != text and not replace and (lost := cls(path).orphans(study)).count:
            raise StudyError(
                f"{path} holds another study, and {plural(lost.count, 'finished run')} of it would no longer "
                f"belong ({'; '.join(lost.reasons)}): name a new folder, keep those points in the study, or "
                "give --replace (records stay on disk)"
            )
        if there != text:
            files.write_whole(path / "study.yaml", text)
        return cls(path, say)

    @property
    def study_file(self) -> Path:
        """The grid as given."""
        return self.path / "study.yaml"

    def study(self) -> Study:
        """The study that this folder holds."""
        return Study.read(self.study_file)

    def runs(self) -> list[RunConfig]:
        """The study's runs, with the corpus and tokenizer that it was begun with; none if it never began."""
        study, begun = self.study(), self.corpus()
        same = begun.get("name") == study.corpus and _tokenizer_name(begun) == study.tokenizer
        return study.runs(begun["sha256"], _tokenizer_id(begun)) if same else []

    def corpus(self) -> dict[str, Any]:
        """Name and sha256 of the corpus that the study was begun with; empty before that.

        Also ``path`` of a corpus in files; ``tokenizer``, its name, id and vocabulary, where it is not bytes;
        and ``threads`` and ``device``, which change the bits of a run.

        Raises:
            StoreError: The note is there and cannot be read.
        """
        path = self.path / "corpus.json"
        try:
            data = bounded.loads(bounded.read_bytes(path, bounded.NOTE_BYTES))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise files.store_error("read", path, error) from error
        except ValueError:
            data = None
        if _is_note(data):
            assert isinstance(data, dict)
            return data
        raise StoreError(
            f"{path} is damaged: restore it, or delete it and run the study again, which writes it anew"
        )

    def corpus_name(self) -> str:
        """The corpus as ``data.corpus.load`` takes it here, wherever the current folder is."""
        begun, name = self.corpus(), self.study().corpus
        path = begun.get("path")
        here = begun.get("name") == name and isinstance(path, str) and _exists(path)
        return f"file:{path}" if here else name

    def begin(
        self,
        name: str,
        sha256: str,
        *,
        threads: int = 1,
        device: str = "cpu",
        tokenizer: str = "bytes",
        tokenizer_id: TokenizerId | None = None,
    ) -> None:
        """Note the corpus, its tokenizer, and the threads and device that all runs of the study share.

        Raises:
            StoreError: The same corpus had other bytes when the study began, or its tokenizer other tokens.
            StudyError: The study began with other threads or on another device.
        """
        begun = self.corpus()
        same = begun.get("name") == name
        if same and begun["sha256"] != sha256:
            raise StoreError(
                f"{self.path}: the corpus {name!r} has changed since this study began (sha256 {sha256[:12]}, "
                f"then {begun['sha256'][:12]}); restore it, or start a study in a new folder"
            )
        if same and tokenizer == _tokenizer_name(begun) and tokenizer_id != (then := _tokenizer_id(begun)):
            raise StoreError(
                f"{self.path}: the tokenizer {tokenizer!r} has changed since this study began: it is "
                f"{tokenizer_id and tokenizer_id.text}, and was {then and then.text}; restore it below "
                "tokenizers/, or start a study in a new folder"
            )
        if same and {"threads", "device"} <= begun.keys():
            threads_then, device_then = begun["threads"], begun["device"]
            if (threads_then, _kind(device_then)) != (threads, _kind(device)):
                raise StudyError(
                    f"{self.path}: this study began with {plural(threads_then, 'thread')} on {device_then}; "
                    f"pairs must share both: give --threads {threads_then} --device {device_then}, or start "
                    "in a new folder"
                )
            device = device_then
        note: dict[str, Any] = {"name": name, "sha256": sha256, "threads": threads, "device": device}
        if tokenizer_id is not None:
            note["tokenizer"] = {
                "name": tokenizer,
                "id": tokenizer_id.text,
                "vocab_size": tokenizer_id.vocab_size,
            }
        if name.startswith("file:"):
            path = Path(name.removeprefix("file:")).expanduser().absolute()
            noted = begun.get("path") if same else None
            note["path"] = noted if noted and _exists(noted) else str(path)
        if note != begun:
            files.write_whole(self.path / "corpus.json", json.dumps(note) + "\n")

    def tokenizer_text(self) -> str | None:
        """The JSON of the tokenizer that the study began with; None for bytes, or before it began.

        Raises:
            StoreError: It is gone or not what it was.
        """
        begun = self.corpus()
        wanted = _tokenizer_id(begun)
        if wanted is None or _tokenizer_name(begun) != self.study().tokenizer:
            return None
        path = self._tokenizer_file(wanted)
        text = _text(path, bounded.TOKENIZER_BYTES)
        if text is None or hashlib.sha256(text.encode()).hexdigest()[:16] != path.stem:
            raise StoreError(f"{path} is gone or damaged, and its runs need it: restore it from a copy")
        return text

    def keep_tokenizer(self, tokenizer: TokenizerId, text: str) -> None:
        """Write a tokenizer's JSON into the study, named by its hash, unless it is there."""
        path = self._tokenizer_file(tokenizer)
        if _text(path, bounded.TOKENIZER_BYTES) != text:
            files.write_whole(path, text)

    def _tokenizer_file(self, tokenizer: TokenizerId) -> Path:
        return self.path / "tokenizers" / f"{tokenizer.text[-16:]}.json"

    def orphans(self, study: Study) -> Strangers:
        """The finished runs of the study as it is now that would not belong to ``study``, and why.

        Of a study.yaml that cannot be read, all that ``study`` does not ask for.
        """
        begun = self.corpus()
        if not begun:
            return Strangers(0, ())
        same = study.corpus == begun["name"] or _file(study.corpus) == begun.get("path", "")
        wanted: list[RunConfig] = []
        if same and study.tokenizer == _tokenizer_name(begun):
            wanted = study.runs(begun["sha256"], _tokenizer_id(begun))
        mine: set[str] | None = None
        with suppress(ConfigError):
            mine = {run.run_id for run in self.runs()}
        others = self.records(besides={run.run_id for run in wanted})
        return explain((record.config for record in others if mine is None or record.run_id in mine), wanted)

    def run_folder(self, run_id: str) -> Path:
        """Where a run's files lie."""
        return self.path / "runs" / run_id

    def trunk_folder(self, trunk_id: str) -> Path:
        """Where a trunk's files lie."""
        return self.path / "trunks" / trunk_id

    def folder(self, job: Job) -> Path:
        """Where a job's files lie."""
        return self.run_folder(job.id) if job.kind == "run" else self.trunk_folder(job.id)

    def lock(self, job: Job) -> AbstractContextManager[bool]:
        """The job's lock; yields False where another process holds it."""
        return files.lock(self.folder(job))

    def write_config(self, job: Job) -> None:
        """Write the job's config.json, unless it is there."""
        path = self.folder(job) / "config.json"
        text = json.dumps(job.config.to_json(), indent=1, allow_nan=False) + "\n"
        if _text(path, bounded.NOTE_BYTES) != text:
            files.write_whole(path, text)

    # Records

    def record(self, run_id: str) -> Record | None:
        """The record of a finished run; None where there is none, or one that cannot be used.

        Raises:
            RecordVersionError: Another version of qscale made it: it is good, and not ours to do again.
        """
        try:
            found = self.read(run_id)
        except RecordVersionError:
            raise
        except StoreError:
            return None
        return None if found is None else found[0]

    def read(self, run_id: str) -> tuple[Record, float] | None:
        """The record of a finished run and when it was written; None where there is none.

        Raises:
            StoreError: It is damaged, and how.
            RecordVersionError: As for :meth:`record`.
        """
        path = f"{self.path}/runs/{run_id}/record.json"  # a Path costs more than the reading
        try:
            data, written = bounded.read_with_time(path, bounded.RECORD_BYTES)
            text = bounded.text_of(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise files.store_error("read", Path(path), error) from error
        except ValueError as error:
            raise StoreError(str(error)) from error
        try:
            record = Record.loads(text)
        except RecordVersionError as error:
            raise RecordVersionError(f"{path} was made by another version of qscale: {error}") from error
        if record.run_id != run_id:
            raise StoreError(f"it is the record of run {record.run_id}")
        return record, written

    def has_losses(self, run_id: str, count: int) -> bool:
        """Whether a run's losses by sequence, ``count`` of them, can be read."""
        from qscale.training.losses import read_losses  # with NumPy, which `status` does without

        try:
            return len(read_losses(paths.eval_losses(self.run_folder(run_id)))) == count
        except StoreError:
            return False

    def has_weights(self, run_id: str) -> bool:
        """Whether the last weights of an unquantized run are there."""
        return (paths.final_weights(self.run_folder(run_id)) / "model.safetensors").is_file()

    def repair(self, run_id: str, *, losses: int | None = None, weights: bool = False) -> None:
        """Move a record that cannot be used aside; the caller holds the run's lock.

        Without the lock, a record that another process has just put right could be moved.

        Args:
            run_id: The run.
            losses: So many losses by sequence are needed as well.
            weights: Its last weights are needed as well.
        """
        try:
            found = self.read(run_id)
            record = None if found is None else found[0]
            if record and losses is not None and not record.diverged and not self.has_losses(run_id, losses):
                raise StoreError("the losses by sequence beside it cannot be read")
            if record and weights and not record.diverged and not self.has_weights(run_id):
                raise StoreError("its last weights are not there")
        except RecordVersionError:
            raise
        except StoreError as error:
            path = self.run_folder(run_id) / "record.json"
            number = 1
            while (aside := path.with_name(f"record.json.corrupt-{number}")).exists():
                number += 1
            try:
                path.rename(aside)
            except OSError as fault:
                raise files.store_error("move aside", path, fault) from fault
            self.say(f"{path} is damaged ({error}): moved to {aside.name}, the run is done again")

    def write_record(self, record: Record) -> None:
        """Write a run's record, which makes it done. A valid record is never overwritten.

        Raises:
            StoreError: The disk is full or not writable; nothing is lost.
        """
        if self.record(record.run_id) is None:
            files.write_whole(self.run_folder(record.run_id) / "record.json", record.dumps())

    def records(self, besides: Container[str] = ()) -> Iterator[Record]:
        """Every usable record in the folder, whether or not the study still asks for it.

        One at a time, and none of those ``besides`` which others are wanted. Damaged ones are said in some
        lines, however many they are.
        """
        damaged = Damaged(self)
        for run_id in sorted(self.names("runs")):
            if run_id in besides or not bounded.is_id(run_id):
                continue
            try:
                found = self.read(run_id)
            except RecordVersionError:
                raise
            except StoreError as error:
                damaged.note(run_id, error)
                continue
            if found is not None:
                yield found[0]
        damaged.end()

    def names(self, folder: str) -> set[str]:
        """What a folder of the store holds; nothing where it is missing."""
        path = f"{self.path}/{folder}"
        try:
            return set(os.listdir(path))  # noqa: PTH208 - names, and many of them
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise files.store_error("read", Path(path), error) from error

    # Failures

    def write_failure(self, job: Job, error: str, tail: str = "") -> None:
        """Note why a job failed; the next run of the study tries it again."""
        note = {"job": job.label, "error": error[:4000], "tail": tail[-4000:], "time": time.time()}
        files.write_whole(self.folder(job) / "failure.json", json.dumps(note, indent=1) + "\n")

    def failure(self, job: Job) -> str | None:
        """The error of a failed job."""
        try:
            note = bounded.loads(bounded.read_bytes(self.folder(job) / "failure.json", bounded.NOTE_BYTES))
            return bounded.one_line(note.get("error", "unknown"), 2000)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError):
            return "unknown: failure.json cannot be read"

    def clear_failure(self, job: Job) -> None:
        """Forget a failure, so that the job is tried again."""
        try:
            (self.folder(job) / "failure.json").unlink(missing_ok=True)
        except OSError as error:
            raise files.store_error("clear the failure of", self.folder(job), error) from error


def _tokenizer_name(begun: dict[str, Any]) -> str:
    """The tokenizer in a note of the corpus, as the user named it."""
    return str(begun.get("tokenizer", {}).get("name", "bytes"))


def _tokenizer_id(begun: dict[str, Any]) -> TokenizerId | None:
    """The tokenizer in a note of the corpus; None for bytes."""
    note = begun.get("tokenizer")
    return TokenizerId(note["id"], note["vocab_size"]) if note else None


def _kind(device: str) -> str:
    """``cuda`` of ``cuda:1``: cards of one machine are taken as equal."""
    return device.partition(":")[0]


def _file(corpus: str) -> str | None:
    """The absolute path of a corpus in files."""
    if not corpus.startswith("file:"):
        return None
    return str(Path(corpus.removeprefix("file:")).expanduser().absolute())


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - of Path it is an error where the name is too long


def _text(path: Path, limit: int) -> str | None:
    """A file's text; None where it is missing or unreadable."""
    try:
        return bounded.read_text(path, limit)
    except (OSError, ValueError):
        return None


_TOKENIZER_ID = re.compile(r"(bpe:[0-9]{1,9}@|file:)[0-9a-f]{16}")


def _is_note(data: object) -> bool:
    """Whether corpus.json holds what :meth:`Store.begin` writes: a stranger may have written it."""
    if not isinstance(data, dict):
        return False
    texts = [data.get("name"), data.get("sha256"), data.get("path", ""), data.get("device", "")]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        return False
    if type(data.get("threads", 1)) is not int or data.get("threads", 1) < 1:
        return False
    tokenizer = data.get("tokenizer")
    return "tokenizer" not in data or (
        isinstance(tokenizer, dict)
        and isinstance(tokenizer.get("name"), str)
        and isinstance(tokenizer.get("id"), str)
        and _TOKENIZER_ID.fullmatch(tokenizer["id"]) is not None
        and type(tokenizer.get("vocab_size")) is int
        and 0 < tokenizer["vocab_size"] < 2**31
    )


class Damaged:
    """Says which records cannot be used: the first some by name, the others by their number."""

    _NAMED = 3

    def __init__(self, store: Store) -> None:
        self.store = store
        self.count = 0

    def note(self, run_id: str, error: object) -> None:
        """Say one, or count it."""
        self.count += 1
        if self.count <= self._NAMED:
            path = self.store.run_folder(run_id) / "record.json"
            self.store.say(f"{path} is damaged ({error}): left out; the next run does it again")

    def end(self) -> None:
        """Say how many were only counted."""
        if (more := self.count - self._NAMED) > 0:
            self.store.say(
                f"and {plural(more, 'more damaged record')}: left out; the next run does them again"
            )
