"""What executors share: who gets which job when, and what becomes of jobs that end badly."""

import io
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from sweep.studies import TEXT, board_at, finish
from sweep.test_worker import pretend

from qscale.sweep import local, machine, needs
from qscale.sweep.board import Board
from qscale.sweep.dispatch import Executor, Patience
from qscale.sweep.grid import Study
from qscale.sweep.local import LocalExecutor
from qscale.sweep.progress import sentence
from qscale.training.config import RunConfig
from qscale.units import parse_time

STAY = SimpleNamespace(count=0)


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study", TEXT + "seeds: [0, 1]\n")


class Pretender(Executor):
    """Slots that do a job at once, or fail it as told."""

    def __init__(self, board, slots=2, fate=lambda _job, _attempt: "done", patience=None):
        self.events, self.order, self.together = [], [], 0
        super().__init__(board, self.events.append, patience or Patience())
        self.slots, self.fate = slots, fate
        self.tries = {}
        self.held = []

    def begin(self, undone):
        self.undone = undone

    def start(self, job):
        if len(self.held) == self.slots:
            return False
        self.held.append(job)
        self.order.append(job.label)
        self.together = max(self.together, len(self.held))
        return True

    def hear(self):
        if not self.held:
            return False
        job = self.held.pop(0)
        self.tries[job.id] = self.tries.get(job.id, 0) + 1
        fate = self.fate(job, self.tries[job.id])
        if fate == "crash":
            self.crashed(job, "worker 0 was killed", "the end of its log")
            return True
        if fate == "done":
            pretend(job, self.board, None, None)
            fate = "finished"
        event = {"event": fate, "id": job.id, "kind": job.kind, "label": job.label}
        if fate == "failed":
            self.board.store.write_failure(job, "ValueError: went wrong")
            event |= {"error": "ValueError: went wrong", "retry": True}
        return self.heard(event)

    def stop(self, *, kill):
        self.stopped = kill

    def cut(self, job, why):
        self.held.remove(job)
        self.crashed(job, why)

    def end(self):
        self.ended = True


def named(executor, event):
    return [each["label"] for each in executor.events if each["event"] == event]


def test_all_jobs_are_done_trunks_first_and_no_job_before_what_it_needs(board):
    executor = Pretender(board, slots=3)
    ended = executor.run(STAY)
    assert (ended.done, ended.runs, ended.exit_code, executor.undone) == (12, 12, 0, 14)
    assert sorted(executor.order) == sorted(job.label for job in board.jobs)
    assert executor.together == 3
    place = {label: i for i, label in enumerate(executor.order)}
    for job in board.runs.values():
        for needed in (job.trunk_id, job.baseline_id):
            other = board.trunks.get(needed) or board.runs.get(needed)
            assert other is None or place[other.label] < place[job.label]


def test_a_job_that_crashes_is_tried_again_and_then_noted_with_its_log(board):
    bad = board.jobs[0]
    executor = Pretender(board, fate=lambda job, _: "crash" if job is bad else "done")
    ended = executor.run(STAY)
    assert executor.tries[bad.id] == 2
    assert named(executor, "retrying") == named(executor, "died") == [bad.label]
    assert (ended.done, ended.failed, ended.blocked, ended.exit_code) == (6, 1, 6, 1)
    assert board.store.failure(bad) == "worker 0 was killed (2 attempts)"
    note = json.loads((board.store.folder(bad) / "failure.json").read_text())
    assert note["tail"] == "the end of its log"


@pytest.mark.parametrize("fate", ["crash", "failed"])
def test_a_job_that_crashes_once_is_done_after_all(board, fate):
    executor = Pretender(board, fate=lambda _, attempt: fate if attempt == 1 else "done")
    ended = executor.run(STAY)
    assert (ended.done, ended.failed, ended.exit_code) == (12, 0, 0)
    assert set(executor.tries.values()) == {2}
    assert all(sentence(event) for event in executor.events if event["event"] == "retrying")


def test_without_retries_a_crash_is_final(board):
    executor = Pretender(board, fate=lambda *_: "crash", patience=Patience(retries=0))
    assert executor.run(STAY).failed == 2
    assert set(executor.tries.values()) == {1}


def test_a_job_of_another_driver_is_offered_again_later(board, monkeypatch):
    now = itertools.count(0.0, 0.3)
    monkeypatch.setattr("qscale.sweep.dispatch.time.monotonic", lambda: next(now))
    busy = board.jobs[0]
    executor = Pretender(board, fate=lambda job, n: "elsewhere" if job is busy and n < 3 else "done")
    assert executor.run(STAY).done == 12
    assert executor.tries[busy.id] == 3 and named(executor, "elsewhere") == []


def test_a_job_that_takes_too_long_is_cut_and_tried_again(board, monkeypatch):
    now = itertools.count(0.0, 1.0)
    monkeypatch.setattr("qscale.sweep.dispatch.time.monotonic", lambda: next(now))
    slow = board.jobs[0]
    executor = Pretender(board, slots=1, patience=Patience(timeout=20))
    hear = executor.hear
    monkeypatch.setattr(executor, "hear", lambda: executor.held != [slow] and hear())
    ended = executor.run(STAY)
    assert named(executor, "retrying") == named(executor, "died") == [slow.label]
    assert board.store.failure(slow) == "took longer than 20 s (2 attempts)"
    assert (ended.done, ended.blocked) == (6, 6)


def test_nothing_starts_after_a_stop(board):
    stop = SimpleNamespace(count=1)
    executor = Pretender(board)
    ended = executor.run(stop)
    assert (executor.order, executor.stopped, executor.ended) == ([], False, True)
    assert (ended.stopped, ended.exit_code) == (True, 130)


def test_what_no_job_can_go_on_after_starts_nothing_more(board):
    executor = Pretender(board, slots=1)
    executor.died = 1
    assert executor.run(STAY).died == 1 and executor.order == []


# The local executor


def dead(job, code=-9, **changes):
    process = SimpleNamespace(stdout=io.StringIO(), stdin=io.StringIO(), returncode=code)
    known = {"index": 0, "process": process, "job": job, "began": True, "said_exit": False, "cut": ""}
    known["tail"] = lambda: "x"
    return SimpleNamespace(**known | changes)


def test_a_dead_workers_job_that_another_has_taken_is_not_marked_as_failed(board):
    executor = LocalExecutor(board, lambda _: None, Patience(retries=0), workers=1)
    job = board.jobs[0]
    need = executor._needs[job.id]
    with board.store.lock(job):
        assert executor._ended(dead(job))
    assert board.store.failure(job) is None
    executor._ended(dead(job))
    assert "SIGKILL" in board.store.failure(job)
    assert executor._needs[job.id] == 4 * need, "killed twice: it may have been its memory"
    executor._ended(dead(job, cut="took longer than 5 s"))
    assert board.store.failure(job).startswith("worker 0 took longer than 5 s")
    assert executor._needs[job.id] == 4 * need


def test_a_worker_that_cannot_even_begin_ends_the_work(board):
    events = []
    executor = LocalExecutor(board, events.append, workers=1)
    job = board.jobs[0]
    executor.running[job.id] = 0.0
    late = dead(job, code=1, began=False, tail=lambda: "a\nImportError: no torch")
    assert not executor._ended(late)
    assert executor.fatal and not executor.running
    assert events[0]["error"] == "worker 0 ended with exit code 1: ImportError: no torch"
    assert board.store.failure(job) is None, "it is none of the job's"


def test_an_idle_worker_that_is_killed_is_replaced(board):
    events = []
    executor = LocalExecutor(board, events.append, workers=1)
    assert not executor._ended(dead(None))
    assert not executor.fatal
    assert "while it was idle: another takes its place" in events[0]["text"]


def test_jobs_that_do_not_fit_do_not_run_together(board, monkeypatch):
    events = []
    executor = LocalExecutor(board, events.append, workers=2)
    first, second = board.jobs[:2]
    busy = SimpleNamespace(job=first, process=SimpleNamespace(pid=0))
    need = executor._needs[second.id]
    monkeypatch.setattr(machine, "memory_of", lambda _: need / 2)
    monkeypatch.setattr(machine, "memory_free", lambda: 1.4 * need)
    assert executor._fits(second), "alone it runs in any case"
    executor._workers[0] = busy
    assert not executor._fits(second), "the first is still to take half of its own"
    assert not executor._fits(second)
    monkeypatch.setattr(machine, "memory_free", lambda: 1.6 * need)
    assert executor._fits(second)
    executor.memory = 1.9 * need
    assert not executor._fits(second)
    assert [event["event"] for event in events] == ["note"]
    assert "waits: it needs about" in events[0]["text"]


def test_each_worker_has_a_card_of_its_own(board, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    started = []

    def popen(command, env, **_):
        started.append(env["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(stdout=io.StringIO(), wait=lambda: 0)

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    executor = LocalExecutor(board, print, workers=3, device="cuda")
    for index in range(3):
        executor._spawn(index)
    assert started == ["3", "5", "3"]


def test_threads_grow_with_the_model_and_not_beside_a_gpu():
    (small,) = Study.parse("{sizes: [tiny-985k], tokens: [1M]}").grids[0].sizes.values()
    (large,) = Study.parse("{sizes: [pythia-160m], tokens: [1B]}").grids[0].sizes.values()
    assert needs.threads_for([small], 8, "cpu") == 1
    assert needs.threads_for([small, large], 8, "cpu") == 8
    assert needs.threads_for([large], 8, "cuda") == 1


def test_needs_grow_with_what_a_run_is():
    def need(**changes):
        run = Study.parse("{sizes: [tiny-985k], tokens: [100M]}").runs("")[0]
        return needs.memory_of(RunConfig.from_json({**run.to_json(), **changes}))

    plain = need()
    assert need(batch_sequences=64) > 1.5 * plain
    assert need(accumulation=8) < plain
    assert need(precision="bfloat16") < plain


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations_are_read(text, seconds):
    assert parse_time(text) == seconds


def test_memory_and_cores_of_this_machine_are_plausible():
    assert 1 <= machine.cores() <= os.cpu_count()
    assert 1e6 < machine.memory_free() < 1e15
    assert 1e6 < machine.memory_of(os.getpid()) < 1e12
    assert machine.memory_of(2**31 - 1) == 0.0


def test_a_worker_ends_when_its_driver_is_gone(board):
    """Stdin closes with the driver; a job that is told and done elsewhere is answered."""
    job = board.jobs[0]
    for each in board.runs.values():
        finish(board.store, each.config)
    command = [sys.executable, "-m", "qscale.sweep.worker", str(board.store.path)]
    said = subprocess.run(
        command, input=f"{job.id}\nnonsense\n", capture_output=True, text=True, check=True, timeout=60
    )
    events = [json.loads(line) for line in said.stdout.splitlines()]
    assert [event["event"] for event in events] == ["worker", "elsewhere", "exit"]
    assert Board(board.store, board.jobs).state(job) == "done"
