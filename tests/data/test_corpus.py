"""Corpora: split by document, the same bytes every time, clear errors."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.data import corpus
from qscale.data.batches import TrainingBatches, evaluation_sequences
from qscale.errors import CorpusError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))


def _folder(tmp_path, documents):
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for name, text in documents.items():
        (folder / name).write_text(text)
    return folder


def test_load_folder_keeps_each_file_whole_in_one_split(tmp_path):
    texts = {f"{i}.txt": f"document {i} " * (20000 if i == 3 else 5) for i in range(10)}
    loaded = corpus.load(f"file:{_folder(tmp_path, texts)}")
    parts = [bytes(split).split(b"\0")[:-1] for split in (loaded.train, loaded.validation)]
    assert [len(part) for part in parts] == [9, 1]
    assert {part.decode() for split in parts for part in split} == set(texts.values())


def test_load_twice_gives_the_same_bytes_and_builds_once(tmp_path, monkeypatch):
    name = f"file:{_folder(tmp_path, {'a.txt': 'one', 'b.txt': 'two'})}"
    first = corpus.load(name)
    monkeypatch.setattr(corpus, "_build", lambda *_: pytest.fail("built again"))
    second = corpus.load(name)
    assert (first.sha256, first.train.tobytes()) == (second.sha256, second.train.tobytes())


def test_sha256_changes_when_a_file_changes(tmp_path):
    folder = _folder(tmp_path, {"a.txt": "one", "b.txt": "two"})
    before = corpus.load(f"file:{folder}").sha256
    (folder / "a.txt").write_text("one, and more")
    assert corpus.load(f"file:{folder}").sha256 != before


def test_exact_copies_count_once(tmp_path):
    loaded = corpus.load(f"file:{_folder(tmp_path, {'a.txt': 'same', 'b.txt': 'same', 'c.txt': 'other'})}")
    assert loaded.documents == 2


@settings(max_examples=30, deadline=None)
@given(line=st.integers(0, 200_000), lines=st.integers(0, 9), tail=st.integers(0, 200_000))
def test_blocks_of_one_text_join_to_the_text(line, lines, tail):
    data = (b"a" * line + b"\n") * lines + b"b" * tail
    blocks = list(corpus.blocks(data))
    assert b"".join(blocks) == data
    assert all(len(block) >= 65536 for block in blocks[:-1])


def test_jsonl_documents_are_its_text_fields(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(3)))
    loaded = corpus.load(f"file:{path}")
    whole = bytes(loaded.train) + bytes(loaded.validation)
    assert sorted(whole.split(b"\0")) == [b"", b"line 0", b"line 1", b"line 2"]


def test_jsonl_line_without_text_names_the_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(CorpusError, match="line 2"):
        corpus.load(f"file:{path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [("pile", "unknown corpus 'pile'"), ("file:nowhere.txt", "'nowhere.txt' does not exist")],
)
def test_load_unknown_or_missing_says_what_to_use(name, message):
    with pytest.raises(CorpusError, match=message):
        corpus.load(name)


def test_load_folder_without_text_or_with_one_document_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="holds no"):
        corpus.load(f"file:{_folder(tmp_path, {'a.bin': 'x'})}")
    with pytest.raises(CorpusError, match="at least two"):
        corpus.load(f"file:{_folder(tmp_path, {'a.txt': 'x'})}")


def test_check_too_small_says_how_many_tokens_there_are(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0123456789\n" * 20_000)
    loaded = corpus.load(f"file:{path}")
    available = (len(loaded.train) - 1) // 16 * 16
    loaded.check(available, 16)
    with pytest.raises(CorpusError, match=f"{available:,} training tokens.*--allow-repeat"):
        loaded.check(available + 16, 16)
    loaded.check(available + 16, 16, allow_repeat=True)


def test_damaged_cache_is_an_error_that_names_the_folder(tmp_path):
    name = f"file:{_folder(tmp_path, {'a.txt': 'one', 'b.txt': 'two'})}"
    corpus.load(name)
    (path,) = corpus.cache_folder().glob("*/train.bin")
    path.write_bytes(b"x")
    with pytest.raises(CorpusError, match="delete"):
        corpus.load(name)


def test_python_corpus_is_installed_source_code():
    loaded = corpus.load("python")
    assert "numpy" in loaded.sources
    assert b"import numpy as np" in bytes(loaded.train[:5_000_000])
    assert loaded.validation.dtype == np.uint8
    assert len(loaded.validation) > 50 * 1024


def test_batches_of_bytes_are_pinned_so_that_old_runs_can_be_repeated(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(200):  # the last byte is no UTF-8 in some, and a NUL in one
        (folder / f"{i:03}.txt").write_bytes((f"document {i} " * (1 + i * 7 % 23)).encode() + bytes([i]))
    loaded = corpus.load(f"file:{folder}")
    batches = TrainingBatches(loaded.train, 32, 3)
    rows = [
        np.concatenate([batches.batch(step, 8) for step in range(60)]),
        evaluation_sequences(loaded.validation, 32, 10),
    ]
    assert [
        loaded.sha256[:16],
        *(hashlib.sha256(r.astype("<i8").tobytes()).hexdigest()[:16] for r in rows),
    ] == [
        "5362aac83a815aac",
        "94adc60572bd6d76",
        "51e12093db0484c3",
    ]


def test_documents_are_packed_end_to_end_in_the_order_of_their_hashes(tmp_path):
    texts = [b"one", b"two and", b"\xff\xfe", b"four"]
    folder = _folder(tmp_path, {})
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_bytes(text)
    loaded = corpus.load(f"file:{folder}")
    held_out, *rest = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    assert loaded.validation.tobytes() == held_out + b"\0"
    assert loaded.train.tobytes() == b"".join(text + b"\0" for text in rest)


def test_the_same_relative_path_in_two_folders_is_two_corpora(tmp_path, monkeypatch):
    found = []
    for place, text in (("here", "one"), ("there", "two")):
        folder = tmp_path / place
        folder.mkdir()
        path = folder / "x.jsonl"
        path.write_text("".join(json.dumps({"text": f"{text} {i}"}) + "\n" for i in range(3)))
        os.utime(path, ns=(10**18, 10**18))  # a copy that keeps its times, and happens to be as long
        monkeypatch.chdir(folder)
        found.append(corpus.load("file:x.jsonl").sha256)
    assert found[0] != found[1]


@pytest.mark.parametrize("data", [b"", b"\n \n", b"one document"])
def test_empty_files_and_single_documents_say_what_is_needed(tmp_path, data):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=r"has [01] document\(s\): at least two"):
        corpus.load(f"file:{tmp_path / 'x.txt'}")
    assert not list(corpus.cache_folder().iterdir()), "no rubbish left"


def test_unknown_corpus_names_the_nearest():
    with pytest.raises(CorpusError, match="did you mean 'python'"):
        corpus.load("pyhton")
