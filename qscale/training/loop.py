"""Training one ladder, top to bottom: a trunk at constant rate, and the cooldown branches that leave it.

A branch goes on with the trunk's own next batches, so its data position is its step number; there is no
other random state. A run that is killed and resumed takes the same steps on the same bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qscale.data.batches import evaluation_sequences
from qscale.data.corpus import Corpus
from qscale.errors import StoreError
from qscale.records import Record
from qscale.training import checkpoint, diagnostics, paths
from qscale.training.config import RunConfig
from qscale.training.engine import Training
from qscale.training.evaluate import paired_delta, sequence_losses
from qscale.training.how import How
from qscale.training.losses import read_losses
from qscale.training.monitor import DivergedError, Monitor
from qscale.training.result import make_record
from qscale.training.schedule import branch_rate, trunk_rate


def run_trunk(
    config: RunConfig,
    steps: Sequence[int],
    folder: Path,
    corpus: Corpus,
    how: How | None = None,
) -> bool:
    """Train the trunk of ``config`` and leave a checkpoint at each of ``steps`` for branches to start from.

    Resumes from the newest checkpoint that lies before the first missing one. Returns False when
    ``how.should_stop`` ended it early; a checkpoint is then written.

    Raises:
        CorpusError: The corpus changed or is too small.
        DivergedError: A loss that is not finite.
        StoreError: A checkpoint cannot be written or read.
    """
    corpus.check(max(steps) * config.tokens_per_step, config.context, allow_repeat=config.allow_repeat)
    missing = [step for step in sorted(steps) if not paths.branch_checkpoint(folder, step).is_dir()]
    if not missing:
        return True
    training = Training(config, corpus, folder, how or How())
    training.quantize(config.trunk_recipe)
    branches = paths.branch_checkpoint(folder, 0).parent
    saved = [*checkpoint.saved(branches), *checkpoint.saved(paths.checkpoints(folder))]
    training.restore([path for path in saved if checkpoint.step_of(path) <= missing[0]])
    for step in missing:
        if not training.advance(step, trunk_rate, missing[-1]):
            return False
        training.save(paths.branch_checkpoint(folder, step))
    if training.how.ranks.is_main:  # the branch checkpoints serve from here on
        shutil.rmtree(paths.checkpoints(folder), ignore_errors=True)
    return True


def run_branch(
    config: RunConfig,
    folder: Path,
    start: Path,
    corpus: Corpus,
    how: How | None = None,
    *,
    baseline: Record | None = None,
    baseline_losses: Path | None = None,
) -> Record | None:
    """Train a run from where it leaves what it shares, evaluate it and return its record.

    ``eval_losses.npy`` and ``diagnostics.jsonl`` are written to ``folder``, and the last weights of an
    unquantized run.

    Args:
        config: The run.
        folder: Of the run.
        start: The folder of its trunk; in the modes ``finetune`` and ``ptq`` that of the run it goes on from.
        corpus: In the tokens of the run.
        how: Where and how it computes.
        baseline: The record of the run that a quantized one is compared with.
        baseline_losses: That run's losses by sequence; ``delta`` is of the paired differences.

    Returns:
        The record; None when stopped early.

    Raises:
        CorpusError: The corpus changed or is too small.
        StoreError: A checkpoint cannot be written or read.
    """
    corpus.check(config.tokens, config.context, allow_repeat=config.allow_repeat)
    corpus.check_evaluation(config.eval_windows, config.context)
    how = how or How()
    training = Training(config, corpus, folder, how)
    training.quantize(config.recipe)
    if not training.restore(checkpoint.saved(paths.checkpoints(folder))):
        _begin(training, start)
    try:
        if not training.advance(config.steps, branch_rate, config.steps):
            return None
    except DivergedError as error:
        return make_record(config, corpus, how.device, training.seconds, diverged_step=error.step)
    sequences = evaluation_sequences(corpus.validation, config.context, config.eval_windows)
    how.emit({"event": "eval", "sequences": len(sequences)})
    losses = sequence_losses(training.model, sequences, how.device, how.ranks)
    found = training.look()
    if config.recipe is None:
        checkpoint.save_weights(paths.final_weights(folder), training.model, how.ranks)
    if how.ranks.is_main:
        save_losses(paths.eval_losses(folder), losses)
        training.write_diagnostics(found)
        shutil.rmtree(paths.checkpoints(folder), ignore_errors=True)
    how.ranks.tell(None)  # the others may go on from the weights: they wait until they are there
    delta = None
    if baseline_losses is not None and np.isfinite(losses).all():
        delta = paired_delta(losses, read_losses(baseline_losses))
    return make_record(
        config,
        corpus,
        how.device,
        training.seconds,
        losses=losses,
        delta=delta,
        baseline=baseline,
        relmse=diagnostics.relmse(found),
    )


def _begin(training: Training, start: Path) -> None:
    """The first state of a run of its own: the trunk's, or the weights of the run it goes on from."""
    config = training.config
    if config.source() is not None:
        checkpoint.load_weights(paths.final_weights(start), training.model)
        training.step = config.branch_step
        return
    if not training.restore([paths.branch_checkpoint(start, config.branch_step)]):
        raise StoreError(
            f"the checkpoint at step {config.branch_step} of trunk {start.name} cannot be read: it was "
            "moved aside, run again to train that part of the trunk anew"
        )
    training.seconds = 0.0  # the trunk's time is not the branch's
    training.monitor = Monitor()


def save_losses(path: Path, losses: np.ndarray) -> None:
    """Write losses by sequence; the file appears whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    temporary = path.with_suffix(".tmp.npy")
    try:
        np.save(temporary, losses, allow_pickle=False)
        checkpoint.sync(temporary)
        temporary.replace(path)
        checkpoint.sync(path.parent)
    except OSError as error:
        raise StoreError(f"{path.name} cannot be written: {error}; free some space and run again") from error
