"""The run store: a folder is the database, and a run is done exactly when its record can be read. No torch.

study.yaml                  the grid as given
corpus.json                 names and hashes of the corpora, so that ids need no corpus; threads, device
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
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from qscale import bounded
from qscale.data.tokenizer import TokenizerId
from qscale.errors import ConfigError, StoreError, StudyError
from qscale.records import Record, RecordVersionError
from qscale.sweep import files
from qscale.sweep.begun import Begun, is_there
from qscale.sweep.grid import Identity, Source, Study
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
            there = os.listdir(path) if path.is_dir() else []  # noqa: PTH208 - names are all it takes
            # A driver that died in its first write has left a temporary file.
            if "study.yaml" not in there and any(not name.startswith(".study.yaml.") for name in there):
                raise StudyError(f"{path} is not empty and holds no study: name a new folder")
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StudyError(f"{path} is a file, or lies below one: name a new folder") from error
        except OSError as error:
            raise files.store_error("make the study folder", path, error) from error
        before = _text(path / "study.yaml", bounded.STUDY_BYTES)
        if before is not None and before != text and not replace and (lost := cls(path).orphans(study)).count:
            raise StudyError(
                f"{path} holds another study, and {plural(lost.count, 'finished run')} of it would no longer "
                f"belong ({'; '.join(lost.reasons)}): name a new folder, keep those points in the study, or "
                "give --replace (records stay on disk)"
            )
        if before != text:
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
        """The study's runs, of the corpora and tokenizers that it was begun with; none if it never began."""
        return self.study().runs(self.identities())

    def identities(self, study: Study | None = None) -> dict[Source, Identity]:
        """What is known of the sources of a study: of this folder's, or of ``study``."""
        begun = self.begun()
        notes = {source: begun.note(source) for source in (study or self.study()).sources()}
        return {source: note.identity for source, note in notes.items() if note is not None}

    def begun(self) -> Begun:
        """What the study was begun with: its sources, threads and device; empty before that.

        Raises:
            StoreError: The note is there and cannot be read.
        """
        path = self.path / "corpus.json"
        try:
            return Begun.from_json(bounded.loads(bounded.read_bytes(path, bounded.NOTE_BYTES)))
        except FileNotFoundError:
            return Begun()
        except OSError as error:
            raise files.store_error("read", path, error) from error
        except ValueError:
            pass
        raise StoreError(
            f"{path} is damaged: restore it, or delete it and run the study again, which writes it anew"
        )

    def corpus_name(self, source: Source) -> str:
        """The corpus as ``data.corpus.load`` takes it here, wherever the current folder is."""
        note = self.begun().note(source)
        here = note is not None and note.path is not None and is_there(note.path)
        return f"file:{note.path}" if note is not None and here else source.corpus

    def begin(self, found: Mapping[Source, Identity], *, threads: int = 1, device: str = "cpu") -> None:
        """Note what the study's sources are, and the threads and device that all its runs share.

        Raises:
            StoreError: The same corpus had other bytes when the study began, or its tokenizer other tokens.
            StudyError: The study began with other threads or on another device.
        """
        before = self.begun()
        begun = before
        for source, identity in found.items():
            begun = begun.with_source(source, identity, where=self.path)
        begun = begun.on(threads, device, where=self.path)
        if begun != before:
            files.write_whole(self.path / "corpus.json", json.dumps(begun.to_json()) + "\n")

    def tokenizer_text(self, source: Source) -> str | None:
        """The JSON of a tokenizer that the study began with; None for bytes, or before it began.

        Raises:
            StoreError: It is gone or not what it was.
        """
        note = self.begun().note(source)
        if note is None or note.identity.tokenizer is None:
            return None
        path = self._tokenizer_file(note.identity.tokenizer)
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
        if not self.begun().notes:
            return Strangers(0, ())
        wanted = study.runs(self.identities(study))
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

    def has_losses(self, run_id: str, count: int, sha256: str | None) -> bool:
        """Whether a run's losses by sequence can be read: ``count`` of them, and as its record has them."""
        from qscale.training.losses import losses_sha256, read_losses  # with NumPy: `status` does without

        try:
            losses = read_losses(paths.eval_losses(self.run_folder(run_id)))
        except StoreError:
            return False
        return len(losses) == count and sha256 in (None, losses_sha256(losses))

    def has_weights(self, run_id: str) -> bool:
        """Whether the last weights of an unquantized run are there."""
        return (paths.final_weights(self.run_folder(run_id)) / "model.safetensors").is_file()

    def repair(self, run_id: str, *, losses: int | None = None, weights: bool = False) -> None:
        """Move a record that cannot be used aside, with damaged losses; the caller holds the run's lock.

        Without the lock, a record that another process has just put right could be moved.

        Args:
            run_id: The run.
            losses: So many losses by sequence are needed as well.
            weights: Its last weights are needed as well.
        """
        try:
            found = self.read(run_id)
            record = None if found is None else found[0]
            if record and losses is not None and not record.diverged:
                told = record.eval_losses_sha256
                if not self.has_losses(run_id, losses, told):
                    self._set_aside(paths.eval_losses(self.run_folder(run_id)))
                    raise StoreError("the losses by sequence beside it are missing or damaged")
            if record and weights and not record.diverged and not self.has_weights(run_id):
                raise StoreError("its last weights are not there")
        except RecordVersionError:
            raise
        except StoreError as error:
            path = self.run_folder(run_id) / "record.json"
            aside = self._set_aside(path)
            self.say(f"{path} is damaged ({error}): moved to {aside.name}, the run is done again")

    def _set_aside(self, path: Path) -> Path:
        try:
            return paths.set_aside(path)
        except FileNotFoundError:
            return path
        except OSError as error:
            raise files.store_error("move aside", path, error) from error

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


def _text(path: Path, limit: int) -> str | None:
    """A file's text; None where it is missing or unreadable."""
    try:
        return bounded.read_text(path, limit)
    except (OSError, ValueError):
        return None


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
