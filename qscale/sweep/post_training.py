"""A run of the mode ptq that has a method: its baseline's weights, a pass over them, losses, a record."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from qscale.data.batches import evaluation_sequences
from qscale.data.corpus import Corpus
from qscale.models.families import build
from qscale.ptq.report import Report
from qscale.ptq.run import calibration_windows, quantize_trained
from qscale.records import Record
from qscale.sweep import files
from qscale.training import checkpoint, paths
from qscale.training.config import RunConfig
from qscale.training.evaluate import paired_delta, sequence_losses
from qscale.training.how import How
from qscale.training.loop import save_losses
from qscale.training.losses import read_losses
from qscale.training.result import make_record

#: Of a weight that is not quantized, as recipes write it: w16.
_LEFT_ALONE_BITS = 16.0


class _StoppedError(Exception):
    """A stop was asked for between two blocks."""


def run_pass(
    config: RunConfig,
    folder: Path,
    start: Path,
    corpus: Corpus,
    how: How | None = None,
    *,
    baseline: Record | None = None,
    baseline_losses: Path | None = None,
) -> Record | None:
    """Quantize the last weights of a run by the method of ``config``, evaluate them and return the record.

    ``eval_losses.npy`` and ``layers.json`` are written to ``folder``. A pass that is stopped begins again.

    Args:
        config: Of the mode ptq, with a method.
        folder: Of the run.
        start: The folder of the run whose weights are quantized.
        corpus: In the tokens of the run; calibration windows are of its training split.
        how: Where and how it computes.
        baseline: The record of the run that this one is compared with.
        baseline_losses: That run's losses by sequence; ``delta`` is of the paired differences.

    Returns:
        The record; None when stopped early.

    Raises:
        ConfigError: The method cannot be read, or as :func:`qscale.ptq.run.quantize_trained` raises.
        CorpusError: The corpus changed or is too small.
        StoreError: The weights cannot be read, or something cannot be written.
    """
    how = how or How()
    began = time.monotonic()
    corpus.check(config.tokens, config.context, allow_repeat=config.allow_repeat)
    corpus.check_evaluation(config.eval_windows, config.context)
    assert config.recipe is not None and config.method is not None
    assert config.calibration_windows is not None and config.calibration_length is not None
    windows = calibration_windows(corpus, config.calibration_windows, config.calibration_length)
    model = build(config.model, context=config.context, seed=config.init_seed)
    checkpoint.load_weights(paths.final_weights(start), model)
    model = model.to(how.device)

    def emit(event: dict[str, Any]) -> None:
        if how.should_stop():
            raise _StoppedError
        if event["event"] == "block":
            how.emit({**event, "event": "calibrated"})

    try:
        report = quantize_trained(model, config.recipe, config.method, windows, emit=emit)
    except _StoppedError:
        return None
    sequences = evaluation_sequences(corpus.validation, config.context, config.eval_windows)
    how.emit({"event": "eval", "sequences": len(sequences)})
    losses = sequence_losses(model, sequences, how.device, how.ranks)
    if how.ranks.is_main:
        save_losses(paths.eval_losses(folder), losses)
        text = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
        files.write_whole(paths.pass_report(folder), text)
    delta = None
    if baseline_losses is not None and np.isfinite(losses).all():
        delta = paired_delta(losses, read_losses(baseline_losses))
    return make_record(
        config,
        corpus,
        how.device,
        time.monotonic() - began,
        losses=losses,
        delta=delta,
        baseline=baseline,
        measured=_measured(report),
    )


def _measured(report: Report) -> dict[str, float | None]:
    """What a record keeps of a pass; weights that it leaves alone count as 16 bits."""
    found = report.to_json()
    return {
        "relmse_output": found["relmse"],
        "relmse_output_nearest": found["relmse_nearest"],
        "bits_per_weight": found["bits_per_weight"] if report.layers else _LEFT_ALONE_BITS,
        "bits_per_kv": found.get("bits_per_kv"),
    }
