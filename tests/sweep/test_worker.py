"""The loop of a worker, with jobs that only pretend to train."""

import errno
import os
import threading

import pytest
from sweep.studies import TEXT, board_at, record_of

from qscale.errors import StoreError
from qscale.sweep.board import Board, last_step
from qscale.sweep.executors import outcome, retry_failures
from qscale.sweep.worker import work
from qscale.training import paths


def pretend(job, board, corpus, device, emit, should_stop):
    """Leave the files that a job leaves."""
    if job.kind == "trunk":
        for step in board.missing_steps(job):
            paths.branch_checkpoint(board.store.folder(job), step).mkdir(parents=True)
    else:
        board.store.write_record(record_of(job.config))
    return True


def play(board, execute=pretend, should_stop=lambda: False):
    """Work a board off; returns the events."""
    events = []
    work(board, None, emit=events.append, should_stop=should_stop, execute=execute)
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

    def stop_in_second(job, board, corpus, device, emit, should_stop):
        return pretend(job, board, corpus, device, emit, should_stop) if len(events) < 2 else False

    work(
        board,
        None,
        emit=events.append,
        should_stop=lambda: len(events) > 2,
        execute=stop_in_second,
    )
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
