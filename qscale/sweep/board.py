"""The state of a study's jobs, read from the store: done, ready, waiting, failed or blocked. No torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qscale import bounded
from qscale.errors import StoreError
from qscale.records import Record, RecordVersionError
from qscale.sweep import files
from qscale.sweep.jobs import Job
from qscale.sweep.store import Store
from qscale.training import paths

#: ``blocked``: it needs something that failed. ``waiting``: it needs something that is not done yet.
State = Literal["done", "ready", "waiting", "failed", "blocked"]


@dataclass(frozen=True, slots=True)
class Result:
    """What is kept in mind of a record: ten thousand of them are a few megabytes."""

    loss: float | None
    delta: float | None
    delta_se: float | None
    diverged: bool
    seconds: float
    losses_sha256: str | None
    written: float  #: when, in seconds of the clock

    @classmethod
    def of(cls, record: Record, written: float) -> Result:
        """The result of a record."""
        values = (record.loss, record.delta, record.delta_se, record.diverged, record.wall_seconds)
        return cls(*values, record.eval_losses_sha256, written)


class Board:
    """What can be worked on now. Any number of processes look at one store; the files decide."""

    def __init__(self, store: Store, jobs: Sequence[Job]) -> None:
        self.store = store
        self.jobs = jobs
        self.runs = {job.id: job for job in jobs if job.kind == "run"}
        self.trunks = {job.id: job for job in jobs if job.kind == "trunk"}
        self.diverged: set[str] = set()  #: runs whose record, as far as it was seen, says so
        self.results: dict[str, Result] = {}  #: of the runs with a record, each read once
        self.damaged: dict[str, str] = {}  #: runs whose record cannot be used, and why
        self._recorded: set[str] = set()  # runs with a record: it never goes away
        self._usable: set[str] = set()  # runs whose losses and weights serve those that need them

    def look(self) -> dict[str, State]:
        """The state of every job now, from one reading of the folders."""
        folders = self.store.names("runs")
        notes = {run: self._notes(run) for run in self.runs.keys() & folders - self._recorded}
        for run, names in notes.items():
            if "record.json" in names:
                self._read(run)
        done = self._recorded & self.runs.keys()
        done -= self._unusable(done)
        needed: dict[str, set[int]] = {trunk: set() for trunk in self.trunks}
        for run, job in self.runs.items():
            if run not in done and job.trunk_id is not None:
                needed[job.trunk_id].add(job.steps[0])
        missing = {trunk: self._missing(trunk, steps) for trunk, steps in needed.items()}
        states: dict[str, State] = {}
        for trunk, job in self.trunks.items():
            failed = bool(missing[trunk]) and self.store.failure(job) is not None
            states[trunk] = "done" if not missing[trunk] else "failed" if failed else "ready"
        # A baseline before the runs that are compared with it.
        for run, job in sorted(self.runs.items(), key=lambda item: item[1].baseline_id is not None):
            needs = []
            if job.trunk_id is not None and job.steps[0] in missing[job.trunk_id]:
                needs.append(states[job.trunk_id])
            needs += [
                states[other] for other in (job.source_id, job.baseline_id) if other and other not in done
            ]
            if run in done:
                states[run] = "done"
            elif "failure.json" in notes.get(run, ()):
                states[run] = "failed"
            elif {"failed", "blocked"} & set(needs):
                states[run] = "blocked"
            else:
                states[run] = "waiting" if needs else "ready"
        return {job.id: states[job.id] for job in self.jobs}

    def state(self, job: Job) -> State:
        """The state of one job now; for more than one, look once."""
        return self.look()[job.id]

    def done(self, job: Job) -> bool:
        """A run with a record; a trunk that nothing undone still needs."""
        return self.state(job) == "done"

    def missing_steps(self, trunk: Job) -> list[int]:
        """Where branches of undone runs leave the trunk and no checkpoint is there yet."""
        return sorted(self._missing(trunk.id, {job.steps[0] for job in self.stranded(trunk)}))

    def stranded(self, trunk: Job) -> list[Job]:
        """The undone runs that a trunk has no checkpoint for yet, baselines first."""
        states = self.look()
        undone = [job for job in self.runs.values() if job.trunk_id == trunk.id and states[job.id] != "done"]
        missing = self._missing(trunk.id, {job.steps[0] for job in undone})
        return sorted(
            (job for job in undone if job.steps[0] in missing), key=lambda job: job.baseline_id is not None
        )

    def tidy(self) -> None:
        """Before a session: set damaged losses of finished runs aside, drop what a killed worker left.

        What others work on is passed over.
        """
        states = self.look()
        for run, job in self.runs.items():
            if states[run] == "done" and run not in self.diverged and not self._has_losses(run):
                with self.store.lock(job) as held:
                    if held:
                        self.store.repair(run, losses=job.config.eval_windows)
                        self._recorded.discard(run)
        for trunk, job in self.trunks.items():
            rolling = paths.checkpoints(self.store.trunk_folder(trunk))
            if states[trunk] == "done" and rolling.is_dir():  # branch checkpoints serve from here on
                with self.store.lock(job) as held:
                    if held:
                        shutil.rmtree(rolling, ignore_errors=True)

    def repair(self, run: Job) -> None:
        """Move a record that this run cannot be done with aside; the caller holds the run's lock."""
        needed = [job for job in self.runs.values() if run.id in (job.baseline_id, job.source_id)]
        compared = any(job.baseline_id == run.id for job in needed)
        self.store.repair(
            run.id,
            losses=run.config.eval_windows if compared else None,
            weights=any(job.source_id == run.id for job in needed),
        )

    def _read(self, run: str) -> None:
        try:
            found = self.store.read(run)
        except RecordVersionError:
            raise
        except StoreError as error:
            self.damaged[run] = str(error)
            return
        self.damaged.pop(run, None)
        if found is not None:
            self._recorded.add(run)
            self.results[run] = Result.of(*found)
            if found[0].diverged:
                self.diverged.add(run)

    def _has_losses(self, run: str) -> bool:
        told = self.results[run].losses_sha256
        return self.store.has_losses(run, self.runs[run].config.eval_windows, told)

    def _notes(self, run: str) -> set[str]:
        return self.store.names(f"runs/{run}") & {"record.json", "failure.json"}

    def _missing(self, trunk: str, steps: set[int]) -> set[int]:
        if not steps:
            return set()
        folder = self.store.trunk_folder(trunk)
        there = self.store.names(str(paths.branch_checkpoint(folder, 0).parent.relative_to(self.store.path)))
        return {step for step in steps if paths.branch_checkpoint(folder, step).name not in there}

    def _unusable(self, done: set[str]) -> set[str]:
        """Runs with a record that undone runs cannot use; their records are read again.

        What is compared with a baseline needs its losses, what goes on from a run its weights.
        """
        undone = [job for job in self.runs.values() if job.id not in done]
        compared = {job.baseline_id for job in undone} & done
        continued = {job.source_id for job in undone} & done
        found = set()
        for run in (compared | continued) - self._usable - self.diverged:
            assert run is not None
            losses = run not in compared or self._has_losses(run)
            if losses and (run not in continued or self.store.has_weights(run)):
                self._usable.add(run)
            else:
                found.add(run)
        self._recorded -= found
        return found

    def overview(self) -> list[dict[str, Any]]:
        """Every job with its state; ``running`` where a process holds its lock."""
        rows = []
        states = self.look()
        for job in self.jobs:
            state: str = states[job.id]
            row: dict[str, Any] = {"kind": job.kind, "id": job.id, "label": job.label}
            if state == "ready" and files.is_locked(folder := self.store.folder(job)):
                state = "running"
                row |= last_step(folder)
            if state == "failed":
                row["error"] = self.store.failure(job)
            if state == "done" and (result := self.results.get(job.id)):
                row |= {"loss": result.loss, "delta": result.delta, "delta_se": result.delta_se}
                row["diverged"] = result.diverged
            row["state"] = state
            rows.append(row)
        return rows


def last_step(folder: Path) -> dict[str, Any]:
    """Step and loss of the last whole line of a curve; a torn, odd or missing one is no news."""
    try:
        lines = bounded.read_end(paths.curve(folder), 4096).split(b"\n")[:-1]
        row = bounded.loads(lines[-1])
        step, loss = row["step"], row["loss"]
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return {}
    if type(step) is not int or not 0 <= step < 2**63 or type(loss) is not float or not math.isfinite(loss):
        return {}
    return {"step": step, "loss": loss}
