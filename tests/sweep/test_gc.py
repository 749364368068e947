"""What may be deleted of a study's folder, and what never."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from sweep.studies import TEXT, board_at, finish, record_of

from qscale.cli import main
from qscale.errors import StudyError
from qscale.sweep import files, gc
from qscale.sweep.board import Board
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.training import paths

PRECIOUS = ("record.json", "eval_losses.npy", "curve.jsonl", "config.json", "final/model.safetensors")


@pytest.fixture
def board(tmp_path):
    """A study whose runs are all done, with everything that a run may leave."""
    board = board_at(tmp_path / "study")
    for job in board.runs.values():
        finish(board.store, job.config)
        folder = board.store.folder(job)
        board.store.write_config(job)
        for name in ("curve.jsonl", "final/model.safetensors", "checkpoint/step-00000004/model.safetensors"):
            write(folder / name)
    for trunk in board.trunks.values():
        for step in trunk.steps:
            write(paths.branch_checkpoint(board.store.folder(trunk), step) / "model.safetensors")
        write(board.store.folder(trunk) / "curve.jsonl")
    return board


def write(path, size=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1, 1))
    os.utime(path.parent, (1, 1))


def found(board, **options):
    return {item.path.relative_to(board.store.path).as_posix(): item for item in gc.find(board, **options)}


def test_checkpoints_that_nothing_needs_are_listed_and_nothing_else(board):
    before = sorted(board.store.path.rglob("*"))
    items = found(board)
    trunk = next(iter(board.trunks))
    assert items.keys() == {f"runs/{run}/checkpoint" for run in board.runs} | {f"trunks/{trunk}/branches"}
    assert {item.size for item in items.values()} == {100, 200}
    assert sorted(board.store.path.rglob("*")) == before


def test_what_belongs_to_the_study_is_left_after_everything_was_deleted(board):
    gc.delete(list(gc.find(board, strangers=True, corrupt=True)))
    for run in board.runs:
        folder = board.store.run_folder(run)
        assert [name for name in PRECIOUS if not (folder / name).exists()] == []
        assert not (folder / "checkpoint").exists()
    again = Board(board.store, board.jobs)
    assert set(again.look().values()) == {"done"}
    assert found(again, strangers=True, corrupt=True) == {}


def test_a_checkpoint_that_an_undone_run_needs_stays(board):
    undone = next(job for job in board.runs.values() if job.baseline_id)
    (board.store.folder(undone) / "record.json").unlink()
    items = found(Board(board.store, board.jobs))
    branches = f"trunks/{undone.trunk_id}/branches"
    (other,) = {job.steps[0] for job in board.runs.values()} - {undone.steps[0]}
    assert f"{branches}/step-{other:08d}" in items
    assert f"{branches}/step-{undone.steps[0]:08d}" not in items and branches not in items
    assert f"runs/{undone.id}/checkpoint" not in items


def test_a_trunk_that_goes_on_keeps_all_its_checkpoints(board):
    undone = next(iter(board.runs.values()))
    (board.store.folder(undone) / "record.json").unlink()
    step = paths.branch_checkpoint(board.store.trunk_folder(undone.trunk_id), undone.steps[0])
    shutil.rmtree(step)
    assert not [name for name in found(Board(board.store, board.jobs)) if name.startswith("trunks/")]


def test_a_locked_folder_is_neither_listed_nor_deleted(board):
    items = list(gc.find(board))
    run = next(iter(board.runs))
    hold = "import sys\nfrom pathlib import Path\nfrom qscale.sweep import files\n"
    hold += "with files.lock(Path(sys.argv[1])):\n    print(1, flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(board.store.run_folder(run))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert f"runs/{run}/checkpoint" not in found(board)
        gone = gc.delete(items)
        other.stdin.close()
        other.wait()
    assert len(gone) == len(items) - 1
    assert (board.store.run_folder(run) / "checkpoint").exists()


def test_strangers_go_only_when_asked_for_and_never_all_of_them(board):
    Store.create(board.store.path, TEXT.replace("8192, ", ""), replace=True)
    store = Store(board.store.path)
    kept = Board(store, jobs(store.runs()))
    lost = board.runs.keys() - kept.runs.keys()
    names = {f"runs/{run}" for run in lost}
    assert not names & found(kept).keys()
    assert names <= found(kept, strangers=True).keys()
    gc.delete(list(gc.find(kept, strangers=True)))
    assert {record.run_id for record in store.records()} == kept.runs.keys()
    with pytest.raises(StudyError, match="leave --strangers out"):
        list(gc.find(Board(store, []), strangers=True))


def test_temporary_files_of_the_dead_go_and_those_of_the_living_and_the_young_stay(board):
    folder = board.store.run_folder(next(iter(board.runs)))
    dead = 2**22 + 1  # above the largest process number
    old = [folder / f".record.json.{dead}", board.store.path / f".study.yaml.{dead}"]
    for path in old:
        write(path)
    write(folder / f".curve.jsonl.{os.getpid()}")
    write(folder / ".hidden")
    (folder / f".config.json.{dead}").write_text("young")
    named = {path.relative_to(board.store.path).as_posix() for path in old}
    assert {name for name in found(board) if "/." in name or name.startswith(".")} == named


def test_what_was_set_aside_goes_only_when_asked_for(board):
    path = board.store.run_folder(next(iter(board.runs))) / "record.json.corrupt-1"
    write(path)
    name = path.relative_to(board.store.path).as_posix()
    assert name not in found(board) and name in found(board, corrupt=True)


def test_links_and_folders_of_others_are_left_alone(board, tmp_path):
    write(tmp_path / "elsewhere" / "file")
    runs = board.store.path / "runs"
    (runs / "0123456789abcdef").symlink_to(tmp_path / "elsewhere")
    write(runs / "notes" / "mine.txt")
    checkpoint = paths.checkpoints(board.store.run_folder(next(iter(board.runs))))
    (checkpoint / "link").symlink_to(tmp_path / "elsewhere")
    items = list(gc.find(board, strangers=True))
    assert not [item for item in items if item.path.name in ("0123456789abcdef", "notes")]
    gc.delete(items)
    assert (tmp_path / "elsewhere" / "file").exists() and (runs / "notes" / "mine.txt").exists()
    runs.rename(tmp_path / "moved")
    runs.symlink_to(tmp_path / "moved")
    assert not [name for name in found(board, strangers=True) if name.startswith("runs/")]


def test_the_command_deletes_nothing_without_delete(board):
    def call(*words):
        result = CliRunner().invoke(main, ["sweep", "gc", str(board.store.path), *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    listed = call()
    assert "7 items, 800B; to delete them: add --delete" in listed
    assert "(checkpoints of a finished run)" in listed
    data = json.loads(call("--json"))
    assert (len(data["items"]), data["bytes"], data["deleted"]) == (7, 800, 0)
    assert call("--delete").endswith("7 items deleted, 800B\n")
    assert call() == "nothing to delete\n"
    assert record_of(next(iter(board.runs.values())).config).run_id in board.runs
    assert not files.is_locked(board.store.path)
