"""The run store: whole files, damaged records, locks, a full disk."""

import csv
import errno
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sweep.studies import SHA, TEXT, board_at, finish, identities, record_of

from qscale.errors import ConfigError, StoreError, StudyError
from qscale.sweep import files, table
from qscale.sweep.begin import begin
from qscale.sweep.board import Board
from qscale.sweep.grid import Identity, Source, Study
from qscale.sweep.merge import merged
from qscale.sweep.store import Store
from qscale.training import paths
from qscale.training.losses import losses_sha256


@pytest.fixture
def board(tmp_path):
    return board_at(tmp_path / "study")


@pytest.fixture
def said(board):
    lines = []
    board.store.say = lines.append
    return lines


def baseline_of(board):
    return next(job for job in board.runs.values() if job.baseline_id is None)


def test_a_record_is_read_back_as_written(board):
    job = baseline_of(board)
    assert board.store.record(job.id) is None
    finish(board.store, job.config)
    assert board.store.record(job.id) == record_of(job.config)
    assert board.done(job)


def test_a_valid_record_is_never_overwritten(board):
    job = baseline_of(board)
    board.store.write_record(record_of(job.config, loss=1.5))
    board.store.write_record(record_of(job.config, loss=9.0))
    assert board.store.record(job.id).loss == 1.5


DAMAGE = {
    "empty": lambda _: "",
    "torn": lambda text: text[: len(text) // 2],
    "not-an-object": lambda _: "[]",
    "not-finite": lambda text: text.replace('"loss": 1.5', '"loss": NaN'),
    "other-run": lambda text: text.replace('"run_id": "', '"run_id": "0'),
    "not-text": lambda text: b"\xff\xfe" + text.encode(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_is_moved_aside_said_and_not_done(board, said, damage):
    job = baseline_of(board)
    path = board.store.run_folder(job.id) / "record.json"
    for number in (1, 2):  # a second damaged one does not replace the first that was moved
        finish(board.store, job.config)
        damaged = damage(path.read_text())
        path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        assert board.store.record(job.id) is None
        assert not board.done(job)
        board.store.repair(job.id)
        assert not path.exists()
        assert path.with_name(f"record.json.corrupt-{number}").exists()
        assert f"moved to record.json.corrupt-{number}" in said[-1]


def test_repair_leaves_a_good_record_alone(board, said):
    job = baseline_of(board)
    finish(board.store, job.config)
    board.store.repair(job.id)
    assert board.done(job) and not said


def test_a_full_disk_is_one_line_with_the_remedy_and_keeps_the_old_file(board, monkeypatch):
    path = board.store.path / "file.json"
    files.write_whole(path, "old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: raise_full())
            with pytest.raises(StoreError, match="disk is full: free some space and run the same command"):
                files.write_whole(path, "new")
        assert path.read_text() == "old"
        assert list(board.store.path.glob(".file*")) == []


def raise_full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_behind_other_errors_is_recognised():
    try:
        try:
            raise RuntimeError("Error while serializing: No space left on device (os error 28)")
        except RuntimeError as error:
            raise StoreError("checkpoint cannot be written") from error
    except StoreError as error:
        assert files.is_disk_full(error)
    assert not files.is_disk_full(StoreError("other"))


def test_readers_see_the_old_file_or_the_new_one_never_a_part(tmp_path):
    path, texts = tmp_path / "file", {"a" * 100_000, "b" * 100_000}
    files.write_whole(path, "a" * 100_000)
    stop = threading.Event()
    seen = set()

    def read():
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for text in sorted(texts) * 20:
        files.write_whole(path, text)
    stop.set()
    reader.join()
    assert seen <= texts


HOLD = """
import sys
from pathlib import Path
from qscale.sweep import files
with files.lock(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_a_second_process_out_until_its_owner_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with files.lock(tmp_path) as held:
            assert not held
        assert files.is_locked(tmp_path)
        other.kill()
        other.wait()
        assert not files.is_locked(tmp_path)
        with files.lock(tmp_path) as held:
            assert held


def test_a_folder_that_is_no_study_is_one_line(tmp_path):
    with pytest.raises(StoreError, match="is not a folder"):
        Store(tmp_path / "missing")
    with pytest.raises(StoreError, match=r"holds no study\.yaml"):
        Store(tmp_path)
    (tmp_path / "other").write_text("mine")
    with pytest.raises(StoreError, match="is not empty and holds no study"):
        Store.create(tmp_path, TEXT)


def test_an_unreadable_study_is_one_line(tmp_path, monkeypatch):
    board_at(tmp_path / "study")

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no mode keeps out
    with pytest.raises(StoreError, match=r"cannot read the study folder .*Permission denied"):
        Store(tmp_path / "study")


def test_a_corpus_that_changed_is_refused_and_another_one_is_not(board):
    with pytest.raises(StoreError, match="has changed since this study began"):
        board.store.begin(identities(sha256="cd" * 32))
    with pytest.raises(StoreError, match="has changed since this study began"):
        board.store.begin(identities(TEXT + "tokenizer: bpe:512\n", "cd" * 32))
    board.store.begin({Source("file:other"): Identity("cd" * 32)})
    noted = {"corpus": "file:other", "sha256": "cd" * 32, "path": str(Path("other").absolute())}
    assert json.loads((board.store.path / "corpus.json").read_text()) == {
        "threads": 1,
        "device": "cpu",
        "sources": [{"corpus": "python", "sha256": SHA}, noted],
    }
    assert len(board.store.runs()) == 6, "those of the first corpus"


def test_threads_and_device_are_those_that_the_study_began_with(board):
    for changed in ({"threads": 2}, {"device": "cuda"}, {"threads": 2, "device": "cuda:1"}):
        with pytest.raises(
            StudyError, match=r"began with 1 thread on cpu; pairs must share both.*--threads 1"
        ):
            board.store.begin(identities(), **changed)
    board.store.begin(identities())


def test_a_damaged_note_of_the_corpus_is_an_error_that_says_so(board):
    (board.store.path / "corpus.json").write_text('{"name": "pyt')
    with pytest.raises(StoreError, match=r"corpus\.json is damaged"):
        board.store.runs()


def test_a_corpus_in_a_file_is_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "text.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    text, source = TEXT.replace("python", "file:text.txt"), Source("file:text.txt")
    store = Store.create(tmp_path / "study", text)
    assert store.corpus_name(source) == "file:text.txt"
    store.begin(identities(text))
    monkeypatch.chdir(tmp_path / "here")
    assert store.corpus_name(source) == f"file:{tmp_path / 'text.txt'}"
    store.begin(identities(text))  # a second session, from here, keeps the path
    assert store.corpus_name(source) == f"file:{tmp_path / 'text.txt'}"


def test_another_study_is_refused_where_finished_runs_would_leave_it(board):
    for job in board.runs.values():
        finish(board.store, job.config)
    path = board.store.path
    for text, lost, why in (
        (TEXT.replace("8192, ", ""), "3 finished runs", "tokens 8.19k, the study now says 16.4k"),
        (TEXT.replace("[16, 32]", "[16]"), "2 finished runs", "recipe w4a4:g32, not in the study"),
        (TEXT.replace("python", "file:other"), "6 finished runs", "its corpus or tokenizer is another one"),
    ):
        with pytest.raises(
            StudyError, match=rf"{lost} of it would no longer belong \(.*{why}\).*--replace"
        ) as caught:
            Store.create(path, text)
        assert caught.value.exit_code == 2
        assert (path / "study.yaml").read_text() == TEXT
    larger = TEXT + "seeds: [0, 1]\n"
    Store.create(path, larger)
    Store.create(path, TEXT)  # nothing of the second seed had finished
    Store.create(path, TEXT.replace("8192, ", ""), replace=True)
    assert len(list(board.store.records())) == 6


def test_a_folder_in_the_way_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(StudyError, match="name a new folder"):
            Store.create(path, TEXT)


def test_a_second_recipe_extends_a_ladder_and_other_ladders_do_not_merge():
    first = TEXT.replace("[w4a4]", "[w4a4:g32]").replace("group_sizes: [16, 32]\n", "")
    second = first.replace("w4a4:g32", "w8a8:g32").replace("8192, 16384", "16k, 32k")
    text = merged(first, Study.parse(second))
    study = Study.parse(text)
    assert {run.run_id for each in (first, second) for run in Study.parse(each).runs(SHA)} == {
        run.run_id for run in study.runs(SHA)
    }, "no products of the two"
    assert merged(text, Study.parse(first)) == text
    for other in (
        second.replace("20k]", "46k]"),
        second.replace("python", "file:other"),
        second + "seeds: [1]",
        second + "seeds: [0, 1]",
        second.replace("0.003", "0.002"),
    ):
        assert merged(first, Study.parse(other)) is None


def test_ladders_of_any_family_or_shape_merge_with_their_own_and_no_other():
    shape = "{hidden_size: 32, intermediate_size: 96, num_layers: 1, num_heads: 1, num_kv_heads: 1}"
    for size in ("tiny-20k", "tiny-20k-opt", shape):
        first = TEXT.replace("tiny-20k", size)
        text = merged(first, Study.parse(first.replace("8192", "24576")))
        assert {run.run_id for run in Study.parse(first).runs(SHA)} < {
            run.run_id for run in Study.parse(text).runs(SHA)
        }
    assert merged(TEXT, Study.parse(TEXT + "family: qwen3")) is None
    assert merged(TEXT + "family: [llama, qwen3]", Study.parse(TEXT)) is None


def test_extending_a_study_keeps_its_records_and_counts_those_left_out(board, said, monkeypatch):
    for job in board.runs.values():
        finish(board.store, job.config)
    Store.create(board.store.path, TEXT.replace("8192, ", "4096, "), replace=True)
    board.store.begin(identities())
    assert len(table.observations(board.store.path, say=said.append)) == 2
    assert said == [
        "3 records do not belong to study.yaml as it is now: left out, kept on disk",
        "  3 runs: tokens 8.19k, not in the study",
        "2 of 4 quantized runs are done",
    ]
    monkeypatch.setattr("qscale.data.corpus.load", lambda _: FakeCorpus())
    said.clear()
    extended, _ = begin(board.store, said.append)
    assert sum(extended.done(job) for job in extended.runs.values()) == 3
    assert said[:2] == [
        "3 records do not belong to study.yaml as it is now: left out, kept on disk",
        "  3 runs: tokens 8.19k, not in the study",
    ]
    assert "3 of 6 runs already done" in said


class FakeCorpus:
    sha256 = SHA

    def check_evaluation(self, windows, context):
        assert windows > 0 and context > 0

    def check(self, tokens, context, *, allow_repeat):
        assert tokens > 0 and context > 0 and not allow_repeat


def test_observations_hold_one_row_for_each_quantized_run(board, said):
    for job in board.runs.values():
        finish(board.store, job.config)
    path = board.store.run_folder(baseline_of(board).id) / "record.json"
    path.write_text("{")
    rows = table.observations(board.store.path, say=said.append)
    assert len(rows) == 4 and len({row["ladder"] for row in rows}) == 1
    assert {row["recipe"] for row in rows} == {"w4a4:g16", "w4a4:g32"}
    assert [row["baseline_loss"] for row in rows].count(None) == 2  # those of the damaged baseline
    assert len(said) == 1 and "is damaged" in said[0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_writes_what_was_observed(board, tmp_path, suffix):
    for job in board.runs.values():
        board.store.write_record(record_of(job.config, diverged=True, loss=None, delta=None, delta_se=None))
    rows, out = table.observations(board.store.path), tmp_path / f"table.{suffix}"
    table.export(rows, out)
    if suffix == "parquet":
        from pyarrow import parquet

        assert parquet.read_table(out).to_pylist() == rows
    else:
        with out.open() as file:
            got = list(csv.DictReader(file))
        assert [row["run_id"] for row in got] == [row["run_id"] for row in rows]
        assert {(row["delta"], row["diverged"], row["N"]) for row in got} == {("", "True", "20640")}


def test_export_says_what_it_cannot_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"end the name with \.csv or \.parquet"):
        table.export([], tmp_path / "table.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StoreError, match="pip install pyarrow"):
        table.export([], tmp_path / "table.parquet")


def test_a_failure_is_kept_until_it_is_cleared(board):
    job = baseline_of(board)
    assert board.store.failure(job) is None
    board.store.write_failure(job, "went wrong", "the tail")
    assert board.store.failure(job) == "went wrong"
    assert board.state(job) == "failed"
    (board.store.folder(job) / "failure.json").write_text('{"err')
    assert "cannot be read" in board.store.failure(job)
    board.store.clear_failure(job)
    assert board.store.failure(job) is None


def test_no_bit_of_a_record_turns_unnoticed(board):
    job = baseline_of(board)
    finish(board.store, job.config, loss=1.0625)
    path = board.store.run_folder(job.id) / "record.json"
    good = path.read_bytes()
    dice = random.Random(0)
    for place in (
        *dice.sample(range(len(good)), 60),
        good.index(b"1.0625"),
        *range(len(good) - 90, len(good)),
    ):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << dice.randrange(8)]) + good[place + 1 :])
        assert board.store.record(job.id) is None, place
    path.write_bytes(good)
    assert board.store.record(job.id).loss == 1.0625


def test_losses_in_which_a_bit_turned_are_set_aside_when_a_session_begins(board, said):
    jobs = list(board.runs.values())
    for job in jobs:
        finish(board.store, job.config)
        losses = np.load(paths.eval_losses(board.store.run_folder(job.id)))
        (board.store.run_folder(job.id) / "record.json").unlink()
        board.store.write_record(record_of(job.config, eval_losses_sha256=losses_sha256(losses)))
    bad = jobs[-1]
    path = paths.eval_losses(board.store.run_folder(bad.id))
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
    fresh = Board(board.store, board.jobs)
    assert fresh.state(bad) == "done", "nothing reads them until then"
    fresh.tidy()
    assert {job.id for job in jobs if Board(board.store, board.jobs).state(job) != "done"} == {bad.id}
    assert path.with_name("eval_losses.npy.corrupt-1").exists()
    assert "missing or damaged" in said[-1]


def test_what_a_killed_worker_left_of_a_trunk_that_is_done_goes_when_a_session_begins(board):
    for job in board.runs.values():
        finish(board.store, job.config)
    (trunk,) = board.trunks.values()
    rolling = paths.checkpoints(board.store.folder(trunk)) / "step-00000010"
    rolling.mkdir(parents=True)
    with board.store.lock(trunk):
        Board(board.store, board.jobs).tidy()
    assert rolling.exists(), "another process works there"
    Board(board.store, board.jobs).tidy()
    assert not rolling.exists()


def test_a_driver_that_died_in_its_first_write_does_not_spoil_the_folder(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ".study.yaml.4711").write_text(TEXT[:20])
    assert Store.create(tmp_path / "study", TEXT).study()
