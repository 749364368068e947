"""Starting a study: its folder, its corpus, its jobs, and whatever stands in the way. No torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qscale.errors import StoreError
from qscale.sweep.board import Board
from qscale.sweep.corpora import Corpora
from qscale.sweep.grid import Identity, Source
from qscale.sweep.jobs import costs, jobs, plan
from qscale.sweep.outcome import retry_failures
from qscale.sweep.store import Store
from qscale.sweep.strangers import explain
from qscale.sweep.worker import check_device

if TYPE_CHECKING:
    from qscale.data.corpus import Corpus
    from qscale.data.subwords import Subwords


def begin(
    store: Store, say: Callable[[str], None], *, threads: int = 1, device: str = "cpu"
) -> tuple[Board, Corpora]:
    """The board of a study that is about to run, and its corpora; remarks go to ``say``.

    Failures of earlier sessions are forgotten, so that those jobs are tried again.

    Raises:
        StoreError: Training is not installed, or the corpus has changed since the study began.
        CorpusError: The corpus is missing, or too small for the longest run or the evaluation.
        ConfigError: The device is not there, or the tokenizer's file.
        StudyError: The study began with other threads or on another device.
    """
    for package in ("torch", "transformers", "safetensors"):
        if find_spec(package) is None:
            raise StoreError(f"training needs {package}, which is not installed: pip install 'qscale[train]'")
    check_device(device)
    study = store.study()
    found, made = {}, []
    for source in study.sources():
        tokenizer, corpus = _loaded(store, source, say)
        found[source] = Identity(corpus.sha256, tokenizer.id if tokenizer else None)
        for run in study.runs({source: found[source]}):
            corpus.check(run.tokens, run.context, allow_repeat=run.allow_repeat)
            corpus.check_evaluation(run.eval_windows, run.context)
        made += [tokenizer] if tokenizer else []
    for tokenizer in made:
        store.keep_tokenizer(tokenizer.id, tokenizer.text)
    store.begin(found, threads=threads, device=device)
    runs = study.runs(found)
    board = Board(store, jobs(runs))
    retry_failures(board)
    board.tidy()
    others = store.records(besides=board.runs)
    for line in explain((record.config for record in others), runs).lines:
        say(line)
    states = board.look()
    done = sum(states[run] == "done" for run in board.runs)
    if done < len(board.runs):
        for line in costs(plan(board.jobs)):
            say(line)
        for warning in study.warnings():
            say(warning)
    if done:
        say(f"{done} of {len(board.runs)} runs already done")
    return board, Corpora(store)


def _loaded(store: Store, source: Source, say: Callable[[str], None]) -> tuple[Subwords | None, Corpus]:
    """A corpus in its tokens, and the tokenizer that the study keeps, or one made now; None for bytes."""
    from qscale.data import corpus as corpora

    corpus = corpora.load(store.corpus_name(source))
    if source.tokenizer == "bytes":
        return None, corpus
    from qscale.data import subwords

    text = store.tokenizer_text(source)
    if text is None:
        if source.tokenizer.startswith("bpe:"):
            say(f"tokenizer {source.tokenizer}: trained on {corpus.name}, unless that was done before")
        text = subwords.text_of(source.tokenizer, corpus)
    tokenizer = subwords.Subwords(source.tokenizer, text)
    return tokenizer, _encoded(corpus, tokenizer, say)


def _encoded(corpus: Corpus, tokenizer: Subwords, say: Callable[[str], None]) -> Corpus:
    from qscale.data import tokens

    if not tokens.is_cached(corpus, tokenizer):
        say(f"corpus {corpus.name}: encoded once in tokens of {tokenizer.id.text}, about 1 MB a second")
    return tokens.encoded(corpus, tokenizer)
