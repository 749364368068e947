"""A small valid RunConfig for tests to vary."""

from qscale.models.ladder import shape_of
from qscale.training.config import RunConfig

_FIELDS = {
    "model": shape_of("tiny-20k"),
    "corpus": "python",
    "corpus_sha256": "0" * 64,
    "tokens": 100 * 128,
    "mode": "baseline",
    "recipe": None,
    "init_seed": 0,
    "data_seed": 0,
    "batch_sequences": 1,
    "learning_rate": 1.0,
    "warmup_steps": 10,
    "cooldown_fraction": 0.2,
}


def run_config(**changes):
    """100 steps of one 128-token sequence, 10 of warm-up and 20 of cooldown, unless changed."""
    return RunConfig(**_FIELDS | changes)
