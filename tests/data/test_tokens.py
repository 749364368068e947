"""Tokenizers with a vocabulary: nothing is lost, every byte is counted, the same tokens every time."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale.data import corpus, subwords, tokenizer, tokens
from qscale.data.batches import evaluation_sequences
from qscale.errors import ConfigError, CorpusError

tokenizers = pytest.importorskip("tokenizers")

WORDS = "the group scale of a matrix is not the scale of its rows, and häßlich ist es 漢字 🙂\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bpe():
    return subwords.Subwords("bpe:400", subwords.train([WORDS.encode() * 20] * 3, 400))


def _decoded(made, ids):
    """The bytes of tokens, from the letters of the vocabulary alone."""
    letters = {letter: byte for byte, letter in subwords._BYTE_LETTERS.items()}
    table = {number: token for token, number in json.loads(made.text)["model"]["vocab"].items()}
    return bytes(letters[letter] for number in ids for letter in table[number])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=40).map(str.encode), max_size=6))
def test_bpe_stream_is_the_byte_stream_exact(bpe, documents):
    ids, lengths = bpe.encode(documents)
    assert _decoded(bpe, ids) == b"".join(d + b"\0" for d in documents)
    assert lengths.tolist() == [len(_decoded(bpe, [number])) for number in ids]
    assert np.array_equal(bpe.ids(documents), ids)


def test_letters_of_bytes_are_those_of_the_package():
    assert set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) == subwords._LETTERS
    assert subwords._letter(ord("a")) == "a" and subwords._letter(ord(" ")) == "Ġ"


def test_huge_document_of_one_line_is_encoded_in_pieces_and_nothing_is_lost(bpe):
    document = ("漢" * 70_001).encode() + b"\xff\xfe"
    ids, lengths = bpe.encode([document])
    assert _decoded(bpe, ids) == document + b"\0"
    assert lengths.sum() == len(document) + 1


def test_training_twice_gives_the_same_text_and_another_text_another(tmp_path):
    documents = [(WORDS + str(i)).encode() * 4 for i in range(50)]
    one, two = (subwords.train(documents, 300) for _ in range(2))
    assert one == two
    assert subwords.train(documents[1:], 300) != subwords.train([b"aaaa bbbb " * 9], 300)


def test_special_tokens_in_a_text_are_text():
    text = json.loads(subwords.train([WORDS.encode() * 9], 300))
    end = {"id": 300, "content": "<|endoftext|>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    made = subwords.Subwords("file:x", json.dumps(text | {"added_tokens": [end]}))
    ids, lengths = made.encode([b"a<|endoftext|>b", b""])
    assert ids.tolist().count(300) == 2 and ids[-1] == 300
    assert lengths.sum() == len("a<|endoftext|>b") + 2
    assert made.id.vocab_size == 301


def test_tokenizer_that_changes_text_still_counts_the_bytes_of_the_text():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "ab": 1, "é": 2}, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ids, lengths = subwords.Subwords("file:x", made.to_str()).encode(["AB  é zz ".encode(), b"   ", b"ab"])
    assert ids.tolist() == [1, 2, 0, 1]
    assert lengths.tolist() == [4, 3, 3, 2 + 3], "blanks count with the token before, or the next one"


def _texts(tmp_path, documents):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, document in enumerate(documents):
        (folder / f"{i}.txt").write_bytes(document)
    return corpus.load(f"file:{folder}")


def test_encoded_corpus_has_the_same_splits_and_measures_bytes_exact(tmp_path):
    loaded = _texts(tmp_path, [(f"{i} " + WORDS).encode() * 9 + bytes([200 + i % 50]) for i in range(120)])
    made = subwords.Subwords("bpe:300", subwords.text_of("bpe:300", loaded))
    coded = tokens.encoded(loaded, made)
    for split in ("train", "validation"):
        assert _decoded(made, getattr(coded, split)) == getattr(loaded, split).tobytes()
    assert (coded.sha256, coded.train.dtype, coded.tokenizer) == (loaded.sha256, np.uint16, made.id)
    rows = evaluation_sequences(coded.validation, 16, 5)[:, 1:]
    by_hand = sum(len(_decoded(made, row)) for row in rows) / rows.size
    assert coded.bytes_per_token(5, 16) == by_hand
    assert loaded.bytes_per_token(5, 16) == 1.0
    with pytest.raises(CorpusError, match=f"training tokens of tokenizer '{made.id.text}', fewer"):
        coded.check(10**9, 16)


def test_encoded_twice_is_read_from_the_cache_and_damage_is_named(tmp_path, monkeypatch):
    loaded = _texts(tmp_path, [f"{i} {WORDS}".encode() for i in range(9)])
    made = subwords.Subwords("bpe:270", subwords.text_of("bpe:270", loaded))
    first = tokens.encoded(loaded, made).train.tobytes()
    monkeypatch.setattr(tokens, "_build", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(subwords, "train", lambda *_: pytest.fail("trained again"))
    assert (
        tokens.encoded(
            loaded, subwords.Subwords("bpe:270", subwords.text_of("bpe:270", loaded))
        ).train.tobytes()
        == first
    )
    next(tmp_path.glob("cache/tokens/*/train.bin")).write_bytes(b"")
    with pytest.raises(CorpusError, match="is damaged: delete"):
        tokens.encoded(loaded, made)


def test_bpe_learns_from_the_training_split_alone(tmp_path):
    loaded = _texts(tmp_path, [f"{i} {WORDS}".encode() for i in range(60)])
    seen = b"".join(d + b"\0" for d in subwords.documents_of(loaded.train))
    assert seen == loaded.train.tobytes()
    assert subwords.text_of("bpe:300", loaded) == subwords.train(subwords.documents_of(loaded.train), 300)


@given(st.lists(st.binary(max_size=9).map(lambda d: d.replace(b"\0", b"")), max_size=9), st.integers(1, 7))
def test_documents_of_a_stream_whatever_the_chunk(documents, chunk):
    stream = np.frombuffer(b"".join(d + b"\0" for d in documents), dtype=np.uint8)
    assert list(subwords.documents_of(stream, chunk)) == documents


@pytest.mark.parametrize(("size", "dtype"), [(256, "<u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_ids_take_the_smallest_type_that_holds_them(size, dtype):
    assert tokens.dtype_of(size) == dtype


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byte", "did you mean 'bytes'"),
        ("bpe", "did you mean 'bpe:SIZE'"),
        ("bpe:256", "at least 257"),
        ("bpe:4k", "such as bpe:4096"),
        ("file:", "unknown tokenizer"),
    ],
)
def test_unknown_tokenizers_name_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        tokenizer.parse(name)


def test_tokenizer_files_are_read_and_others_refused(tmp_path, bpe):
    path = tmp_path / "tokenizer.json"
    path.write_text(bpe.text)
    name = f"file:{path}"
    made = subwords.Subwords(name, subwords.text_of(name, None))
    assert made.id.text == "file:" + hashlib.sha256(bpe.text.encode()).hexdigest()[:16]
    assert tokenizer.planned(name).vocab_size == made.id.vocab_size
    assert tokenizer.planned("file:nowhere.json").vocab_size == 256
    with pytest.raises(ConfigError, match="cannot be read"):
        subwords.Subwords("file:x", "{}")
    with pytest.raises(ConfigError, match=r"nowhere.json' cannot be read in .*tokenizer\.json"):
        subwords.text_of("file:nowhere.json", None)


def test_check_refuses_other_tokens_and_small_vocabularies():
    tokenizer.check("bytes", tokenizer.BYTES, 256)
    with pytest.raises(ConfigError, match="planned with tokenizer 'bpe:400@x'"):
        tokenizer.check("bpe:400@x", tokenizer.BYTES, 400)
    with pytest.raises(ConfigError, match="needs at least 256"):
        tokenizer.check("bytes", tokenizer.BYTES, 100)
