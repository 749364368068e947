"""Small studies, records and jobs for tests of the sweep."""

import hashlib
import random

import numpy as np

from qscale.records import Record
from qscale.sweep.board import Board
from qscale.sweep.grid import Identity, Study
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.training import paths

SHA = "ab" * 32

#: One ladder: a trunk, two token counts, and at each a baseline and two recipes.
TEXT = """\
corpus: python
sizes: [tiny-20k]
tokens: [8192, 16384]
recipes: [w4a4]
group_sizes: [16, 32]
training: {batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8, learning_rate: 0.003}
"""


def board_at(path, text=TEXT):
    """The board of a new store at ``path``, its corpus noted."""
    store = Store.create(path, text)
    store.begin(identities(text))
    return Board(store, jobs(store.runs()))


def identities(text=TEXT, sha256=SHA):
    """What the sources of a study turned out to be, all of one hash."""
    return dict.fromkeys(Study.parse(text).sources(), Identity(sha256))


def record_of(config, **changes):
    """A plausible record of one run."""
    quantized = config.recipe is not None
    fields = {
        "run_id": config.run_id,
        "config": config.to_json(),
        "mode": config.mode,
        "N": config.model.N,
        "N_total": config.model.N_total,
        "D": config.tokens,
        "epochs": 0.5,
        "G": 32.0 if quantized else None,
        "G_weight": None,
        "G_input": None,
        "loss": 1.5,
        "loss_se": 0.1,
        "bits_per_byte": 2.1,
        "eval_tokens": 256,
        "diverged": False,
        "wall_seconds": 1.0,
        "tokens_per_second": 1000.0,
        "peak_memory_bytes": 1,
        "baseline_run_id": config.baseline().run_id if quantized else None,
        "delta": 0.05 if quantized else None,
        "delta_se": 0.001 if quantized else None,
    }
    fields |= changes
    for name in ("loss", "delta"):
        if fields[name] is None:
            fields[f"{name}_se"] = None
    return Record(**fields)


def sealed(text):
    """The text of a record, changed by hand, with the sha256 that belongs to it."""
    body = text[: text.rindex(',\n "sha256"')]
    return f'{body},\n "sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def finish(store, config, **changes):
    """Leave what a finished run leaves: losses by sequence, then the record."""
    record = record_of(config, **changes)
    if not record.diverged:
        folder = store.run_folder(config.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(paths.eval_losses(folder), np.full(config.eval_windows, 1.5))
    store.write_record(record)


def write_text(path, kilobytes=400):
    """A text of made-up words, the same at every call: a corpus small enough for a test."""
    dice = random.Random(0)
    words = ["".join(dice.choice("abcdefgh") for _ in range(dice.randint(2, 6))) for _ in range(200)]
    lines = (" ".join(dice.choice(words) for _ in range(12)) for _ in range(kilobytes * 1000 // 55))
    path.write_text("\n".join(lines))
