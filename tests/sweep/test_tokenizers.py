"""A study with a tokenizer of its own: from the file to the records, and again from another folder."""

import json
import shutil

import pytest
import torch
from sweep.studies import SHA, TEXT, write_text

from qscale.data.tokenizer import TokenizerId
from qscale.errors import ConfigError, StoreError
from qscale.sweep import worker
from qscale.sweep.begin import begin
from qscale.sweep.corpora import load
from qscale.sweep.grid import Identity, Source, Study
from qscale.sweep.merge import merged
from qscale.sweep.store import Store, quiet
from qscale.training.how import How

pytest.importorskip("tokenizers")

BPE = TokenizerId("bpe:512@0123456789abcdef", 512)
SMALL = """\
corpus: file:text.txt
tokenizer: {tokenizer}
sizes: [tiny-20k]
tokens: [24k]
training: {{batch_sequences: 8, context: 32, warmup_steps: 5, eval_windows: 32, learning_rate: 0.01}}
"""


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def _train(folder, text):
    store = Store.create(folder, text)
    board, corpora = begin(store, quiet)
    worker.set_threads(1)
    worker.work(board, corpora, How())
    (record,) = store.records()
    return store, corpora.of(board.jobs[0].config), record


def test_bpe_study_learns_and_compares_with_bytes_in_bits_per_byte(tmp_path):
    write_text(tmp_path / "text.txt")
    store, corpus, record = _train(tmp_path / "bpe", SMALL.format(tokenizer="bpe:512"))
    _, _, of_bytes = _train(tmp_path / "bytes", SMALL.format(tokenizer="bytes"))
    assert record.config["model"]["vocab_size"] == 512
    assert record.config["tokenizer"] == corpus.tokenizer.text
    assert record.loss < 6.24 - 1, "better than guessing among 512"
    assert record.bits_per_byte == record.loss / torch.tensor(
        2.0
    ).double().log().item() / corpus.bytes_per_token(32, 32)
    assert 0.5 < record.bits_per_byte / of_bytes.bits_per_byte < 1.5
    assert record.epochs == record.D / len(corpus.train)
    (kept,) = (store.path / "tokenizers").iterdir()
    assert record.config["tokenizer"] == f"bpe:512@{kept.stem}"

    shutil.rmtree(tmp_path / "cache")  # another machine: the study's own vocabulary, encoded anew
    again = load(store, Source("file:text.txt", "bpe:512"))
    assert again.train.tobytes() == corpus.train.tobytes()
    kept.write_text("{}")
    with pytest.raises(StoreError, match="gone or damaged"):
        begin(store, quiet)


def test_a_tokenizer_file_goes_into_the_study_by_its_hash(tmp_path):
    write_text(tmp_path / "text.txt")
    from qscale.data import subwords

    (tmp_path / "mine.json").write_text(subwords.train([(tmp_path / "text.txt").read_bytes()], 300))
    store = Store.create(
        tmp_path / "study", SMALL.format(tokenizer="file:mine.json").replace("32, l", "2, l")
    )
    begin(store, quiet)
    (tmp_path / "mine.json").unlink()
    _, corpora = begin(store, quiet)
    (run, *_) = store.runs()
    assert corpora.of(run).tokenizer == TokenizerId(run.tokenizer, 300)


def test_runs_of_bytes_keep_their_ids_and_others_have_the_vocabulary_in_theirs():
    plain, named = (Study.parse(text) for text in (TEXT, TEXT + "tokenizer: bpe:512\n"))
    assert {run.tokenizer for run in plain.runs(SHA)} == {"bytes"}
    (source,) = named.sources()
    one, other = (named.runs({source: Identity(SHA, TokenizerId(f"bpe:512@{i}" * 4, 512))})[0] for i in "ab")
    assert one.run_id != other.run_id
    assert {run.model.vocab_size for run in named.runs("")} == {512}


def test_a_shape_may_have_a_larger_vocabulary_and_no_smaller_one():
    text = (
        "{{tokenizer: bpe:512, tokens: [1M], sizes: [{{hidden_size: 32, intermediate_size: 64, "
        "num_layers: 2, num_heads: 1, num_kv_heads: 1, vocab_size: {}}}]}}"
    )
    large = Study.parse(text.format(600))
    (source,) = large.sources()
    assert large.runs({source: Identity(SHA, BPE)})[0].model.vocab_size == 600
    with pytest.raises(ConfigError, match="vocab_size=300: tokenizer 'bpe:512' needs at least 512"):
        Study.parse(text.format(300))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenizer: byte", "unknown tokenizer 'byte'; did you mean 'bytes'"),
        ("tokenizer: bpe:12", "at least 257"),
        ("tokenizer: [[bytes]]", "is not a name"),
        ("tokeniser: bytes", "did you mean 'tokenizer'"),
    ],
)
def test_tokenizers_that_cannot_be_read_are_problems_of_the_study(line, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(TEXT + line)


def test_corpora_of_data_sets_are_checked_and_written_one_way():
    (source,) = Study.parse(TEXT.replace("python", "'hf:a/b,bytes=1M'")).sources()
    assert source.corpus == "hf:a/b,bytes=1000000"
    with pytest.raises(ConfigError, match="how much text to stream"):
        Study.parse(TEXT.replace("python", "hf:a/b"))


def test_store_knows_runs_by_corpus_and_tokenizer(tmp_path):
    text = TEXT + "tokenizer: bpe:512\n"
    store = Store.create(tmp_path / "study", text)
    source = Source("python", "bpe:512")
    store.begin({source: Identity(SHA, BPE)})
    assert {run.tokenizer for run in store.runs()} == {BPE.text}
    with pytest.raises(StoreError, match="the tokenizer 'bpe:512' has changed"):
        store.begin({source: Identity(SHA, TokenizerId("bpe:512@other", 512))})
    (noted,) = json.loads((store.path / "corpus.json").read_text())["sources"]
    assert noted["tokenizer"]["id"] == BPE.text
    (store.path / "study.yaml").write_text(TEXT)
    assert store.runs() == [], "the study names another tokenizer now"


def test_ladders_of_two_tokenizers_do_not_merge():
    first = TEXT.replace("[w4a4]", "[w4a4:g32]").replace("group_sizes: [16, 32]\n", "")
    second = Study.parse(first.replace("w4a4:g32", "w8a8:g32") + "tokenizer: bpe:512\n")
    assert merged(first, second) is None
    assert "tokenizer: bpe:512" in merged(first + "tokenizer: bpe:512\n", second)
