"""The run store: a folder is the database, and a run is done exactly when its record can be read. No torch.

study.yaml                  the grid as given
corpus.json                 name and hash of the corpus, so that ids can be made without it
runs/<run_id>/              config.json, curve.jsonl, checkpoint/, eval_losses.npy, and last record.json
trunks/<trunk_id>/          config.json, curve.jsonl, checkpoint/, branches/
logs/                       what workers said on stderr
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from qscale.errors import StoreError
from qscale.records import Record
from qscale.sweep import files
from qscale.sweep.grid import Study
from qscale.sweep.jobs import Job
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
                raise StoreError(
                    f"{self.path} is not a folder; name a study folder, made by 'qscale sweep run'"
                )
            with self.study_file.open("rb"):
                pass
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.path} holds no study.yaml: it is not a study folder; make one with "
                "'qscale sweep run STUDY.yaml --out FOLDER'"
            ) from error
        except OSError as error:
            raise files.store_error("read the study folder", self.path, error) from error

    @classmethod
    def create(cls, path: Path | str, text: str, say: Callable[[str], None] = quiet) -> Store:
        """A study folder with ``text`` as its study.yaml, new or extended; what is in it stays."""
        path = Path(path)
        Study.parse(text)
        try:
            if not (path / "study.yaml").exists() and path.is_dir() and any(path.iterdir()):
                raise StoreError(f"{path} is not empty and holds no study: name a new folder")
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.store_error("make the study folder", path, error) from error
        if _text(path / "study.yaml") != text:
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
        """The study's runs, made with the corpus that it was begun with; none if it never began."""
        study, begun = self.study(), self.corpus()
        return study.runs(begun["sha256"]) if begun.get("name") == study.corpus else []

    def corpus(self) -> dict[str, str]:
        """Name and sha256 of the corpus that the study was begun with; empty before that."""
        text = _text(self.path / "corpus.json")
        with suppress(ValueError):
            data = json.loads(text or "{}")
            if isinstance(data, dict) and all(isinstance(data.get(k), str) for k in ("name", "sha256")):
                return data
        return {}

    def begin(self, name: str, sha256: str) -> None:
        """Note the corpus.

        Raises:
            StoreError: The same corpus had other bytes when the study began.
        """
        begun = self.corpus()
        if begun.get("name") == name and begun["sha256"] != sha256:
            raise StoreError(
                f"{self.path}: the corpus {name!r} has changed since this study began (sha256 {sha256[:12]}, "
                f"then {begun['sha256'][:12]}); restore it, or start a study in a new folder"
            )
        if not begun or begun["name"] != name:
            files.write_whole(self.path / "corpus.json", json.dumps({"name": name, "sha256": sha256}) + "\n")

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
        """The record of a finished run; None where there is none, or one that cannot be used."""
        try:
            return self._read(run_id)
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
        record = Record.loads(text)
        if record.run_id != run_id:
            raise StoreError(f"it is the record of run {record.run_id}")
        return record

    def repair(self, run_id: str) -> None:
        """Move a record that cannot be used aside; the caller holds the run's lock.

        Without the lock, a record that another process has just put right could be moved.
        """
        try:
            self._read(run_id)
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
            except StoreError as error:
                self.say(
                    f"{folder / 'record.json'} is damaged ({error}): left out; the next run does it again"
                )
                continue
            if record is not None:
                yield record

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


def _text(path: Path) -> str | None:
    """A file's text; None where it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
