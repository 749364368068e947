"""Doing jobs: one that is told, or in this process one after another.

``python -m qscale.sweep.worker STUDY --worker 0`` is a worker process: on its stdin it is told the id of a
job a line, its stdout is one JSON event a line and nothing else. ``work`` does whatever can be done now in
this process. The only file of sweep that reaches training, with ``post_training.py`` that it calls, and it
does so inside functions: torch loads with the first job, not with a plan.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qscale.errors import ConfigError, QScaleError, StoreError
from qscale.records import RecordVersionError
from qscale.sweep import files
from qscale.sweep.board import Board
from qscale.sweep.corpora import Corpora
from qscale.sweep.jobs import Job, jobs
from qscale.sweep.stopping import StopSignal
from qscale.sweep.store import Store
from qscale.training import paths
from qscale.training.how import Emit, How
from qscale.training.monitor import DivergedError

Event = dict[str, Any]
#: Does one job; False when it was stopped before its end.
Execute = Callable[[Job, Board, Corpora, How], bool]

_POLL = 0.2  # seconds between two looks for a job; longer while there is none
_LONGEST_POLL = 2.0
_STOP_LOOK = 1.0  # seconds between two looks for the file that asks to stop


def run_job(job: Job, board: Board, corpora: Corpora, how: How) -> bool:
    """Train one trunk or one branch, and write the record of a branch."""
    from qscale.training import loop
    from qscale.training.result import diverged_record

    store = board.store
    if job.kind == "trunk":
        return _run_trunk(job, board, corpora, how)
    corpus = corpora.of(job.config)
    if job.source_id is not None:
        source = store.record(job.source_id)
        if source is not None and source.diverged:
            if how.ranks.is_main:
                step = source.diverged_step or 0
                store.write_record(diverged_record(job.config, corpus, how.device, step))
            return True
        start = store.run_folder(job.source_id)
    else:
        assert job.trunk_id is not None
        start = store.trunk_folder(job.trunk_id)
    baseline = None if job.baseline_id is None else store.record(job.baseline_id)
    if job.baseline_id is not None and baseline is None:
        raise StoreError(f"the record of the baseline {job.baseline_id} is gone; run again")
    losses = None
    if baseline is not None and not baseline.diverged:
        losses = paths.eval_losses(store.run_folder(baseline.run_id))
    run = loop.run_branch
    if job.config.method is not None:
        from qscale.sweep import post_training

        run = post_training.run_pass
    record = run(
        job.config,
        store.run_folder(job.id),
        start,
        corpus,
        how,
        baseline=baseline,
        baseline_losses=losses,
    )
    if record is None:
        return False
    if how.ranks.is_main:
        store.write_record(record)
    return True


def _run_trunk(job: Job, board: Board, corpora: Corpora, how: How) -> bool:
    """Train a trunk; where it diverges, so did every run that has yet to leave it."""
    from qscale.training import loop
    from qscale.training.result import diverged_record

    steps, folder, corpus = board.missing_steps(job), board.store.trunk_folder(job.id), corpora.of(job.config)
    if not steps:  # what needed them was done by another worker meanwhile
        return True
    try:
        return loop.run_trunk(job.config, steps, folder, corpus, how)
    except DivergedError as error:
        if not how.ranks.is_main:
            return True
        stranded = board.stranded(job)
        for run in stranded:
            board.store.write_config(run)
            board.store.write_record(diverged_record(run.config, corpus, how.device, error.step))
        runs = [run.id for run in stranded]
        how.emit({"event": "diverged", "label": job.label, "step": error.step, "runs": runs})
        return True


def work(
    board: Board,
    corpora: Corpora,
    how: How,
    execute: Execute = run_job,
) -> None:
    """Do jobs until all are done, none can be done because of failures, or a stop is asked for.

    Raises:
        StoreError: The store cannot be written, for one a full disk: no other job could do better.
    """
    pause = _POLL
    while not how.should_stop():
        states = board.look()
        for job in board.jobs:
            if states[job.id] == "ready" and _take(job, board, corpora, how, execute):
                pause = _POLL
                break
        else:
            # A job that waits needs one that is ready, and another worker has that one.
            if not {"ready", "waiting"} & set(states.values()):
                return
            _rest(pause, how.should_stop)
            pause = min(2 * pause, _LONGEST_POLL)


def serve(board: Board, corpora: Corpora, how: How, asked: Iterable[str]) -> None:
    """Do the jobs whose ids are told; each ends with ``finished``, ``failed``, ``stopped`` or ``elsewhere``.

    Raises:
        StoreError: As for :func:`work`.
    """
    found = {job.id: job for job in board.jobs}
    for line in asked:
        job = found.get(line.strip())
        if job is not None and not _take(job, board, corpora, how, run_job):
            how.emit({"event": "elsewhere", "id": job.id})
        if how.should_stop():
            return


def attempt(folder: str, job_id: str, threads: int, device: str, stop_file: str) -> list[Event]:
    """One attempt at a job, on whatever machine this runs; returns what it had to say, but for steps.

    It stops, with a checkpoint, when the file ``stop_file`` appears.
    """
    events: list[Event] = []
    looked, stopping = float("-inf"), False

    def should_stop() -> bool:
        nonlocal looked, stopping
        if time.monotonic() - looked > _STOP_LOOK:
            looked, stopping = time.monotonic(), Path(stop_file).exists()
        return stopping

    def emit(event: Event) -> None:
        if event["event"] != "step":
            events.append(event)

    try:
        store = Store(folder, lambda line: emit({"event": "note", "text": line}))
        board = Board(store, jobs(store.runs()))
        set_threads(threads)
        serve(board, Corpora(store), How(device=device, emit=emit, should_stop=should_stop), [job_id])
    except QScaleError as error:
        emit({"event": "exit", "worker": job_id, "error": str(error)})
    return events


def lead(board: Board, corpora: Corpora, how: How) -> None:
    """:func:`work` with the processes that train together; each does every job, and this one writes.

    Raises:
        StoreError: As for :func:`work`.
    """

    def execute(job: Job, board: Board, corpora: Corpora, how: How) -> bool:
        how.ranks.tell(job.id)
        return run_job(job, board, corpora, how)

    try:
        work(board, corpora, how, execute)
    finally:
        how.ranks.tell(None)


def follow(board: Board, corpora: Corpora, how: How) -> None:
    """The other processes: do what :func:`lead` says until it says no more."""
    found = {job.id: job for job in board.jobs}
    while (job := how.ranks.tell(None)) is not None:
        run_job(found[job], board, corpora, how)


def _rest(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Sleep, unless a stop is asked for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not should_stop():
        time.sleep(_POLL)


def _take(job: Job, board: Board, corpora: Corpora, how: How, execute: Execute) -> bool:
    """Try to do one job; False where another process has it, or had it and is done."""

    def tell(event: Event) -> None:
        how.emit({**event, "id": job.id})

    with board.store.lock(job) as held:
        if not held or board.state(job) != "ready":  # it may have changed before the lock was ours
            return False
        paths.clear_unfinished(board.store.folder(job))
        if job.kind == "run":
            board.repair(job)
        board.store.write_config(job)
        tell({"event": "started", "kind": job.kind, "label": job.label})
        began = time.monotonic()
        try:
            finished = execute(job, board, corpora, replace(how, emit=tell))
        except RecordVersionError:  # no failure of this job: nobody should go on here
            raise
        except Exception as error:  # whatever one job dies of, the others go on
            _fail(job, board, error, tell)
            return True
        if not finished:
            tell({"event": "stopped", "label": job.label})
            return True
        event: Event = {"event": "finished", "kind": job.kind, "label": job.label}
        if (record := board.store.record(job.id)) is not None:
            event |= {key: getattr(record, key) for key in ("loss", "delta", "delta_se", "diverged")}
        tell({**event, "seconds": round(time.monotonic() - began, 3)})
        return True


def _fail(job: Job, board: Board, error: Exception, tell: Emit) -> None:
    """Note a failure in the job's folder, so that its dependents and the next run know."""
    text = str(error) if isinstance(error, QScaleError) else f"{type(error).__name__}: {error}"
    if files.is_disk_full(error):
        raise StoreError(
            f"the disk is full ({job.label}): free some space and run the same command again; "
            "what is done is kept"
        ) from error
    board.store.write_failure(job, text, "".join(traceback.format_exception(error)))
    again = not isinstance(error, QScaleError)  # what we understand would be the same the next time
    tell({"event": "failed", "kind": job.kind, "label": job.label, "error": text, "retry": again})


def main(arguments: list[str] | None = None) -> int:
    """The worker process; the exit code is 0 unless it could not go on."""
    parser = argparse.ArgumentParser(prog="python -m qscale.sweep.worker", description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parent", type=int, help="stop when this process is no longer the parent")
    options = parser.parse_args(arguments)
    # Whatever a library prints goes to stderr: stdout carries events only.
    events = os.dup(1)
    os.dup2(2, 1)
    listener_gone = False

    def emit(event: Event) -> None:
        nonlocal listener_gone
        try:
            os.write(events, json.dumps({"worker": options.worker, **event}).encode() + b"\n")
        except BrokenPipeError:
            listener_gone = True  # stop as if asked to: with a checkpoint

    with StopSignal() as stop:

        def should_stop() -> bool:
            orphan = options.parent is not None and os.getppid() != options.parent
            return stop() or listener_gone or orphan

        emit({"event": "worker", "pid": os.getpid()})
        try:
            return _main(options, emit, should_stop)
        except QScaleError as error:
            emit({"event": "exit", "error": str(error)})
            return 1


def _main(options: argparse.Namespace, emit: Emit, should_stop: Callable[[], bool]) -> int:
    store = Store(options.study, lambda line: emit({"event": "note", "text": line}))
    board = Board(store, jobs(store.runs()))
    set_threads(options.threads)
    # Through readline: iterating a file reads ahead, and waits for more than the line that is there.
    asked = iter(sys.stdin.readline, "")
    serve(board, Corpora(store), How(device=options.device, emit=emit, should_stop=should_stop), asked)
    emit({"event": "exit", "error": None})
    return 0


def check_device(device: str) -> None:
    """Make sure that models can train on a device, named as torch names it.

    Raises:
        ConfigError: No such device here.
    """
    if device == "cpu":
        return
    import torch

    try:
        parsed = torch.device(device)
        module = torch.get_device_module(parsed)
        if parsed.type != "cpu" and not module.is_available():
            raise ConfigError(
                f"device {device!r}: torch finds none here; 'qscale doctor' shows what is there"
            )
        if (parsed.index or 0) >= (count := module.device_count()):
            raise ConfigError(f"device {device!r}: torch finds {count} here, counted from 0")
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used: {reason}; use cpu or cuda") from error


def set_threads(count: int) -> None:
    """Threads of one job: part of what makes its bits."""
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    sys.exit(main())
