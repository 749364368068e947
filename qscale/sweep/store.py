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
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from qscale.data.tokenizer import TokenizerId
from qscale.errors import ConfigError, StoreError, StudyError
from qscale.records import Record, RecordVersionError
from qscale.sweep import files
from qscale.sweep.grid import Study
from qscale.sweep.jobs import Job
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
        there = _text(path / "study.yaml")
        if there is not None and there != text and not replace and (lost := cls(path).orphans(study)):
            raise StudyError(
                f"{path} holds another study, and {plural(lost, 'finished run')} of it would no longer "
                "belong: name a new folder, keep those points in the study, or give --replace "
                "(records stay on disk)"
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
        if not path.exists():
            return {}
        with suppress(ValueError):
            data = json.loads(_text(path) or "")
            if isinstance(data, dict) and all(isinstance(data.get(k), str) for k in ("name", "sha256")):
                return data
        raise StoreError(
            f"{path} is damaged: restore it, or delete it and run the study again, which writes it anew"
        )

    def corpus_name(self) -> str:
        """The corpus as ``data.corpus.load`` takes it here, wherever the current folder is."""
        begun, name = self.corpus(), self.study().corpus
        path = begun.get("path")
        here = begun.get("name") == name and isinstance(path, str) and Path(path).exists()
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
            note["path"] = noted if noted and Path(noted).exists() else str(path)
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
        text = _text(path)
        if text is None or hashlib.sha256(text.encode()).hexdigest()[:16] != path.stem:
            raise StoreError(f"{path} is gone or damaged, and its runs need it: restore it from a copy")
        return text

    def keep_tokenizer(self, tokenizer: TokenizerId, text: str) -> None:
        """Write a tokenizer's JSON into the study, named by its hash, unless it is there."""
        path = self._tokenizer_file(tokenizer)
        if _text(path) != text:
            files.write_whole(path, text)

    def _tokenizer_file(self, tokenizer: TokenizerId) -> Path:
        return self.path / "tokenizers" / f"{tokenizer.text[-16:]}.json"

    def orphans(self, study: Study) -> int:
        """How many finished runs of the study as it is now would not belong to ``study``.

        Of a study.yaml that cannot be read, all that ``study`` does not ask for.
        """
        begun = self.corpus()
        if not begun:
            return 0
        finished = {record.run_id for record in self.records()}
        with suppress(ConfigError):
            finished &= {run.run_id for run in self.runs()}
        same = study.corpus == begun["name"] or _file(study.corpus) == begun.get("path", "")
        if same and study.tokenizer == _tokenizer_name(begun):
            finished -= {run.run_id for run in study.runs(begun["sha256"], _tokenizer_id(begun))}
        return len(finished)

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
        if _text(path) != text:
            files.write_whole(path, text)

    # Records

    def record(self, run_id: str) -> Record | None:
        """The record of a finished run; None where there is none, or one that cannot be used.

        Raises:
            RecordVersionError: Another version of qscale made it: it is good, and not ours to do again.
        """
        try:
            return self._read(run_id)
        except RecordVersionError:
            raise
        except StoreError:
            return None

    def _read(self, run_id: str) -> Record | None:
        path = self.run_folder(run_id) / "record.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise StoreError("not text") from error
        except OSError as error:
            raise files.store_error("read", path, error) from error
        try:
            record = Record.loads(text)
        except RecordVersionError as error:
            raise RecordVersionError(f"{path} was made by another version of qscale: {error}") from error
        if record.run_id != run_id:
            raise StoreError(f"it is the record of run {record.run_id}")
        return record

    def has_losses(self, run_id: str, count: int) -> bool:
        """Whether a run's losses by sequence, ``count`` of them, can be read."""
        import numpy as np

        try:
            losses = np.load(paths.eval_losses(self.run_folder(run_id)), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return isinstance(losses, np.ndarray) and losses.shape == (count,)

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
            record = self._read(run_id)
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

    def records(self) -> Iterator[Record]:
        """Every usable record in the folder, whether or not the study still asks for it."""
        for folder in sorted(self._folders("runs")):
            try:
                record = self._read(folder.name)
            except RecordVersionError:
                raise
            except StoreError as error:
                self.say(
                    f"{folder / 'record.json'} is damaged ({error}): left out; the next run does it again"
                )
                continue
            if record is not None:
                yield record

    def names(self, folder: str) -> set[str]:
        """What a folder of the store holds; nothing where it is missing."""
        try:
            return set(os.listdir(self.path / folder))  # noqa: PTH208 - names, and many of them
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise files.store_error("read", self.path / folder, error) from error

    def _folders(self, kind: str) -> list[Path]:
        try:
            return [path for path in (self.path / kind).iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.store_error("read", self.path / kind, error) from error

    # Failures

    def write_failure(self, job: Job, error: str, tail: str = "") -> None:
        """Note why a job failed; the next run of the study tries it again."""
        note = {"job": job.label, "error": error, "tail": tail[-4000:], "time": time.time()}
        files.write_whole(self.folder(job) / "failure.json", json.dumps(note, indent=1) + "\n")

    def failure(self, job: Job) -> str | None:
        """The error of a failed job."""
        path = self.folder(job) / "failure.json"
        if not path.exists():
            return None
        with suppress(ValueError):
            note = json.loads(_text(path) or "{}")
            if isinstance(note, dict):
                return str(note.get("error", "unknown"))
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


def _text(path: Path) -> str | None:
    """A file's text; None where it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
