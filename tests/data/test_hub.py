"""Corpora of the package ``datasets``, by a module that stands in for it."""

import sys
import threading
import types

import pytest

from qscale.data import corpus, hub
from qscale.data.hub import HubSource
from qscale.errors import ConfigError, CorpusError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def serve(monkeypatch):
    """Install a ``datasets`` whose rows are those of a function; returns the calls it gets."""

    def install(rows):
        calls = []

        def load_dataset(*names, **options):
            calls.append((names, options))
            return rows()

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_rows_are_streamed_once_up_to_the_limit(serve):
    calls = serve(lambda: iter({"text": f"row {i:02}", "id": i} for i in range(100)))
    name = "hf:org/set:small,bytes=60,split=test"
    loaded = corpus.load(name)
    assert calls == [(("org/set", "small"), {"split": "test", "revision": None, "streaming": True})]
    whole = (loaded.train.tobytes() + loaded.validation.tobytes()).split(b"\0")[:-1]
    assert sorted(whole) == [f"row {i:02}".encode() for i in range(10)]
    serve(lambda: pytest.fail("streamed again"))
    assert corpus.load(name).sha256 == loaded.sha256


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"body": "x", "title": "y"}, "", "which column is the text, such as column=body"),
        ({"body": "x"}, ",column=bdy", "did you mean 'body'"),
        ({"text": 3}, "", r"row 1: column 'text' holds no text \(int\)"),
    ],
)
def test_text_columns_that_are_not_there_are_named(serve, row, options, message):
    serve(lambda: iter([row]))
    with pytest.raises(CorpusError, match=message):
        corpus.load(f"hf:x,bytes=1k{options}")


def test_the_one_column_of_text_is_found_and_nulls_are_empty_documents(serve):
    serve(lambda: iter([{"body": "one", "n": 1}, {"body": None, "n": 2}, {"body": "two", "n": 3}]))
    assert corpus.load("hf:x,bytes=1k").documents == 2


def test_missing_package_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install 'qscale\[datasets\]', or name a text .* file:PATH"):
        corpus.load("hf:x,bytes=1k")


def test_no_network_is_one_line(serve):
    def fail():
        raise ConnectionError("cannot reach the hub\nand a long tail")

    serve(fail)
    with pytest.raises(
        CorpusError, match=r"ConnectionError: cannot reach the hub\): check the name"
    ) as caught:
        corpus.load("hf:x,bytes=1k")
    assert "tail" not in str(caught.value)


def test_a_stream_that_hangs_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.05)
    never = threading.Event()
    serve(never.wait)
    with pytest.raises(CorpusError, match="nothing came for"):
        corpus.load("hf:x,bytes=1k")
    never.set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "is not hf:NAME"),
        ("hf:x", "how much text to stream, such as hf:x,bytes=100M"),
        ("hf:x,byte=1", "did you mean 'bytes'"),
        ("hf:x,bytes=1,bytes=2", "give bytes once"),
        ("hf:x,bytes=lots", "not a positive count"),
    ],
)
def test_names_that_cannot_be_read(name, message):
    with pytest.raises(ConfigError, match=message):
        HubSource.parse(name)


def test_names_have_one_spelling():
    text = "hf:a/b:c,bytes=2000,column=t,split=s,revision=r"
    assert str(HubSource.parse("hf:a/b:c,revision=r,split=s,column=t,bytes=2k")) == text
    assert str(HubSource.parse(text)) == text
