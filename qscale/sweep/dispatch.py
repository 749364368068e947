"""Which job next, and what becomes of one that ended badly: what all executors share. No torch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qscale.errors import StoreError
from qscale.sweep.board import Board, State
from qscale.sweep.jobs import Job
from qscale.sweep.outcome import Outcome, outcome
from qscale.sweep.stopping import StopSignal
from qscale.sweep.words import plural

Event = dict[str, Any]

#: Seconds before a job that another process holds is offered again, and between two looks at the store
#: while nothing is heard: another driver may have finished something.
_AGAIN = 1.0
_LONGEST = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What an executor puts up with."""

    retries: int = 1  #: times that a job is tried again after a crash, a kill or a timeout
    timeout: float | None = None  #: seconds that one attempt at a job may take


class Executor(ABC):
    """Runs a study's jobs somewhere: hands out what is ready, hears what became of it, tries again.

    The files of the store decide what is done; any number of executors may work on one study.
    """

    def __init__(self, board: Board, show: Callable[[Event], None], patience: Patience) -> None:
        self.board = board
        self.show = show
        self.patience = patience
        self.died = 0
        self.running: dict[str, float] = {}  #: job in our hands to when it was handed out
        self._jobs: dict[str, Job] = {job.id: job for job in board.jobs}
        self._attempts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._elsewhere: dict[str, float] = {}  # job that another process holds, to when to offer it again
        self._states: dict[str, State] = {}
        self._looked = float("-inf")

    # What an executor supplies

    @abstractmethod
    def begin(self, undone: int) -> None:
        """Make ready for so many undone jobs."""

    @abstractmethod
    def start(self, job: Job) -> bool:
        """Hand out a job; False where there is no room for it now."""

    @abstractmethod
    def hear(self) -> bool:
        """Wait a moment for news, act on them; whether a job ended."""

    @abstractmethod
    def stop(self, *, kill: bool) -> None:
        """Let what runs finish its step and write a checkpoint, or kill it."""

    @abstractmethod
    def cut(self, job: Job, why: str) -> None:
        """End an attempt at a job that took too long."""

    @abstractmethod
    def end(self) -> None:
        """Leave nothing behind, however the work ended."""

    # What all share

    def run(self, stop: StopSignal) -> Outcome:
        """Work until nothing is left to do; ``stop`` is entered by the caller.

        The first stop signal lets jobs finish a step and write checkpoints; the second kills them.
        """
        told = 0
        try:
            self.begin(sum(state != "done" for state in self.board.look().values()))
            while True:
                if stop.count > told:
                    told = stop.count
                    self.show({"event": "stopping", "killed": told > 1})
                    self.stop(kill=told > 1)
                if not told and not self.fatal:
                    self._hand_out()
                if not self.running and (told or self.fatal or not self._more()):
                    break
                if self.hear():
                    self._looked = float("-inf")
                self._cut_overdue()
        finally:
            self.end()
        return outcome(self.board, stopped=told > 0, died=self.died)

    @property
    def fatal(self) -> bool:
        """Whether something happened that no job could go on after, such as a full disk."""
        return self.died > 0

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _AGAIN:
            self._states = self.board.look()
            self._looked = time.monotonic()

    def _more(self) -> bool:
        """Whether something can still become ready: a job waits for one that is."""
        return bool({"ready", "waiting"} & set(self._states.values()))

    def _hand_out(self) -> None:
        self._look()
        now = time.monotonic()
        for job in self.board.jobs:
            free = job.id not in self.running and self._elsewhere.get(job.id, 0.0) <= now
            if free and self._states[job.id] == "ready" and self.start(job):
                self.running[job.id] = now

    def _cut_overdue(self) -> None:
        limit = self.patience.timeout
        if limit is None:
            return
        for job, began in list(self.running.items()):
            if time.monotonic() - began > limit:
                self.cut(self._jobs[job], f"took longer than {limit:g} s")

    def heard(self, event: Event) -> bool:
        """Pass an event on; whether it ends a job."""
        name, job = event["event"], self._jobs.get(event.get("id", ""))
        if job is None or name not in ("finished", "failed", "stopped", "elsewhere"):
            self.show(event)
            return False
        self.running.pop(job.id, None)
        if name == "elsewhere":
            self._refused[job.id] += 1
            self._elsewhere[job.id] = time.monotonic() + min(_LONGEST, _AGAIN * self._refused[job.id])
            return True
        if name == "failed" and event.get("retry") and self._try_again(job):
            self.board.store.clear_failure(job)
            self.show({**event, "event": "retrying"})
        else:
            self.show(event)
        return True

    def crashed(self, job: Job, error: str, tail: str = "", **about: Any) -> None:
        """A job's process ended without a word: try again, or note the failure."""
        self.running.pop(job.id, None)
        event: Event = {"id": job.id, "kind": job.kind, "label": job.label, "error": error, **about}
        if self._try_again(job):
            self.show({"event": "retrying", **event})
            return
        attempts = self._attempts[job.id]
        if attempts > 1:
            event["error"] = error = f"{error} ({plural(attempts, 'attempt')})"
        try:
            with self.board.store.lock(job) as held:  # else another worker has taken it over
                if held and self.board.state(job) != "done":
                    self.board.store.write_failure(job, error, tail)
        except StoreError as fault:
            event["error"] = f"{error}; {fault}"
        self.show({"event": "died", **event})

    def _try_again(self, job: Job) -> bool:
        self._attempts[job.id] += 1
        return self._attempts[job.id] <= self.patience.retries
