"""The loop of a worker, with jobs that only pretend to train."""

import errno
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from sweep.studies import TEXT, board_at, finish, record_of, sealed

from qscale.errors import StoreError
from qscale.records import RecordVersionError
from qscale.sweep.board import Board, last_step
from qscale.sweep.outcome import outcome, retry_failures
from qscale.sweep.progress import sentence
from qscale.sweep.store import Store
from qscale.sweep.worker import run_job, work
from qscale.training import paths
from qscale.training.how import How
from qscale.training.monitor import DivergedError

NO_CORPORA = SimpleNamespace(of=lambda _config: None)


def pretend(job, board, corpus, how):
    """Leave the files that a job leaves."""
    if job.kind == "trunk":
        for step in board.missing_steps(job):
            paths.branch_checkpoint(board.store.folder(job), step).mkdir(parents=True)
    else:
        finish(board.store, job.config)
    return True


def play(board, execute=pretend, should_stop=lambda: False):
    """Work a board off; returns the events."""
    events = []
    work(board, NO_CORPORA, How(emit=events.append, should_stop=should_stop), execute)
    return events


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study", TEXT + "seeds: [0, 1]\n")


def of(events, name):
    return [event["label"] for event in events if event["event"] == name]


def test_all_jobs_are_done_once_and_what_they_need_before_them(board):
    order = []

    def watch(job, *rest):
        if job.kind == "run":
            assert paths.branch_checkpoint(board.store.trunk_folder(job.trunk_id), job.steps[0]).is_dir()
            assert job.baseline_id is None or board.store.record(job.baseline_id)
        order.append(job.id)
        return pretend(job, *rest)

    events = play(board, watch)
    assert sorted(order) == sorted(job.id for job in board.jobs)
    assert of(events, "started") == of(events, "finished")
    assert outcome(board, stopped=False).exit_code == 0


def test_working_again_does_nothing(board):
    play(board)
    assert play(Board(board.store, board.jobs)) == []


def test_a_failed_trunk_blocks_its_runs_and_no_others(board):
    def fail(job, *rest):
        if job.kind == "trunk" and job.config.init_seed == 0:
            raise ValueError("went wrong")
        return pretend(job, *rest)

    events = play(board, fail)
    assert of(events, "failed") == ["tiny-20k trunk seed 0"]
    ended = outcome(board, stopped=False)
    assert (ended.runs, ended.done, ended.failed, ended.blocked, ended.exit_code) == (12, 6, 1, 6, 1)
    assert board.store.failure(board.jobs[0]) == "ValueError: went wrong"

    retry_failures(board)
    assert len(of(play(board), "finished")) == 7
    assert outcome(board, stopped=False).exit_code == 0


def test_a_failed_baseline_blocks_the_runs_compared_with_it(board):
    def fail(job, *rest):
        if job.label == "tiny-20k 8.19k baseline seed 0":
            raise StoreError("went wrong")
        return pretend(job, *rest)

    play(board, fail)
    assert {row["label"] for row in board.overview() if row["state"] == "blocked"} == {
        "tiny-20k 8.19k w4a4:g16 cooldown seed 0",
        "tiny-20k 8.19k w4a4:g32 cooldown seed 0",
    }


def test_a_trunk_is_not_trained_again_once_its_runs_are_done(board):
    play(board)
    for trunk in board.trunks.values():
        for path in paths.branch_checkpoint(board.store.folder(trunk), 0).parent.iterdir():
            path.rmdir()
    assert play(Board(board.store, board.jobs)) == []


def test_a_stop_leaves_the_rest_for_later(board):
    events = []

    def stop_in_second(*job):
        return pretend(*job) if len(events) < 2 else False

    work(board, NO_CORPORA, How(emit=events.append, should_stop=lambda: len(events) > 2), stop_in_second)
    assert [event["event"] for event in events] == ["started", "finished", "started", "stopped"]
    assert outcome(board, stopped=True).exit_code == 130


def test_a_full_disk_ends_the_work_and_fails_no_job(board):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"disk is full .*free some space"):
        play(board, full)
    assert all(board.store.failure(job) is None for job in board.jobs)


def test_a_damaged_record_is_run_again(board):
    play(board)
    run_id = next(iter(board.runs))
    (board.store.run_folder(run_id) / "record.json").write_text("{")
    again = Board(board.store, board.jobs)
    assert len(of(play(again), "finished")) == 1
    assert again.done(board.runs[run_id])
    assert (board.store.run_folder(run_id) / "record.json.corrupt-1").exists()


def test_two_workers_never_do_one_job_twice(board):
    started = []

    def watch(job, *rest):
        started.append(job.id)
        return pretend(job, *rest)

    boards = [Board(board.store, board.jobs) for _ in range(4)]
    threads = [threading.Thread(target=play, args=(each, watch)) for each in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == sorted(job.id for job in board.jobs)


def test_status_shows_a_locked_job_as_running_with_its_last_whole_line(board):
    trunk = board.jobs[0]
    with board.store.lock(trunk):
        paths.curve(board.store.folder(trunk)).write_text('{"step": 10, "loss": 2.5}\n{"step": 20, "lo')
        row = board.overview()[0]
    assert (row["state"], row["step"], row["loss"]) == ("running", 10, 2.5)
    assert {row["state"] for row in board.overview()[2:]} == {"waiting"}
    paths.curve(board.store.folder(trunk)).write_text("\x00[]\n")
    assert last_step(board.store.folder(trunk)) == {}


def test_a_look_lists_folders_and_reads_no_record_twice(tmp_path, monkeypatch):
    board = board_at(tmp_path / "large", TEXT + "seeds: [0, 1, 2, 3, 4, 5, 6, 7]\n")
    play(board)
    board = Board(board.store, board.jobs)
    (undone,) = list(board.runs.values())[-1:]
    (board.store.run_folder(undone.id) / "record.json").unlink()
    assert board.look()[undone.id] == "ready"
    reads = []
    monkeypatch.setattr(Store, "record", lambda *_: reads.append("record"))
    names = Store.names
    monkeypatch.setattr(Store, "names", lambda *a: reads.append("names") or names(*a))
    board.look()
    assert reads == ["names"] * 3  # the runs, the undone run, the branches of its trunk


def test_an_idle_worker_looks_ever_more_rarely(board, monkeypatch):
    pauses = []
    monkeypatch.setattr("qscale.sweep.worker._rest", lambda seconds, _: pauses.append(seconds))
    with board.store.lock(board.jobs[0]), board.store.lock(board.jobs[1]):
        play(board, should_stop=lambda: len(pauses) >= 6)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_trunk_that_diverges_marks_its_runs_and_the_study_ends(board, monkeypatch):
    from qscale.training import loop, result

    def run_trunk(config, steps, folder, *_, **__):
        paths.branch_checkpoint(folder, min(steps)).mkdir(parents=True)
        raise DivergedError(7, "the loss is nan")

    monkeypatch.setattr(loop, "run_trunk", run_trunk)
    monkeypatch.setattr(
        result,
        "diverged_record",
        lambda config, _corpus, _device, step: record_of(
            config, diverged=True, diverged_step=step, loss=None, delta=None, delta_se=None
        ),
    )

    def execute(job, *rest):
        return (run_job if job.kind == "trunk" else pretend)(job, *rest)

    events = play(board, execute)
    first = next(event for event in events if event["event"] == "diverged")
    assert len(first["runs"]) == 3 and board.runs[first["runs"][0]].baseline_id is None
    ended = outcome(board, stopped=False)
    assert (ended.done, ended.diverged, ended.exit_code) == (12, 6, 0)
    assert {board.store.record(run).diverged_step for run in first["runs"]} == {7}
    assert "3 runs marked as diverged" in sentence(first)


@pytest.mark.parametrize("damage", ["missing", "torn", "of-another-count"])
def test_a_baseline_without_its_losses_is_run_again_where_it_is_needed(board, damage):
    play(board)
    baselines = [job for job in board.runs.values() if job.baseline_id is None]
    needed = next(job for job in board.runs.values() if job.baseline_id == baselines[0].id)
    for job in baselines:
        path = paths.eval_losses(board.store.run_folder(job.id))
        if damage == "missing":
            path.unlink()
        elif damage == "torn":
            path.write_bytes(path.read_bytes()[:90])
        else:
            np.save(path, np.zeros(3))
    again = Board(board.store, board.jobs)
    assert play(again) == []
    (board.store.run_folder(needed.id) / "record.json").unlink()
    assert of(play(Board(board.store, board.jobs)), "finished") == [baselines[0].label, needed.label]


def test_a_record_of_another_version_stops_the_work_and_is_left_alone(board):
    play(board)
    job = next(iter(board.runs.values()))
    path = board.store.run_folder(job.id) / "record.json"
    text = sealed(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    path.write_text(text)
    with pytest.raises(RecordVersionError, match="made by another version of qscale"):
        play(Board(board.store, board.jobs))
    with pytest.raises(RecordVersionError):
        board.store.repair(job.id)
    with pytest.raises(RecordVersionError):
        list(board.store.records())
    assert path.read_text() == text and len(list(path.parent.glob("record.json*"))) == 1
    assert board.store.failure(job) is None
