"""The local executor: worker processes on this machine, what they may use, and their deaths. No torch."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import qscale
from qscale.sweep import files, machine
from qscale.sweep.board import Board
from qscale.sweep.dispatch import Event, Executor, Patience
from qscale.sweep.jobs import Job
from qscale.sweep.needs import memory_of

#: Glibc gives memory back to the system and asks for it again at every step; measured 10% slower.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(eq=False)
class _Worker:
    """A worker process, what it holds, and where it writes."""

    index: int
    process: subprocess.Popen[str]
    log: Path
    log_start: int
    job: Job | None = None
    began: bool = False  #: it has said something
    said_exit: bool = False
    cut: str = ""  #: why we killed it
    reader: threading.Thread = field(init=False)

    def tail(self) -> str:
        """The end of what it wrote on stderr since it was started."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self.log_start, self.log.stat().st_size - 4000))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def send(self, line: str) -> None:
        """Hand it a line; one that has died is noticed by its end."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            return

    def kill(self, number: signal.Signals) -> None:
        """Signal all of its process group."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return  # it ended meanwhile


class LocalExecutor(Executor):
    """Runs a study's jobs in worker processes of some threads each.

    A job is handed out when a worker is idle and the memory that it needs is free. A worker that dies is
    replaced; its job is tried again as often as told.

    Args:
        board: The study.
        show: Told of every event.
        patience: Retries and timeout.
        workers: Processes at most.
        threads: Of each.
        device: Where models train; ``cuda`` gives each worker a card of its own while there are enough.
        memory: Bytes that all workers may use together; None for what the machine has free.
    """

    def __init__(
        self,
        board: Board,
        show: Callable[[Event], None],
        patience: Patience | None = None,
        *,
        workers: int,
        threads: int = 1,
        device: str = "cpu",
        memory: float | None = None,
    ) -> None:
        super().__init__(board, show, patience or Patience())
        self.count = workers
        self.threads = threads
        self.device = device
        self.memory = memory
        self.cards: Sequence[str] = machine.cards() if device == "cuda" else ()
        self._workers: dict[int, _Worker] = {}
        self._events: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._needs = {job.id: memory_of(job.config, device=device) for job in board.jobs}
        self._stopping = False
        self._waits_for_memory: set[str] = set()

    def begin(self, undone: int) -> None:
        if count := min(self.count, undone):
            self.show({"event": "starting", "workers": count})
        for index in range(count):
            self._workers[index] = self._spawn(index)

    def start(self, job: Job) -> bool:
        idle = [worker for worker in self._workers.values() if worker.job is None and not worker.said_exit]
        free = [index for index in range(self.count) if index not in self._workers]
        if not (idle or free) or not self._fits(job):
            return False
        worker = idle[0] if idle else self._spawn(free[0])
        self._workers[worker.index] = worker
        worker.job = job
        worker.send(job.id)
        return True

    def _fits(self, job: Job) -> bool:
        """Whether the job's memory is free beside what runs; alone it runs in any case."""
        busy = [worker for worker in self._workers.values() if worker.job is not None]
        if not busy:
            return True
        need = self._needs[job.id]
        needs = [self._needs[worker.job.id] for worker in busy if worker.job is not None]
        # What a job has yet to take of what it needs is free for nobody.
        held = [machine.memory_of(worker.process.pid) for worker in busy]
        owed = sum(max(0.0, all_of - has) for all_of, has in zip(needs, held, strict=True))
        fits = need + owed <= machine.memory_free()
        if self.memory is not None:
            fits &= need + sum(needs) <= self.memory
        if not fits and job.id not in self._waits_for_memory:
            self._waits_for_memory.add(job.id)
            text = f"{job.label} waits: it needs about {need / 1e9:.2g} GB, and what runs needs the rest"
            self.show({"event": "note", "text": text})
        return fits

    def hear(self) -> bool:
        try:
            worker, line = self._events.get(timeout=0.1)
        except queue.Empty:
            return False
        if line is None:
            return self._ended(worker)
        try:
            event = json.loads(line)
        except ValueError:
            return False  # a torn line of a worker that was killed while writing
        worker.began = True
        if event["event"] == "exit":
            worker.said_exit = True
            self.died += event["error"] is not None
        if not self.heard(event):
            return False
        worker.job = None
        return True

    def stop(self, *, kill: bool) -> None:
        self._stopping = True
        for worker in self._workers.values():
            worker.kill(signal.SIGKILL if kill else signal.SIGTERM)
            _close(worker)

    def cut(self, job: Job, why: str) -> None:
        for worker in self._workers.values():
            if worker.job is job and not worker.cut:
                worker.cut = why
                worker.kill(signal.SIGKILL)

    def end(self) -> None:
        for worker in self._workers.values():  # idle ones leave when nothing more can come
            _close(worker)
            if worker.job is not None:  # we are failing ourselves
                worker.kill(signal.SIGKILL)
        for worker in self._workers.values():
            try:
                worker.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill(signal.SIGKILL)
                worker.process.wait()
        self._workers.clear()

    def _spawn(self, index: int) -> _Worker:
        command = [sys.executable, "-m", "qscale.sweep.worker", str(self.board.store.path)]
        command += ["--worker", str(index), "--threads", str(self.threads)]
        command += ["--device", self.device, "--parent", str(os.getpid())]
        log = self.board.store.path / "logs" / f"worker-{index}.log"
        card = {"CUDA_VISIBLE_DEVICES": self.cards[index % len(self.cards)]} if self.cards else {}
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stderr:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=_environment(self.threads) | card,
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

    def _ended(self, worker: _Worker) -> bool:
        """Take note of a worker's end; whether a job ended with it."""
        assert worker.process.stdout is not None
        worker.process.stdout.close()
        _close(worker)
        if self._workers.get(worker.index) is worker:
            del self._workers[worker.index]
        job, code = worker.job, worker.process.returncode
        ours = self._stopping and code in (-signal.SIGTERM, -signal.SIGKILL)
        if worker.said_exit or ours:
            if job is not None:
                self.running.pop(job.id, None)
            return job is not None
        error = f"worker {worker.index} {worker.cut or _cause(code)}"
        tail = worker.tail()
        if job is None and (worker.began or code < 0):
            self.show({"event": "note", "text": f"{error} while it was idle: another takes its place"})
            return False
        if job is None or not (worker.began or code < 0):
            self.died += 1  # it could not even begin: nor could another
            last = f": {tail.splitlines()[-1]}" if tail else ""
            self.show({"event": "died", "worker": worker.index, "error": error + last})
            if job is not None:
                self.running.pop(job.id, None)
            return False
        if code == -signal.SIGKILL and not worker.cut:
            self._needs[job.id] *= 2  # it may have been the memory: let it have more to itself
        self.crashed(job, error, tail, worker=worker.index)
        return True


def _close(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    try:
        worker.process.stdin.close()
    except OSError:
        return  # what was still to be written has no reader


def _environment(threads: int) -> dict[str, str]:
    """The worker's environment: our own code first, no code from the current folder, quiet allocators."""
    root = str(Path(qscale.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = dict.fromkeys(_THREADS, str(threads))
    return {**_MALLOC, **os.environ, **fixed, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL; the system does that when memory runs out)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
