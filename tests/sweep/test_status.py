"""What is said of where a study stands."""

import json

import pytest
from click.testing import CliRunner
from sweep.studies import TEXT, board_at, finish, record_of

from qscale.cli import main
from qscale.records import Record
from qscale.sweep import status
from qscale.sweep.board import Board
from qscale.sweep.eta import typical_share
from qscale.sweep.store import Store
from qscale.training import paths

LARGE = TEXT + f"seeds: {list(range(12))}\n"


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study")


def shown(board, **options):
    fresh = Board(board.store, board.jobs)
    return list(status.lines(fresh, fresh.overview(), **options))


def test_every_record_is_opened_once(board, monkeypatch):
    for job in board.runs.values():
        finish(board.store, job.config)
    loads, reads = Record.loads, []
    monkeypatch.setattr(Record, "loads", lambda text: reads.append(1) or loads(text))
    result = CliRunner().invoke(main, ["sweep", "status", str(board.store.path)])
    assert result.exit_code == 0 and len(reads) == len(board.runs) == 6


def test_the_share_counts_flops_of_done_jobs_and_of_steps_taken(board):
    runs = list(board.runs.values())
    finish(board.store, runs[0].config)
    trunk = board.jobs[0]
    total = sum(job.flops for job in board.jobs)
    left = status.left(board, board.overview())
    assert left.share == pytest.approx(runs[0].flops / total)
    with board.store.lock(trunk):
        half = trunk.steps[-1] // 2
        curve = paths.curve(board.store.folder(trunk))
        curve.write_text(json.dumps({"step": half, "loss": 2.5}) + "\n")
        left = status.left(board, board.overview())
    done = runs[0].flops + trunk.flops * half / trunk.steps[-1]
    assert (left.running, left.share) == (1, pytest.approx(done / total))


def test_the_time_left_is_the_flops_left_over_the_speed_of_finished_runs(board):
    first, second, *rest = board.runs.values()
    finish(board.store, first.config, wall_seconds=10.0)
    finish(board.store, second.config, wall_seconds=0.5, diverged=True, loss=None, delta=None, delta_se=None)
    left = status.left(board, board.overview())
    speed = first.flops / 10.0
    ratio = typical_share(first.config.model, True) / typical_share(first.config.model, False)
    work = sum(job.flops / (ratio if job.config.recipe else 1) for job in [*rest, *board.trunks.values()])
    assert first.config.recipe is None and left.worker_seconds == pytest.approx(work / speed)
    assert left.timed == 1 and left.seconds is None
    assert "at the FLOPs a second of 1 finished run, size by size" in left.sentence()


def test_a_size_that_was_never_timed_takes_the_speed_of_the_nearest_and_is_named(tmp_path):
    board = board_at(tmp_path / "study", TEXT.replace("[tiny-20k]", "[tiny-20k, tiny-46k]"))
    job = next(job for job in board.runs.values() if job.label.startswith("tiny-20k") and not job.baseline_id)
    finish(board.store, job.config, wall_seconds=2.0)
    left = status.left(board, board.overview())
    here = typical_share(job.config.model, False)
    work = sum(
        each.flops
        * here
        / typical_share(each.config.model, each.kind == "run" and each.baseline_id is not None)
        for each in board.jobs
        if each is not job
    )
    assert left.worker_seconds == pytest.approx(work / (job.flops / 2.0))
    assert "none of tiny-46k yet" in left.sentence()


def test_nothing_timed_is_no_time_and_all_done_is_all(board):
    assert "no time left is known" in shown(board)[-1]
    for job in board.runs.values():
        finish(board.store, job.config)
    assert shown(board)[-1].startswith("100.0 % of ")


def test_more_rows_than_a_screen_are_summed_up_and_all_shows_each(tmp_path):
    board = board_at(tmp_path / "study", LARGE)
    assert len(board.jobs) == 84
    runs = list(board.runs.values())
    for number, job in enumerate(runs[:30]):
        finish(board.store, job.config, loss=1.0 + number / 100)
    for job in runs[40:52]:
        board.store.write_failure(job, "went\nwrong")
    lines = shown(board)
    assert len(lines) < 40
    assert (
        sum(line.startswith("done ") for line in lines)
        == sum(line.startswith("failed ") for line in lines)
        == 10
    )
    assert "and 2 more failed, 20 more done" in lines
    assert any(line.endswith("went wrong") for line in lines)
    assert lines[1].split()[:4] == ["tiny-20k", "30", "of", "72"] and "1.0000..1.2900" in lines[1]
    assert lines[-1] == "every one of 84 jobs: --all, or --json"
    every = shown(board, every=True)
    assert len(every) == 84 + 3 and not any("--all" in line for line in every)


def test_the_last_finished_come_first(tmp_path):
    import os

    board = board_at(tmp_path / "study", LARGE)
    runs = list(board.runs.values())[:15]
    for job, when in zip(runs, [3, 9, 1, 15, 7, 2, 8, 4, 6, 5, 10, 14, 13, 12, 11], strict=True):
        finish(board.store, job.config)
        os.utime(board.store.run_folder(job.id) / "record.json", (when, when))
    done = [line.split(None, 1)[1] for line in shown(board) if line.startswith("done ")]
    assert done[0].startswith(runs[3].label) and done[1].startswith(runs[11].label)


def test_json_has_every_job_a_line_each(board):
    finish(board.store, next(iter(board.runs.values())).config)
    result = CliRunner().invoke(main, ["sweep", "status", str(board.store.path), "--json"])
    data = json.loads(result.stdout)
    assert len(data["jobs"]) == 7 and data["damaged"] == data["strangers"] == 0
    assert data["progress"]["timed"] == 1 and 0 < data["progress"]["share"] < 1
    assert result.stdout.count("\n") < 40


def test_status_says_which_records_do_not_belong_and_why(board):
    for job in board.runs.values():
        finish(board.store, job.config)
    Store.create(board.store.path, TEXT.replace("0.003", "0.002"), replace=True)
    result = CliRunner().invoke(main, ["sweep", "status", str(board.store.path)])
    assert "  6 runs: learning_rate 0.003, the study now says 0.002" in result.stdout.splitlines()
    assert record_of(job.config).run_id not in {run.run_id for run in board.store.runs()}
