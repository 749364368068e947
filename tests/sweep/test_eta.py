"""Speeds by size, jobs laid out on workers, and what a plan says of time, memory and disk."""

import json
import random
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from sweep.studies import board_at, finish

from qscale.cli import main
from qscale.models.ladder import shape_of
from qscale.sweep import forecast, machine
from qscale.sweep.board import Board
from qscale.sweep.eta import Speeds, finished, kind_of, makespan, typical_share
from qscale.sweep.forecast import Basis, Room
from qscale.sweep.grid import Study
from qscale.sweep.jobs import jobs
from qscale.units import rough_time, short_bytes, time_span

THREE = """\
sizes: [tiny-20k, tiny-82k]
tokens: {tiny-20k: [1.6M, 3.2M], tiny-82k: [1.6M]}
recipes: [w4a4]
group_sizes: [16, 32]
modes: [cooldown, scratch]
seeds: {tiny-20k: [0, 1], tiny-82k: [7]}
"""


@pytest.fixture(scope="module")
def work():
    return jobs(Study.parse(THREE).runs(""))


def simulated(work, seconds, workers, tick):
    """The same by ticks: in each, idle workers take the first jobs whose needs are there."""
    done, at, now = set(), {}, 0
    known = {job.id: job for job in work}

    def there(job):
        trunk = known.get(job.trunk_id) if job.kind == "run" else None
        passed = trunk is None or trunk.id in done
        if trunk is not None and trunk.id in at:
            passed |= at[trunk.id] * tick * trunk.steps[-1] >= job.steps[0] * seconds[trunk.id]
        return passed and all(x in done for x in (job.baseline_id, job.source_id) if x in known)

    while len(done) < len(work):
        for job in work:
            if len(at) < workers and job.id not in done and job.id not in at and there(job):
                at[job.id] = 0
        now += 1
        for job in list(at):
            at[job] += 1
            if at[job] * tick >= seconds[job] - 1e-9:
                done.add(job)
                del at[job]
    return now * tick


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
def test_makespan_is_that_of_a_simulation_by_ticks(work, workers):
    dice = random.Random(workers)
    seconds = {job.id: float(dice.randint(1, 50)) for job in work}
    assert makespan(work, seconds, workers) == pytest.approx(
        simulated(work, seconds, workers, 0.05), rel=0.02
    )


def test_one_worker_takes_the_sum_and_many_take_the_longest_chain(work):
    seconds = {job.id: job.flops / 1e10 for job in work}
    assert makespan(work, seconds, 1) == pytest.approx(sum(seconds.values()))
    trunks = {job.id: job for job in work if job.kind == "trunk"}

    def ready(job):
        trunk = trunks[job.trunk_id]
        start = seconds[trunk.id] * job.steps[0] / trunk.steps[-1]
        base = next((each for each in work if each.id == job.baseline_id), None)
        return max(start, ready(base) + seconds[base.id]) if base else start

    longest = max(ready(job) + seconds[job.id] for job in work if job.kind == "run")
    assert makespan(work, seconds, 1000) == pytest.approx(longest)


def test_what_is_begun_goes_on_first_and_what_waits_for_nothing_is_left_out(work):
    trunk = next(job for job in work if job.kind == "trunk")
    runs = [job for job in work if job.trunk_id == trunk.id and job.kind == "run"]
    seconds = {trunk.id: 5.0} | {job.id: 1.0 for job in runs}
    # The trunk has passed every step: its branches wait for their baselines alone.
    chain = 2.0 if any(job.baseline_id in {run.id for run in runs} for job in runs) else 1.0
    assert makespan([trunk, *runs], seconds, 100, {trunk.id: 1.0}) == pytest.approx(5.0)
    assert makespan(runs, seconds, 100) == pytest.approx(chain)
    assert makespan([], {}, 3) == 0.0


def test_speeds_of_what_was_not_timed_are_those_of_the_nearest_width_scaled(work):
    speeds = Speeds()
    small, large = shape_of("tiny-20k"), shape_of("tiny-985k")
    assert speeds.of(work[0]) is None
    speeds.add(("tiny-20k", False), small, 2e9, 1.0)
    speeds.add(("tiny-20k", False), small, 1e9, 2.0)
    speeds.add(("tiny-985k", False), large, 5e9, 1.0)
    by_kind = {kind_of(job): speeds.of(job) for job in work}
    assert by_kind["tiny-20k", False] == pytest.approx(1e9)
    assert by_kind["tiny-20k", True] == pytest.approx(1e9 * 0.13 / 0.17)
    middle = shape_of("tiny-82k")  # as far from either: the first by name
    assert by_kind["tiny-82k", False] == pytest.approx(1e9 * typical_share(middle, False) / 0.17)


def test_typical_shares_grow_with_width_and_stay_at_the_ends():
    names = ("tiny-20k", "tiny-82k", "tiny-369k", "tiny-985k", "tiny-5.02M", "pythia-160m")
    for quantized in (False, True):
        found = [typical_share(shape_of(name), quantized) for name in names]
        assert found == sorted(found) and 0 < found[0] < found[-1] < 1
    assert typical_share(shape_of("tiny-20k"), True) < typical_share(shape_of("tiny-20k"), False)


def test_finished_runs_are_a_basis_and_diverged_ones_are_not(tmp_path):
    board = board_at(tmp_path / "study")
    first, second, *_ = board.runs.values()
    finish(board.store, first.config, wall_seconds=4.0)
    finish(board.store, second.config, wall_seconds=9.0, diverged=True, loss=None, delta=None, delta_se=None)
    assert forecast.measured(board) is None
    board.look()
    speeds, timed = finished(board)
    assert timed == 1 and speeds.of(first) == pytest.approx(first.flops / 4.0)
    assert forecast.measured(board).words == "from the FLOPs a second of 1 finished run"


# What a plan says


def plan(path, *options):
    result = CliRunner().invoke(main, ["sweep", "plan", str(path), *options])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(THREE)
    return tmp_path / "study.yaml"


def test_smaller_grids_cost_what_their_own_studies_do(study):
    whole = json.loads(plan(study, "--json").stdout)
    rows = {row["without"]: row for row in whole["smaller"]}
    cut = {
        "without tiny-20k": re.sub(r"tiny-20k(: \[[^]]*\])?, ", "", THREE),
        "without the largest tokens of each size": THREE.replace(", 3.2M", ""),
        "one seed": THREE.replace("[0, 1]", "[0]"),
        "without mode scratch": THREE.replace(", scratch", ""),
    }
    for without, text in cut.items():
        study.write_text(text)
        own = json.loads(plan(study, "--json").stdout)
        share = own["flops"] / whole["flops"]
        if share > 0.9:
            assert without not in rows
            continue
        assert rows[without]["runs"] == own["runs"], without
        assert rows[without]["share"] == pytest.approx(share)
    assert rows.keys() >= {"without mode scratch", "one seed"}
    assert all(row["share"] <= 0.9 for row in rows.values())
    assert "without mode baseline" not in rows


def test_nothing_smaller_is_said_of_a_single_run(tmp_path):
    (tmp_path / "one.yaml").write_text("{sizes: [tiny-20k], tokens: [1.6M]}")
    result = plan(tmp_path / "one.yaml")
    assert "smaller" not in result.stdout and "time      about" in result.stdout
    assert json.loads(plan(tmp_path / "one.yaml", "--json").stdout)["smaller"] == []


def test_of_a_study_begun_time_and_disk_are_those_of_what_is_left(tmp_path):
    board = board_at(tmp_path / "study")
    runs = list(board.runs.values())
    empty = json.loads(plan(board.store.path, "--json").stdout)
    assert empty["eta"]["kind"] == "probed"
    for job in runs[:3]:
        finish(board.store, job.config, wall_seconds=2.0)
    half = json.loads(plan(board.store.path, "--json", "--workers", "1").stdout)
    assert half["eta"]["kind"] == "measured" and half["eta"]["seconds"][0] == half["eta"]["seconds"][1]
    assert half["runs"] == 6 and half["left"]["runs"] == 3
    assert half["disk"]["all"] < empty["disk"]["all"]
    fresh = Board(board.store, board.jobs)
    states = fresh.look()
    speeds, _ = finished(fresh)
    left = [job for job in board.jobs if states[job.id] != "done"]
    assert half["eta"]["seconds"][0] == pytest.approx(sum(job.flops / speeds.of(job) for job in left))
    assert "from the FLOPs a second of 3 finished runs" in plan(board.store.path).stdout
    for job in runs[3:]:
        finish(board.store, job.config)
    assert "time      none: every run is done" in plan(board.store.path).stdout
    assert json.loads(plan(board.store.path, "--json").stdout)["eta"] is None


def test_a_device_that_was_never_timed_has_no_time(study):
    result = plan(study, "--device", "cuda", "--workers", "2")
    assert "time      not known on cuda before --calibrate" in result.stdout
    assert "of the host, beside cuda" in result.stdout


def test_calibrated_steps_give_the_time(study):
    study.write_text(
        "{sizes: [tiny-20k], tokens: [1.6M], recipes: ['w4a4:g32', 'w4a16:g32'], modes: [ptq, cooldown]}"
    )
    found = json.loads(plan(study, "--calibrate", "--workers", "1", "--json").stdout)
    rows = {row["recipe"]: row for row in found["calibrated"]}
    assert len(rows) == 2 and None in rows and found["eta"]["kind"] == "calibrated"
    (recipe,) = rows.keys() - {None}
    for row in rows.values():
        assert row["tokens_per_second"] == pytest.approx(8 * 128 / row["seconds"])
    per_flop = {key: row["seconds"] / (8 * 128 * 221184) for key, row in rows.items()}
    work = jobs(Study.read(study).runs(""))
    expected = sum(job.flops * per_flop[recipe if kind_of(job)[1] else None] for job in work)
    assert found["eta"]["seconds"] == pytest.approx([expected, expected])


def test_the_recipe_with_the_most_work_is_timed():
    text = "{sizes: [tiny-20k], tokens: [1.6M], recipes: ['w4a4:g32'], modes: [cooldown], "
    text += "include: [{recipes: ['w4a16:g32'], modes: [scratch]}]}"
    found = forecast.samples(jobs(Study.parse(text).runs("")))
    assert found["tiny-20k", False].recipe is None
    assert found["tiny-20k", True].recipe == "w4a16:g32"


def test_what_does_not_fit_is_said():
    room = Room(largest=2e9, all=4e9, free=3e9)
    fits = Room(largest=1.0, all=2.0, free=3.0)
    assert forecast.shortages(fits, fits, 2) == []
    (line,) = forecast.shortages(room, fits, 2)
    assert line.startswith("2 workers need up to 4 GB of memory together, and 3 GB are free")
    (line,) = forecast.shortages(Room(largest=4e9, all=8e9, free=3e9), fits, 2)
    assert line.startswith("the largest run needs about 4 GB of memory, and 3 GB are free")
    (line,) = forecast.shortages(fits, room, 2)
    assert "about 4 GB on disk, and 3 GB are free" in line


def test_a_plan_says_what_does_not_fit(study, monkeypatch):
    monkeypatch.setattr(machine, "memory_free", lambda: 1e6)
    monkeypatch.setattr(machine, "disk_free", lambda _: 1e3)
    found = plan(study)
    assert "the largest run needs about" in found.stderr and "1 kB are free" in found.stderr
    assert "is not timed: it does not fit in memory" in plan(study, "--calibrate").stderr


def test_memory_is_of_the_largest_run_and_of_as_many_as_there_are_workers(work):
    one, two = (forecast.memory(work, count, "cpu") for count in (1, 2))
    assert one.largest == one.all == two.largest < two.all <= 2 * two.largest


def test_estimates_are_ranges_by_the_spread_of_their_basis(work):
    basis = Basis(kind="probed", words="w", speed=lambda _: 1e10, spread=(0.5, 2.0))
    found = forecast.estimate(work, basis, 1)
    total = sum(job.flops for job in work) / 1e10
    assert found.seconds == pytest.approx((total / 2, total * 2)) and found.worker_seconds == found.seconds
    assert forecast.estimate(work, None, 1) is None


def test_a_plan_loads_no_torch_and_no_fitter(study):
    code = (
        "import sys\nfrom qscale.cli import main\n"
        f"main(['sweep', 'plan', {str(study)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'scipy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_speed_of_products_does_not_wait_for_other_threads():
    assert 1e8 < machine.product_speed() < 1e13


def test_free_disk_is_that_of_the_nearest_folder(tmp_path):
    assert machine.disk_free(tmp_path / "not" / "there") > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (42, "42 s"),
        (95, "95 s"),
        (380, "6 min"),
        (9100, "2.5 h"),
        (8.6e5, "10 d"),
        (1e9, "32 years"),
    ],
)
def test_rough_times(seconds, text):
    assert rough_time(seconds) == text


def test_spans_name_a_unit_once():
    assert time_span(240, 540) == "about 4 to 9 min"
    assert time_span(50, 540) == "about 50 s to 9 min"
    assert time_span(360, 370) == "about 6 min"
    assert (short_bytes(4.91e8), short_bytes(5.77e10), short_bytes(12)) == ("491 MB", "57.7 GB", "12 B")
