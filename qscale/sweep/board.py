"""The state of a study's jobs, read from the store: done, ready, waiting, failed or blocked. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from qscale.sweep import files
from qscale.sweep.jobs import Job
from qscale.sweep.store import Store
from qscale.training import paths

#: ``blocked``: it needs something that failed. ``waiting``: it needs something that is not done yet.
State = Literal["done", "ready", "waiting", "failed", "blocked"]


class Board:
    """What can be worked on now. Any number of processes look at one store; the files decide."""

    def __init__(self, store: Store, jobs: Sequence[Job]) -> None:
        self.store = store
        self.jobs = jobs
        self.runs = {job.id: job for job in jobs if job.kind == "run"}
        self.trunks = {job.id: job for job in jobs if job.kind == "trunk"}
        self._branches: dict[str, list[Job]] = {trunk_id: [] for trunk_id in self.trunks}
        for job in self.runs.values():
            self._branches[job.trunk_id].append(job)
        self._done: set[str] = set()  # what is done stays done

    def done(self, job: Job) -> bool:
        """A run with a record; a trunk that nothing undone still needs."""
        if job.id not in self._done:
            ready = not self.missing_steps(job) if job.kind == "trunk" else self._has_record(job)
            if ready:
                self._done.add(job.id)
        return job.id in self._done

    def _has_record(self, job: Job) -> bool:
        return self.store.record(job.id) is not None

    def _has_branch(self, trunk_id: str, step: int) -> bool:
        return paths.branch_checkpoint(self.store.trunk_folder(trunk_id), step).is_dir()

    def missing_steps(self, trunk: Job) -> list[int]:
        """Where branches of undone runs leave the trunk and no checkpoint is there yet."""
        needed = {job.steps[0] for job in self._branches[trunk.id] if not self.done(job)}
        return sorted(step for step in needed if not self._has_branch(trunk.id, step))

    def state(self, job: Job) -> State:
        """The job's state now."""
        if self.done(job):
            return "done"
        if self.store.failure(job) is not None:
            return "failed"
        needs = []
        if job.kind == "run":
            if not self._has_branch(job.trunk_id, job.steps[0]):
                needs.append(self.trunks[job.trunk_id])
            if job.baseline_id is not None and not self.done(self.runs[job.baseline_id]):
                needs.append(self.runs[job.baseline_id])
        states = {self.state(need) for need in needs}
        if states & {"failed", "blocked"}:
            return "blocked"
        return "waiting" if needs else "ready"

    def overview(self) -> list[dict[str, Any]]:
        """Every job with its state; ``running`` where a process holds its lock."""
        rows = []
        for job in self.jobs:
            state: str = self.state(job)
            folder = self.store.folder(job)
            row: dict[str, Any] = {"kind": job.kind, "id": job.id, "label": job.label}
            if state == "ready" and files.is_locked(folder):
                state = "running"
                row |= last_step(folder)
            if state == "failed":
                row["error"] = self.store.failure(job)
            if state == "done" and (record := self.store.record(job.id)):
                row |= {"loss": record.loss, "delta": record.delta, "delta_se": record.delta_se}
                row |= {"diverged": record.diverged}
            rows.append({**row, "state": state})
        return rows


def last_step(folder: Path) -> dict[str, Any]:
    """Step and loss of the last whole line of a curve; a torn or missing one is no news."""
    try:
        with paths.curve(folder).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1])
        return {"step": row["step"], "loss": row["loss"]}
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return {}
