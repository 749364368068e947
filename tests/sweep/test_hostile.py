"""Files that somebody else wrote: bounded, refused in one line, and never a way out of the study's folder."""

import json
import os
import random

import fuzz
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep.studies import TEXT, board_at, finish, identities, record_of, sealed

from qscale import bounded
from qscale.cli import main
from qscale.errors import ConfigError, QScaleError, StoreError
from qscale.records import Record
from qscale.sweep import table
from qscale.sweep.board import Board, last_step
from qscale.sweep.grid import Source, Study
from qscale.sweep.store import Store
from qscale.training.config import RunConfig
from qscale.training.losses import read_losses

BOUNDED = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def board(tmp_path):
    board = board_at(tmp_path / "study")
    for job in board.runs.values():
        finish(board.store, job.config)
    return board


def sparse(path, size=10**10):
    """A file of ten gigabytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)


def call(*words):
    return CliRunner().invoke(main, ["sweep", *map(str, words)])


# Bounds


def test_a_file_larger_than_its_bound_is_not_read(tmp_path):
    path = tmp_path / "large"
    sparse(path)
    with pytest.raises(ValueError, match="10000000000 bytes, where at most 100 are read"):
        bounded.read_bytes(path, 100)
    path.write_bytes(b"x" * 100)
    assert bounded.read_bytes(path, 100) == b"x" * 100


def test_pipes_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises((ValueError, OSError)):
            bounded.read_bytes(path, 100)
        with pytest.raises((ValueError, OSError)):
            bounded.read_end(path, 100)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "NaN", "[Infinity]", "1" * 5000, "{", '{"a": 1} x', "\ud800"]
)
def test_json_is_strict_and_every_fault_a_value_error(text):
    with pytest.raises(ValueError):
        bounded.loads(text)


def test_an_id_is_hex_and_no_path():
    assert bounded.is_id("0123456789abcdef")
    for text in ("../../etc/passwd", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef\n", 7, None):
        assert not bounded.is_id(text)


@pytest.mark.parametrize("name", ["study.yaml", "corpus.json"])
def test_a_study_of_ten_gigabytes_is_one_line(board, name):
    sparse(board.store.path / name)
    for words in (("status",), ("export", "--out", board.store.path / "x.csv"), ("gc",)):
        result = call(words[0], board.store.path, *words[1:])
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["record.json", "failure.json", "curve.jsonl", "eval_losses.npy", "config.json"]
)
def test_files_of_ten_gigabytes_in_a_run_are_left_out(board, name):
    job = next(job for job in board.runs.values() if job.baseline_id)
    (board.store.folder(job) / "record.json").unlink()
    sparse(board.store.folder(job) / name)
    assert call("status", board.store.path).exit_code == 0
    assert call("export", board.store.path, "--out", board.store.path / "x.csv").exit_code == 0
    board.store.write_config(job)
    assert not board.store.has_losses(job.id, 8, None) or name != "eval_losses.npy"


# Numbers, names and paths


@pytest.mark.parametrize(
    "change",
    [
        {"loss": 10**400},
        {"loss": True},
        {"loss": "1.5"},
        {"N": 2**63},
        {"N": 1.5},
        {"D": -1},
        {"wall_seconds": None},
        {"wall_seconds": float("nan")},
        {"G": "32"},
        {"config": []},
        {"mode": 7},
        {"diverged": 0},
        {"diverged_step": -1},
        {"baseline_run_id": "../../../../secret"},
        {"run_id": "../../../../secret"},
        {"versions": None},
    ],
    ids=str,
)
def test_a_record_with_a_value_that_cannot_be_is_damaged(board, change):
    job = next(iter(board.runs.values()))
    data = {**json.loads(record_of(job.config).dumps()), **change}
    with pytest.raises(StoreError) as caught:
        Record.loads(json.dumps(data))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_baseline_that_a_record_names_is_no_path(board):
    job = next(job for job in board.runs.values() if job.baseline_id)
    path = board.store.run_folder(job.id) / "record.json"
    path.write_text(sealed(path.read_text().replace(job.baseline_id, "../../elsewhere")))
    said = []
    assert len(table.observations(board.store.path, say=said.append)) == 3
    assert "is not 16 hex digits" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"path": ["/etc"]},
        {"path": "a\x00b"},
        {"threads": "many"},
        {"threads": 0},
        {"device": 7},
        {"sha256": None},
        {"tokenizer": {"name": "bpe:512", "id": "bpe:512@../../../secret", "vocab_size": 512}},
        {"tokenizer": {"name": "bpe:512", "id": "bpe:512@" + "ab" * 8, "vocab_size": 10**30}},
        {"tokenizer": []},
        {"tokenizer": None},
        {"tokenizer": "bytes"},
    ],
    ids=str,
)
def test_a_note_of_the_corpus_that_cannot_be_is_damaged(board, change):
    path = board.store.path / "corpus.json"
    note = json.loads(path.read_text())
    (note if {"threads", "device"} & change.keys() else note["sources"][0]).update(change)
    path.write_text(json.dumps(note))
    result = call("status", board.store.path)
    assert result.exit_code == 1
    assert "corpus.json is damaged" in result.stderr and result.stderr.count("\n") == 1


def test_a_path_longer_than_any_name_is_no_corpus(board):
    path = board.store.path / "corpus.json"
    note = json.loads(path.read_text())
    note["sources"][0]["path"] = "9" * 5000
    path.write_text(json.dumps(note))
    assert board.store.corpus_name(Source("python")) == "python"
    board.store.begin(identities())


def test_a_failure_reaches_a_terminal_as_one_plain_line(board):
    job = next(iter(board.runs.values()))
    (board.store.folder(job) / "record.json").unlink()
    board.store.write_failure(job, "first\n\x1b[2Jsecond" + "x" * 10**6)
    said = Board(board.store, board.jobs).store.failure(job)
    assert said.startswith("first ?[2Jsecond") and len(said) <= 2000
    for text in ("[" * 50_000, "[]", '{"error": NaN}', "null", '{"error": {"a": 1}}'):
        (board.store.folder(job) / "failure.json").write_text(text)
        assert call("status", board.store.path).exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        "[" * 3000,
        '{"step": 1, "loss": "much"}',
        '{"step": 1e999, "loss": 1.5}',
        '{"step": -1, "loss": 1.5}',
        "7",
    ],
)
def test_a_line_of_a_curve_that_cannot_be_is_no_news(board, line):
    job = next(iter(board.runs.values()))
    (board.store.folder(job) / "curve.jsonl").write_text(line + "\n")
    assert last_step(board.store.folder(job)) == {}


# Losses


def header(text):
    data = text.encode()
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data


def test_losses_are_read_back_as_numpy_wrote_them(tmp_path):
    for count in (0, 1, 8, 1024):
        np.save(tmp_path / "losses.npy", np.arange(count, dtype=np.float64))
        assert read_losses(tmp_path / "losses.npy").tolist() == list(range(count))


@pytest.mark.parametrize(
    "data",
    [
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999,), }\n") + b"x" * 80,
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }\n"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"cos\nsystem\n",
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }\n") + b"x" * 8,
        header("[" * 9000),
        b"\x80\x04cos\nsystem\n",
        b"PK\x03\x04",
        b"",
    ],
    ids=["huge", "larger", "objects", "matrix", "deep", "pickle", "zip", "empty"],
)
def test_losses_that_cannot_be_are_refused_before_anything_is_made_of_them(tmp_path, data):
    (tmp_path / "losses.npy").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        read_losses(tmp_path / "losses.npy")


# Studies

_LINES = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40))
_DEEP = "{hidden_size: 32, intermediate_size: 64, num_layers: 1000000000, num_heads: 1, num_kv_heads: 1}"
_MERGES = "\n".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        f"a0: &a0 [1]\n{_LINES}\n{TEXT}",
        f"m0: &m0 {{k: 1}}\n{_MERGES}\n{TEXT}",
        "sizes: &a [*a]",
        "sizes: " + "[" * 490 + "1," * 100_000,
        "sizes: [tiny-20k]\ntokens: [0x" + "f" * 900_000 + "]",
        TEXT + "seeds: [" + "9" * 5000 + "]",
        TEXT + "x: !!python/object/apply:os.system [id]",
        TEXT.replace("tiny-20k", _DEEP),
        TEXT.replace("w4a4", "'w=int4:g" + "9" * 5000 + "'"),
        TEXT + "tokenizer: bpe:" + "9" * 5000,
        "? [1]\n: 2",
        "tokens: 2001-99-99",
        "!!set {a, b}",
        "\x00",
    ],
    ids=[
        *("aliases", "merges", "itself", "nested", "hex", "digits", "object", "layers"),
        *("span", "bpe", "key", "date", "set", "control"),
    ],
)  # fmt: skip
def test_a_study_that_would_take_for_ever_is_refused_in_one_line(text):
    with pytest.raises((ConfigError, QScaleError)) as caught:
        Study.parse(text, "my.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000


def test_aliases_in_a_study_that_a_person_wrote_are_read():
    text = TEXT.replace("[8192, 16384]", "&d [8192, 16384]") + "x: 1"
    with pytest.raises(ConfigError, match="unknown key 'x'"):
        Study.parse(text)
    text = TEXT.replace("[w4a4]", "&r [w4a4]").replace("seeds", "") + "modes: [cooldown]\n"
    assert Study.parse(text).grids[0].recipes


def test_a_configuration_of_wrong_types_is_refused():
    good = next(iter(Study.parse(TEXT).runs("0" * 64))).to_json()
    for change in (
        {"tokens": 8192.0},
        {"tokens": 10**30},
        {"tokens": True},
        {"learning_rate": 1e305},
        {"learning_rate": "fast"},
        {"recipe": 7},
        {"model": []},
        {"mode": ["baseline"]},
        {"corpus": "x" * 10**6},
        {"weight_decay": -0.0},
    ):
        with pytest.raises(QScaleError):
            RunConfig.from_json({**good, **change})


# Checkpoints


@pytest.mark.parametrize(
    "state",
    [
        "[]",
        "[" * 50_000,
        '{"step": 5, "seconds": 1.0}',
        '{"step": 4.0, "seconds": 1.0}',
        '{"step": 4, "seconds": "long"}',
        '{"step": 4, "seconds": 1.0, "monitor": [1]}',
        '{"step": 4, "seconds": 1.0, "monitor": [1, 1e999, 0]}',
    ],
)
def test_a_checkpoint_whose_position_cannot_be_is_refused(tmp_path, state):
    import torch
    from torch import nn

    from qscale.training import checkpoint

    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "step-00000004"
    checkpoint.save(folder, model, optimizer, checkpoint.Position(step=4, seconds=1.0))
    assert checkpoint.restore(folder, model, optimizer).step == 4
    (folder / "state.json").write_text(state)
    with pytest.raises(StoreError, match="cannot be read"):
        checkpoint.restore(folder, model, optimizer)
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-x" / "state.json").write_text("{}")
    assert checkpoint.saved(tmp_path) == [folder]


@pytest.mark.parametrize("length", [2**62, 10**9, 0])
def test_weights_whose_header_claims_more_than_there_is_are_refused(tmp_path, length):
    from torch import nn

    from qscale.training import checkpoint

    head = json.dumps({"weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "model.safetensors").write_bytes((length or len(head)).to_bytes(8, "little") + head)
    with pytest.raises(StoreError, match="cannot be read"):
        checkpoint.load_weights(tmp_path, nn.Linear(2, 2))


# Mutations: benchmarks/fuzz.py for longer


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzz.Targets(tmp_path_factory.mktemp("fuzz")).all


@pytest.mark.parametrize("name", [name[5:] for name in dir(fuzz.Targets) if name.startswith("read_")])
def test_mutations_of_valid_files_give_a_result_or_one_line(targets, name):
    for seed in range(8 if name == "commands" else 60):
        assert fuzz.attempt(targets[name], seed) is None


def test_the_fuzzer_can_fail():
    assert "ZeroDivisionError" in fuzz.attempt(lambda dice: dice.random() / 0, 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@BOUNDED
@given(data=JSON, field=st.sampled_from(sorted(Record.__dataclass_fields__)))
def test_any_json_in_any_field_of_a_record(data, field):
    config = next(iter(Study.parse(TEXT).runs("0" * 64)))
    text = json.dumps({**json.loads(record_of(config).dumps()), field: data})
    try:
        record = Record.loads(text)
    except StoreError as error:
        assert "\n" not in str(error)
    else:
        assert Record.loads(record.dumps()) == record


@BOUNDED
@given(data=JSON, field=st.sampled_from(sorted(RunConfig.__dataclass_fields__)))
def test_any_json_in_any_field_of_a_configuration(data, field):
    config = next(iter(Study.parse(TEXT).runs("0" * 64)))
    try:
        read = RunConfig.from_json({**config.to_json(), field: data})
    except QScaleError:
        return
    assert RunConfig.from_json(json.loads(json.dumps(read.to_json()))).run_id == read.run_id


@BOUNDED
@given(
    data=JSON,
    key=st.sampled_from(["sizes", "tokens", "recipes", "seeds", "training", "modes", "corpus", "workers"]),
)
def test_any_json_under_any_key_of_a_study(data, key):
    try:
        Study.parse(json.dumps({"sizes": ["tiny-20k"], "tokens": ["1M"], key: data}))
    except ConfigError as error:
        assert "\n" not in str(error)


@BOUNDED
@given(data=st.binary(max_size=200))
def test_any_bytes_as_any_file_of_a_run(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(TEXT)
    (folder / "corpus.json").write_bytes(data)
    for name in ("curve.jsonl", "eval_losses.npy"):
        (folder / name).write_bytes(data)
    assert last_step(folder).keys() <= {"step", "loss"}
    for read in (lambda: Store(folder).runs(), lambda: read_losses(folder / "eval_losses.npy")):
        try:
            read()
        except StoreError as error:
            assert "\n" not in str(error)


# Many damaged


def test_a_store_with_one_damaged_record_in_a_hundred(tmp_path):
    import large_store

    store = large_store.make(tmp_path / "study", 1000, curves=False)
    runs = store.runs()
    dice = random.Random(0)
    lost = dice.sample([run for run in runs if run.recipe is not None], 10)
    for run in lost:
        path = store.run_folder(run.run_id) / "record.json"
        path.write_bytes(fuzz.torn(path.read_bytes()[: dice.randrange(1, 1500)], dice))
    said = []
    rows = table.observations(store.path, say=said.append)
    assert len(rows) == 900 - 10
    assert len(said) == 5 and said[3].startswith("and 7 more damaged records: left out")
    assert said[4] == "890 of 900 quantized runs are done"

    result = call("status", store.path)
    assert result.exit_code == 0 and "1000 runs: 990 done, 10 waiting" in result.stdout
    assert result.stderr.count("\n") == 4 and len(result.stdout.splitlines()) < 60
    assert json.loads(call("status", store.path, "--json").stdout)["damaged"] == 10
    exported = call("export", store.path, "--out", tmp_path / "x.csv")
    assert exported.stdout.startswith("890 rows") and exported.stderr.count("\n") == 5

    store.say = said.append
    board = Board(store, large_store.jobs(runs))
    undone = {job.id for job in board.runs.values() if board.look()[job.id] != "done"}
    assert undone == {run.run_id for run in lost}
    for run in lost:
        board.repair(board.runs[run.run_id])
        finish(store, run)
    assert all((store.run_folder(run.run_id) / "record.json.corrupt-1").exists() for run in lost)
    assert set(Board(store, board.jobs).look().values()) == {"done"}
