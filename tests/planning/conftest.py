"""Laws for plans: published ones, and fits of synthetic runs whose truth is known."""

import numpy as np
import pytest

from qscale import laws
from qscale.planning import Architecture

TRUTH = {"k": 0.3, "gN": 0.25, "gD": 0.1, "gG": 0.6}
LOSS = {"A": 400.0, "alpha": 0.33, "B": 900.0, "beta": 0.32, "E": 1.8}


def delta(N, D, G):
    return TRUTH["k"] * D ** TRUTH["gD"] * np.log2(G) ** TRUTH["gG"] / N ** TRUTH["gN"]


def loss(N, D):
    return LOSS["A"] / N ** LOSS["alpha"] + LOSS["B"] / D ** LOSS["beta"] + LOSS["E"]


@pytest.fixture(scope="session")
def own():
    """A fit of delta and one of the loss, each with draws, of noisy runs."""
    rng = np.random.default_rng(5)
    sizes, ratios, groups = (2e7, 5e7, 1e8, 3e8, 6e8), (20, 60, 200), (16, 64, 256)
    rows, bases = [], []
    for i, n in enumerate(sizes):
        for d in ratios:
            shared = {"N": n, "D": n * d, "ladder": i, "seed": 0, "tokenizer": "bpe"}
            bases.append({**shared, "loss": loss(n, n * d) * np.exp(0.002 * rng.standard_normal())})
            for g in groups:
                noisy = delta(n, n * d, g) * np.exp(0.05 * rng.standard_normal())
                rows.append({**shared, "G": g, "recipe": f"w4a16:g{g}", "mode": "scratch", "delta": noisy})
    return (
        laws.fit(rows, "qat-unified", bootstrap=400),
        laws.fit(bases, "chinchilla", bootstrap=400, resample="case"),
    )


@pytest.fixture(scope="session")
def llama():
    """The shape of Llama-2 7B."""
    return Architecture.from_config(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
        }
    )
