"""A study in real processes under faults, one session after another; it ends as if nothing had been.

The moments are fixed, and one study takes them all: starting a worker costs more than all its work. Killed
workers, interrupts, a changed corpus and damaged records have tests beside this one; ``benchmarks/chaos.py``
draws moments and faults at random.
"""

import shutil
from types import SimpleNamespace

import pytest
from faults import compare, kinds, shim
from faults.shim import Fault
from faults.study import Place

pytestmark = pytest.mark.skipif(shim.why_not is not None, reason=str(shim.why_not))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def good(place):
    return kinds.undisturbed(place)


@pytest.fixture(scope="module")
def history(place, good):
    """One store and what it goes through; where a session is cut short, its driver dies with the worker."""
    store = place.folder / "store"
    torn_checkpoint = place.run(
        store, fault=Fault(kind="cut", path="trunks/*/checkpoint/*", calls=("write",), at=4, seed=1000)
    )
    newest = max(store.glob("trunks/*/checkpoint/step-*/model.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])
    full_disk = place.run(store, fault=Fault(kind="full", path="trunks/*/branches/*", who="all"))
    aside = compare.set_aside(store)  # the folder goes when the trunk is done
    moved = store.rename(place.folder / "elsewhere")
    torn_record = place.run(
        moved, fault=Fault(kind="cut", path="*record.json*", calls=("write",), at=2, seed=150)
    )
    found = SimpleNamespace(
        store=moved,
        torn_checkpoint=torn_checkpoint,
        full_disk=full_disk,
        aside=aside,
        torn_record=torn_record,
        half_done=compare.files(moved),
        sizes={name: path.stat().st_size for name, path in compare.files(moved).items()},
        half_table=compare.table(moved, place),
    )
    shutil.copytree(moved, place.folder / "copy")
    found.late = place.run(moved, fault=Fault(kind="clock", at=8, who="all"))
    return found


def test_every_fault_was_hit(history):
    assert "write trunks/" in history.torn_checkpoint.fired
    assert "trunks/" in history.full_disk.fired
    assert ".record.json" in history.torn_record.fired
    assert "clock" in history.late.fired


def test_a_full_disk_is_named_and_no_traceback_is_shown(history):
    assert history.full_disk.code == 1
    assert "disk is full" in history.full_disk.said
    assert not any(
        session.traceback for session in (history.torn_checkpoint, history.full_disk, history.late)
    )


def test_what_was_found_damaged_is_kept_beside(history):
    assert any(name.endswith("model.safetensors") for name in history.aside)


def test_a_torn_record_is_none(history):
    torn = [size for name, size in history.sizes.items() if ".record.json" in name]
    whole = [name for name in history.half_done if name.endswith("/record.json")]
    assert len(whole) == 1
    assert len(history.half_table) == 1
    assert torn == [150], "until the next session clears it away"
    assert not list(history.store.glob("runs/*/.record.json*"))


def test_the_clock_may_go_back_and_the_study_ends_with_the_same_bytes(history, good, place):
    assert history.late.code == 0, history.late
    assert compare.differences(history.store, good.store, place) == []


def test_status_and_export_answer_on_a_read_only_disk_and_change_nothing(history, place):
    store = place.folder / "copy"
    before = {name: path.read_bytes() for name, path in compare.files(store).items()}
    try:
        with kinds.unwritable(store) as words:
            status = place.ask("status", store, before=words)
            exported = compare.table(store, place, before=words)
    except kinds.SkippedError as why:
        pytest.skip(str(why))
    assert status.returncode == 0, status.stderr
    assert "6 runs: 1 done" in status.stdout
    assert exported == history.half_table
    assert {name: path.read_bytes() for name, path in compare.files(store).items()} == before


def test_the_comparison_finds_what_differs(history, good, place):
    store = place.folder / "altered"
    shutil.copytree(good.store, store)
    assert compare.differences(store, good.store, place) == []
    first, second, third, fourth, *_ = sorted((store / "runs").iterdir())
    (first / "eval_losses.npy").unlink()
    record = (second / "record.json").read_text()
    (second / "record.json").write_text(record.replace('"wall_seconds": ', '"wall_seconds": 1'))
    (third / "record.json").write_text((third / "record.json").read_text().replace('"loss": ', '"loss": 1'))
    (fourth / "failure.json").write_text("{}")
    (fourth / "record.json.corrupt-1").write_text("{")
    (fourth / ".record.json.123").write_text("{")
    assert compare.differences(store, good.store, place) == [
        f"runs/{first.name}/eval_losses.npy is missing",
        f"runs/{third.name}/record.json differs",
        f"runs/{fourth.name}/failure.json is left over",
    ]
    assert len(compare.set_aside(store)) == len(compare.unfinished(store)) == 1
