"""The local executor: worker processes on this machine, their events, and their deaths. No torch."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qscale
from qscale.errors import StoreError
from qscale.sweep import files
from qscale.sweep.board import Board
from qscale.sweep.jobs import Job
from qscale.sweep.stopping import StopSignal

Event = dict[str, Any]

#: Glibc gives memory back to the system and asks for it again at every step; measured 10% slower.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a study stands when its executor is done."""

    runs: int
    done: int
    failed: int  #: runs and trunks that failed in this or another process
    blocked: int  #: runs that need something that failed
    died: int  #: workers that ended by no wish of ours
    diverged: int  #: of those done; they are left out of fits
    stopped: bool

    @property
    def exit_code(self) -> int:
        """0 all done; 130 stopped on request; 1 anything else."""
        if self.stopped and self.done < self.runs:
            return 130
        return 0 if self.done == self.runs and not self.died else 1


def outcome(board: Board, *, stopped: bool, died: int = 0) -> Outcome:
    """Count the jobs by their states now."""
    states = board.look()
    runs = [states[run_id] for run_id in board.runs]
    return Outcome(
        runs=len(runs),
        done=runs.count("done"),
        failed=list(states.values()).count("failed"),
        blocked=runs.count("blocked"),
        died=died,
        diverged=len(board.diverged),
        stopped=stopped,
    )


def retry_failures(board: Board) -> None:
    """Forget earlier failures, so that this run tries those jobs again."""
    for job in board.jobs:
        if board.store.failure(job) is not None:
            board.store.clear_failure(job)


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(eq=False)
class _Worker:
    """A worker process, what it holds, and where it writes."""

    index: int
    process: subprocess.Popen[str]
    log: Path
    log_start: int
    job: str | None = None
    said_exit: bool = False
    reader: threading.Thread = field(init=False)

    def tail(self) -> str:
        """The end of what it wrote on stderr since it was started."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self.log_start, self.log.stat().st_size - 4000))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""


class LocalExecutor:
    """Runs a study's jobs in worker processes, one thread each.

    The first stop signal lets the workers finish a step and write checkpoints; the second kills them.
    No worker is restarted: what killed one may well kill the next, and running again resumes.
    """

    def __init__(
        self,
        board: Board,
        show: Callable[[Event], None],
        *,
        workers: int,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self.board = board
        self.show = show
        self.count = workers
        self.threads = threads
        self.device = device
        self.died = 0
        self._events: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._jobs: dict[str, Job] = {job.id: job for job in board.jobs}

    def run(self, stop: StopSignal) -> Outcome:
        """Work until nothing is left to do; ``stop`` is entered by the caller."""
        undone = sum(state != "done" for state in self.board.look().values())
        alive: set[_Worker] = set()
        told = 0
        try:
            if count := min(self.count, undone):
                self.show({"event": "starting", "workers": count})
            for index in range(count):
                alive.add(self._start(index))
            while alive:
                if stop.count > told:
                    told = stop.count
                    self._stop(alive, signal.SIGTERM if told == 1 else signal.SIGKILL)
                try:
                    worker, line = self._events.get(timeout=0.1)
                except queue.Empty:
                    continue
                if line is None:
                    alive.discard(worker)
                    self._ended(worker, told > 0)
                else:
                    self._heard(worker, line)
        finally:
            for worker in alive:  # we are failing ourselves: leave nothing behind
                _signal(worker, signal.SIGKILL)
                worker.process.wait()
        return outcome(self.board, stopped=told > 0, died=self.died)

    def _start(self, index: int) -> _Worker:
        command = [sys.executable, "-m", "qscale.sweep.worker", str(self.board.store.path)]
        command += ["--worker", str(index), "--threads", str(self.threads)]
        command += ["--device", self.device, "--parent", str(os.getpid())]
        log = self.board.store.path / "logs" / f"worker-{index}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stderr:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=_environment(self.threads),
                    start_new_session=True,  # Ctrl-C reaches us alone, and a kill reaches all of it
                    text=True,
                )
                worker = _Worker(index, process, log, stderr.tell())
        except OSError as error:
            raise files.store_error("start a worker, whose log is", log, error) from error
        worker.reader = threading.Thread(target=self._read, args=(worker,), daemon=True)
        worker.reader.start()
        return worker

    def _read(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self._events.put((worker, line))
        worker.process.wait()
        self._events.put((worker, None))

    def _stop(self, alive: set[_Worker], number: signal.Signals) -> None:
        self.show({"event": "stopping", "killed": number == signal.SIGKILL})
        for worker in alive:
            _signal(worker, number)

    def _heard(self, worker: _Worker, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return  # a torn line of a worker that was killed while writing
        if event["event"] == "started":
            worker.job = event["id"]
        elif event["event"] in ("finished", "failed", "stopped"):
            worker.job = None
        elif event["event"] == "exit":
            worker.said_exit = True
            self.died += event["error"] is not None
        self.show(event)

    def _ended(self, worker: _Worker, told: bool) -> None:
        """Report a worker that ended without a word, and mark the job that it held as failed."""
        assert worker.process.stdout is not None
        worker.process.stdout.close()
        ours = told and worker.process.returncode in (-signal.SIGTERM, -signal.SIGKILL)
        if worker.said_exit or ours:
            return
        self.died += 1
        error = f"worker {worker.index} {_cause(worker.process.returncode)}"
        tail = worker.tail()
        job = None if worker.job is None else self._jobs.get(worker.job)
        if tail and job is None:
            error += f": {tail.splitlines()[-1]}"
        event: Event = {"event": "died", "worker": worker.index, "error": error}
        if job is not None:
            event |= {"id": job.id, "kind": job.kind, "label": job.label}
            try:
                with self.board.store.lock(job) as held:  # else another worker has taken it over
                    if held and self.board.state(job) != "done":
                        self.board.store.write_failure(job, error, tail)
            except StoreError as fault:
                event["error"] = f"{error}; {fault}"
        self.show(event)


def _environment(threads: int) -> dict[str, str]:
    """The worker's environment: our own code first, no code from the current folder, quiet allocators."""
    root = str(Path(qscale.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = dict.fromkeys(_THREADS, str(threads))
    return {**_MALLOC, **os.environ, **fixed, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _signal(worker: _Worker, number: signal.Signals) -> None:
    try:
        os.killpg(worker.process.pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile


def _cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL; the system does that when memory runs out)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
