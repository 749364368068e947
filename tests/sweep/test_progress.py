"""What is shown of a study at work."""

import io
import json

import pytest
from sweep.studies import TEXT, board_at, finish

from qscale.sweep.eta import makespan, typical_share
from qscale.sweep.progress import LEGEND, JsonLines, LiveBars, Meter, TextLines, sentence
from qscale.units import short_time

SIZES = ("tiny-20k", "tiny-985k")


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
        meter.hear({"event": "step", "id": trunk.id, "step": step, "steps": 102, "tokens_per_second": 1e4})
    assert meter.eta != "?"
    before = meter.share
    meter.hear({"event": "finished", "id": trunk.id})
    assert meter.share > before


def step(job, number, **more):
    end = job.steps[-1] if job.kind == "trunk" else job.config.steps
    return {"event": "step", "id": job.id, "step": number, "steps": end, "loss": 2.0, **more}


def test_time_left_is_reckoned_size_by_size(tmp_path):
    board = board_at(tmp_path / "study", TEXT.replace("[tiny-20k]", "[tiny-20k, tiny-985k]"))
    meter = Meter(board)
    small, large = (next(j for j in board.jobs if j.kind == "trunk" and j.label.startswith(n)) for n in SIZES)
    meter.hear({"event": "starting", "workers": 2})
    meter.hear(step(small, 10, tokens_per_second=64_000.0))
    per_token = small.config.model.flops_per_token(32)
    assert meter.speeds.of(small) == pytest.approx(64_000 * per_token)
    ratio = typical_share(large.config.model, False) / typical_share(small.config.model, False)
    assert meter.speeds.of(large) == pytest.approx(64_000 * per_token * ratio)
    meter.hear(step(large, 10, tokens_per_second=3_200.0))
    speed = 3_200 * large.config.model.flops_per_token(32)
    assert meter.speeds.of(large) == pytest.approx(speed)
    share = {small.id: 10 / small.steps[-1], large.id: 10 / large.steps[-1]}
    seconds = {job.id: (1 - share.get(job.id, 0)) * job.flops / meter.speeds.of(job) for job in board.jobs}
    assert meter.eta == short_time(makespan(board.jobs, seconds, 2, share))


def test_all_of_a_finished_jobs_time_counts(board):
    meter, job = Meter(board), board.jobs[0]
    per_step = job.config.tokens_per_step * job.config.model.flops_per_token(job.config.context)
    meter.hear(step(job, 40, tokens_per_second=64.0 * 20))  # 10 steps in half a second
    meter.hear(step(job, 80, tokens_per_second=64.0 * 40))  # 40 steps in one
    assert meter.speeds.of(job) == pytest.approx(50 * per_step / 1.5)
    meter.hear({"event": "finished", "id": job.id, "seconds": 5.0})
    flops = job.flops * (1 - 30 / job.steps[-1])  # it began, or went on, at step 30
    assert meter.speeds.of(job) == pytest.approx(flops / 5.0)


def test_what_failed_is_no_work_any_more_nor_is_what_waits_for_it(board):
    meter, trunk = Meter(board), board.jobs[0]
    meter.hear(step(trunk, 10, tokens_per_second=640.0))
    assert meter.eta not in ("?", "0 s")
    meter.hear({"event": "failed", "id": trunk.id, "error": "x"})
    assert meter.eta == "0 s"


def test_events_of_ray_have_neither_worker_nor_always_a_speed(board):
    out = io.StringIO()
    with LiveBars(out, board) as show:
        first, second = board.jobs[:2]
        for job in (first, second):
            show({"event": "started", "id": job.id, "kind": job.kind, "label": job.label})
            show(step(job, 5))
        assert show.meter.eta == "?" and len(show.workers) == 2
        show(step(second, 10, tokens_per_second=64.0))
        assert f"64 tok/s  {short_time(second.config.steps - 10)} left" in show._news(
            step(second, 10, tokens_per_second=64.0)
        )
        show({"event": "finished", "id": first.id, "kind": "trunk", "label": "x", "seconds": 2.0})
        assert list(show.workers) == [second.id]


def test_an_estimate_is_told_in_one_line():
    event = {"event": "estimate", "seconds": (240.0, 540.0), "workers": 2, "basis": "a guess"}
    assert sentence(event) == "estimate  about 4 to 9 min with 2 workers: a guess"
