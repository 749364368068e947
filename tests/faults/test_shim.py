"""The library of faults does what it is told, to whom, where and when, and nothing else."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from faults import shim
from faults.shim import Fault

pytestmark = pytest.mark.skipif(shim.why_not is not None, reason=str(shim.why_not))

#: Writes three files into a folder as the store does, and says what went wrong and what time it is.
WRITER = """
import json, os, sys, time
from pathlib import Path
folder, problems = Path(sys.argv[1]), []
before = time.time(), time.monotonic()
ticks = [time.time() for _ in range(100)]
for name in ("a", "b", "c"):
    try:
        with (folder / f".{name}").open("wb") as file:
            file.write(b"0123456789")
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / f".{name}", folder / name)
    except OSError as error:
        problems.append([name, error.errno])
    if name == "b":
        (Path(os.environ.get("QSCALE_FAULT_MARKS", folder)) / "released").touch()
after = time.time(), time.monotonic()
print(json.dumps([problems, after[0] - before[0], after[1] - before[1]]))
"""
WORKER = ("qscale.sweep.worker", "--worker", "1", "end")
DRIVER = ("qscale", "sweep", "run", "end")


@pytest.fixture
def place(tmp_path):
    for name in ("store", "marks"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(place, fault, script=WRITER, role=WORKER):
    """The script, in the part of a worker or of a driver: what it printed, and what it left."""
    environment = {**os.environ, **(fault.environment(place / "store", place / "marks") if fault else {})}
    done = subprocess.run(
        [sys.executable, "-c", script, place / "store", *role],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    problems, wall, monotonic = json.loads(done.stdout) if done.stdout else (None, None, None)
    left = {path.name: path.read_bytes() for path in (place / "store").iterdir() if path.is_file()}
    fired = place / "marks" / "fired"
    return SimpleNamespace(
        code=done.returncode,
        problems=problems,
        wall=wall,
        monotonic=monotonic,
        left=left,
        fired=fired.read_text() if fired.exists() else None,
    )


WHOLE = dict.fromkeys("abc", b"0123456789")


def test_all_calls_that_change_files_are_seen_in_order_and_do_no_harm(place):
    done = write(place, Fault(kind="log"))
    assert (done.code, done.problems, done.left) == (0, [], WHOLE)
    lines = (place / "marks" / "log").read_text().splitlines()
    assert lines[:5] == [f"worker:1 {call} .a" for call in ("create", "write", "sync", "close", "rename")]
    assert len(lines) == 15


SAFETENSORS = """
import sys, numpy, safetensors.numpy
safetensors.numpy.save_file({"a": numpy.arange(1000.0)}, sys.argv[1] + "/model.safetensors")
"""


def test_safetensors_numpy_and_streams_of_c_are_seen(place):
    script = SAFETENSORS + "numpy.save(sys.argv[1] + '/losses.npy', numpy.zeros(1000))"
    write(place, Fault(kind="log"), script)
    writes = [
        line.split()[2] for line in (place / "marks" / "log").read_text().splitlines() if " write " in line
    ]
    # safetensors writes under a temporary name of its own.
    assert sum(name.startswith((".tmp", "model.safetensors")) for name in writes) >= 1
    assert writes.count("losses.npy") == 2  # the header, then the numbers through a stream


def test_a_file_of_safetensors_is_torn(place):
    done = write(place, Fault(kind="torn", calls=("write",), at=1, seed=777), SAFETENSORS)
    assert done.code == -signal.SIGKILL
    (torn,) = done.left.values()
    assert any(torn[:777]) and not any(torn[777:])  # what was asked for before may be there as zeros


def test_a_torn_stream_of_c_leaves_its_first_bytes(place):
    script = "import sys, numpy; numpy.save(sys.argv[1] + '/losses.npy', numpy.arange(1000.0))"
    done = write(place, Fault(kind="torn", calls=("write",), at=2, seed=8 * 40 + 3), script)
    assert done.code == -signal.SIGKILL
    assert len(done.left["losses.npy"]) == 128 + 8 * 40 + 3


@pytest.mark.parametrize(("seed", "left"), [(0, {"a", ".b"}), (1, {"a", "b"})], ids=["before", "after"])
def test_a_kill_comes_before_the_call_or_after_it(place, seed, left):
    done = write(place, Fault(kind="kill", calls=("rename",), at=2, seed=seed))
    assert done.code == -signal.SIGKILL
    assert set(done.left) == left
    assert done.fired == "worker:1 rename .b\n"


def test_a_torn_write_leaves_as_many_bytes_as_the_seed_says(place):
    done = write(place, Fault(kind="torn", calls=("write",), at=2, seed=23))
    assert done.code == -signal.SIGKILL
    assert done.left == {"a": b"0123456789", ".b": b"012"}


def test_a_fault_comes_once_in_all_processes_together(place):
    fault = Fault(kind="kill", path="*b", at=1)
    assert write(place, fault).code == -signal.SIGKILL
    assert write(place, fault).left == WHOLE


def test_a_full_disk_stays_full_until_it_is_released_and_others_find_it_full_too(place):
    done = write(place, Fault(kind="full", calls=("create", "write"), at=1))
    assert done.problems == [["a", 28], ["b", 28]]
    assert done.left == {"c": b"0123456789"}
    (place / "marks" / "released").unlink()
    assert write(place, Fault(kind="full", at=10**6)).problems == [["a", 28], ["b", 28]]


@pytest.mark.parametrize(("kind", "number"), [("full-once", 28), ("io", 5)])
def test_one_call_fails(place, kind, number):
    done = write(place, Fault(kind=kind, calls=("sync",), at=2))
    assert done.problems == [["b", number]]
    assert set(done.left) == {"a", ".b", "c"}


def test_the_wall_clock_goes_back_for_files_too_and_the_monotonic_one_stays_right(place):
    done = write(place, Fault(kind="clock", at=50))
    assert (done.problems, done.left) == ([], WHOLE)
    assert -3700 < done.wall < -3500
    assert 0 <= done.monotonic < 60
    done = write(place, Fault(kind="clock", at=10**6))
    assert 0 <= done.wall < 60  # it was back from the beginning
    times = [path.stat().st_mtime for path in (place / "store").iterdir()]
    assert all(-3700 < time - (place / "marks" / "fired").stat().st_mtime < -3500 for time in times)


@pytest.mark.parametrize(
    ("who", "role", "hit"),
    [
        ("workers", WORKER, True),
        ("worker:1", WORKER, True),
        ("worker:0", WORKER, False),
        ("driver", WORKER, False),
        ("driver", DRIVER, True),
        ("workers", DRIVER, False),
        ("all", DRIVER, True),
        ("all", ("other",), False),
    ],
)
def test_only_who_is_named_is_hit(place, who, role, hit):
    done = write(place, Fault(kind="io", who=who), role=role)
    assert (done.problems != []) == hit


def test_files_elsewhere_are_left_alone(place):
    (place / "store2").mkdir()
    script = WRITER.replace("Path(sys.argv[1])", "Path(sys.argv[1] + '2')")
    assert write(place, Fault(kind="io"), script).problems == []


def test_without_a_fault_nothing_changes(place):
    assert write(place, None).left == {**WHOLE, "released": b""}
