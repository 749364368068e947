"""What is shown of a study at work."""

import io
import json

import pytest
from sweep.studies import board_at, finish

from qscale.sweep.progress import LEGEND, JsonLines, LiveBars, Meter, TextLines


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study")


def story(board):
    """One event of each kind, as workers and the executor send them."""
    trunk, run, other = board.jobs[:3]
    ids = {"worker": 0, "id": trunk.id}
    step = {"event": "step", "step": 100, "steps": 205, "loss": 2.5, "tokens_per_second": 20_000.0}
    yield {"event": "starting", "workers": 1}
    yield {"event": "worker", "worker": 0, "pid": 1}
    yield {"event": "started", **ids, "kind": "trunk", "label": trunk.label}
    yield {**step, **ids}
    yield {**step, **ids, "step": 150}
    yield {"event": "finished", **ids, "kind": "trunk", "label": trunk.label, "seconds": 2.0}
    ids["id"] = run.id
    yield {"event": "started", **ids, "kind": "run", "label": run.label}
    yield {"event": "eval", "sequences": 8, **ids}
    result = {"loss": 1.5, "delta": 0.05, "delta_se": 0.001, "diverged": False, "seconds": 65}
    yield {"event": "finished", **ids, "kind": "run", "label": run.label, **result}
    ids["id"] = other.id
    lost = [job.id for job in board.jobs[-2:]]
    yield {"event": "diverged", **ids, "label": trunk.label, "step": 7, "runs": lost}
    yield {"event": "failed", **ids, "kind": "run", "label": other.label, "error": "went wrong [bold]"}
    yield {"event": "stopped", **ids, "label": other.label}
    yield {"event": "died", "worker": 1, "error": "worker 1 was killed"}
    yield {"event": "note", "text": "damaged"}
    yield {"event": "stopping", "killed": False}
    yield {"event": "exit", "worker": 0, "error": "the disk is full"}
    yield {"event": "exit", "worker": 0, "error": None}


def test_lines_tell_what_starts_ends_and_fails_and_no_steps(board):
    out = io.StringIO()
    with TextLines(out, board) as show:
        for event in story(board):
            show(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == 13
    assert lines[0] == "starting  1 worker"
    assert lines[1] == "started   tiny-20k trunk seed 0"
    assert lines[4].split() == ["note", *LEGEND.split()]
    assert "at step 7: 2 runs marked as diverged" in lines[6]
    assert "delta 0.0500 +- 0.0010, loss 1.5000, 1 min 05 s  [1 of 6 runs" in lines[5]
    assert lines[7].endswith("went wrong [bold]") and lines[7].startswith("FAILED")
    assert lines[-1] == "FAILED    worker 0: the disk is full"


def test_json_tells_every_event_on_a_line(board):
    out = io.StringIO()
    with JsonLines(out) as show:
        for event in story(board):
            show(event)
    got = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event.pop("time") > 0 for event in got] == [True] * len(got)
    assert got == list(story(board))


def test_bars_print_what_ends_and_take_every_event(board):
    out = io.StringIO()
    with LiveBars(out, board) as show:
        for event in story(board):
            show(event)
            assert 0 <= show.meter.share <= 1
    assert "delta 0.0500 +- 0.0010" in out.getvalue()
    assert "went wrong [bold]" in out.getvalue()


def test_the_meter_counts_work_done_before_but_not_in_its_rate(board):
    baselines = [job for job in board.runs.values() if job.baseline_id is None]
    for job in baselines:
        finish(board.store, job.config)
    meter = Meter(board)
    assert meter.runs_done == 2
    assert meter.share == pytest.approx(sum(job.flops for job in baselines) / meter.total)
    assert meter.eta == "?"
    trunk = board.jobs[0]
    for step in (10, 100):
        meter.hear({"event": "step", "id": trunk.id, "step": step, "steps": 102})
    assert meter.eta != "?"
    before = meter.share
    meter.hear({"event": "finished", "id": trunk.id})
    assert meter.share > before
