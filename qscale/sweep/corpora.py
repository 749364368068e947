"""The corpora of a study that has begun, in its tokens: loaded when a run asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qscale.errors import StoreError
from qscale.sweep.grid import Source
from qscale.sweep.store import Store
from qscale.training.config import RunConfig

if TYPE_CHECKING:
    from qscale.data.corpus import Corpus


class Corpora:
    """The token arrays that runs of a study train on."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._sources: dict[tuple[str, str], Source] = {
            (identity.sha256, identity.tokenizer.text if identity.tokenizer else "bytes"): source
            for source, identity in store.identities().items()
        }
        self._loaded: dict[Source, Corpus] = {}

    def of(self, config: RunConfig) -> Corpus:
        """The corpus of a run.

        Raises:
            CorpusError: It is missing.
            StoreError: The study did not begin with it, or its tokenizer is gone.
        """
        source = self._sources.get((config.corpus_sha256, config.tokenizer))
        if source is None:
            raise StoreError(f"{self.store.path}: the study did not begin with corpus {config.corpus!r}")
        if source not in self._loaded:
            self._loaded[source] = load(self.store, source)
        return self._loaded[source]


def load(store: Store, source: Source) -> Corpus:
    """One corpus of a study, in its tokens."""
    from qscale.data import corpus as corpora

    corpus, text = corpora.load(store.corpus_name(source)), store.tokenizer_text(source)
    if text is None:
        return corpus
    from qscale.data import subwords, tokens

    return tokens.encoded(corpus, subwords.Subwords(source.tokenizer, text))
