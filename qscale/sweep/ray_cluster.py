"""The Ray executor: jobs as tasks of a cluster whose machines share the study's folder. No torch."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from typing import Any

from qscale.errors import ConfigError
from qscale.sweep import files, worker
from qscale.sweep.board import Board, last_step
from qscale.sweep.dispatch import Event, Executor, Patience
from qscale.sweep.jobs import Job
from qscale.sweep.needs import memory_of

_LOOK = 1.0  # seconds between two looks at what a stop asks, or at the curves of running jobs
#: Tasks handed to Ray for each that the cluster could run: some more, so that no node waits for us.
_AHEAD = 2


class RayExecutor(Executor):
    """Runs jobs as Ray tasks, each with the CPUs, memory and GPU that it needs.

    Every machine sees the study's folder under the same path, and has qscale installed. A task that is lost
    with its node is handed out again, as often as told, and goes on from its last checkpoint in the folder.

    Args:
        board: The study.
        show: Told of every event; steps are read from the curves in the folder.
        patience: Retries and timeout.
        address: Of the cluster, such as ``auto`` or ``ray://head:10001``; None starts Ray on this machine.
        threads: Of each job.
        device: ``cpu``, or ``cuda`` for a GPU each.

    Raises:
        ConfigError: Ray is not installed or not to be reached, or no machine has what a job needs.
    """

    def __init__(
        self,
        board: Board,
        show: Callable[[Event], None],
        patience: Patience | None = None,
        *,
        address: str | None = None,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__(board, show, patience or Patience())
        if find_spec("ray") is None:
            raise ConfigError("--executor ray needs Ray, which is not installed: pip install 'qscale[ray]'")
        self.address = address
        self.threads = threads
        self.device = device
        self.folder = board.store.path.resolve()
        self._stop_file = self.folder / "logs" / f"stop-{uuid.uuid4().hex[:8]}"
        self._tasks: dict[Any, Job] = {}
        self._shown: dict[str, int] = {}  # job to the last step that was told
        self._seen: dict[str, tuple[int, float]] = {}  # job to a step and when it was seen
        self._room = 0
        self._polled = 0.0
        self._quiet = ExitStack()
        self._connected = False

    def begin(self, undone: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody's business
        log = self.folder / "logs" / "ray.log"
        try:
            log.parent.mkdir(exist_ok=True)
            # Ray prints what it has to say of lost nodes, many lines of it: stdout is for our events.
            self._quiet.enter_context(redirect_stdout(self._quiet.enter_context(log.open("a"))))
        except OSError as error:
            raise files.store_error("write", log, error) from error
        import ray

        if not ray.is_initialized():
            _check_reachable(self.address)
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                where, why = self.address or "this machine", str(error).strip().splitlines()[0]
                raise ConfigError(f"Ray cannot be reached at {where}: {why}") from error
            self._connected = True
        self._ray = ray
        self._attempt = ray.remote(worker.attempt)
        self._room = _AHEAD * self._slots()
        self.show({"event": "starting", "workers": min(self._room // _AHEAD, undone)})

    def _slots(self) -> int:
        """How many jobs the cluster can run at once; none of its machines may be too small for any."""
        needs = {job.id: self._resources(job) for job in self.board.jobs}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        kinds = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        for job in self.board.jobs:
            wanted = needs[job.id]
            if not any(all(node.get(kinds[k], 0) >= v for k, v in wanted.items()) for node in nodes):
                raise ConfigError(
                    f"no machine of the cluster has {wanted['num_cpus']} CPUs, {wanted['num_gpus']} GPUs and "
                    f"{wanted['memory'] / 1e9:.2g} GB for {job.label}"
                )
        kind, count = ("GPU", 1) if self.device != "cpu" else ("CPU", self.threads)
        return max(1, sum(int(node.get(kind, 0)) // count for node in nodes))

    def _resources(self, job: Job) -> dict[str, float]:
        return {
            "num_cpus": self.threads,
            "num_gpus": int(self.device != "cpu"),
            "memory": int(memory_of(job.config, device=self.device)),
        }

    def start(self, job: Job) -> bool:
        if len(self._tasks) >= self._room:
            return False
        # A lost task is ours to try again: the count of attempts is then one for all executors.
        options = {**self._resources(job), "max_retries": 0, "name": job.label}
        arguments = (str(self.folder), job.id, self.threads, self.device, str(self._stop_file))
        self._tasks[self._attempt.options(**options).remote(*arguments)] = job
        return True

    def hear(self) -> bool:
        if not self._tasks:
            time.sleep(0.1)
            return False
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=0.5)
        self._tell_steps()
        ended = False
        for task in done:
            job = self._tasks.pop(task)
            try:
                events = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self.crashed(job, _cause(error))
                ended = True
                continue
            for event in events:
                if event["event"] == "exit":
                    self.died += 1
                    self.running.pop(job.id, None)
                if event["event"] != "started" or job.id not in self._shown:
                    ended |= self.heard(event)
        return ended

    def _tell_steps(self) -> None:
        """What the curves in the folder say of the jobs that run."""
        if time.monotonic() - self._polled < _LOOK:
            return
        self._polled = time.monotonic()
        for job in self._tasks.values():
            row = last_step(self.board.store.folder(job))
            if not row or self._shown.get(job.id) == row["step"]:
                continue
            about: Event = {"id": job.id, "kind": job.kind, "label": job.label}
            if job.id not in self._shown:
                self.show({"event": "started", **about})
            self._shown[job.id] = row["step"]
            steps = job.steps[-1] if job.kind == "trunk" else job.config.steps
            before, since = self._seen.get(job.id, (row["step"], self._polled))
            self._seen[job.id] = (row["step"], self._polled)
            if row["step"] > before:  # not at the first look, nor where a lost task took steps again
                steps_per_second = (row["step"] - before) / (self._polled - since)
                row["tokens_per_second"] = steps_per_second * job.config.tokens_per_step
            self.show({"event": "step", **about, **row, "steps": steps})

    def stop(self, *, kill: bool) -> None:
        files.write_whole(self._stop_file, "")
        for task, job in list(self._tasks.items()):
            if kill:
                self._ray.cancel(task, force=True)
                self.running.pop(job.id, None)
                del self._tasks[task]

    def cut(self, job: Job, why: str) -> None:
        for task, held in list(self._tasks.items()):
            if held is job:
                self._ray.cancel(task, force=True)
                del self._tasks[task]
                self.crashed(job, why)

    def end(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._stop_file.unlink(missing_ok=True)
        if self._connected:
            self._ray.shutdown()  # before stdout is ours again: it prints from a thread
        self._quiet.close()


def _check_reachable(address: str | None) -> None:
    """Knock where an address names a port: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"Ray cannot be reached at {address}: {error}; see: ray status") from error


def _cause(error: Exception) -> str:
    """Ray's errors in one line."""
    name = type(error).__name__
    known = {
        "NodeDiedError": "its node was lost",
        "WorkerCrashedError": "its process was killed",
        "OutOfMemoryError": "its process was killed: the node had run out of memory",
        "TaskCancelledError": "it was cancelled",
    }
    return known.get(name) or f"{name}: {' '.join(str(error).split())[:300]}"
