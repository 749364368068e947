"""A small corpus and runs of seconds on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_configs import run_config

from qscale.data import corpus as corpora


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    rng = np.random.default_rng(0)
    words = ["group", "scale", "round", "code", "bits", "clip", "loss"]
    path.write_text("\n".join(" ".join(rng.choice(words, 9)) for _ in range(9000)))
    return path


@pytest.fixture(scope="module")
def corpus(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSCALE_CACHE", str(text.parent / "cache"))
        return corpora.load(f"file:{text}")


@pytest.fixture
def config(corpus):
    def make(**changes):
        fields = {
            "corpus": corpus.name,
            "corpus_sha256": corpus.sha256,
            "tokens": 40 * 256,
            "batch_sequences": 4,
            "context": 64,
            "learning_rate": 3e-3,
            "warmup_steps": 5,
            "eval_windows": 32,
        }
        return run_config(**fields | changes)

    return make
