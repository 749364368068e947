"""Training one ladder, top to bottom: a trunk at constant rate, and the cooldown branches that leave it.

A branch goes on with the trunk's own next batches, so its data position is its step number; there is no
other random state. A run that is killed and resumed takes the same steps on the same bits.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from qscale.data import tokenizer
from qscale.data.batches import TrainingBatches, evaluation_sequences
from qscale.data.corpus import Corpus
from qscale.errors import CorpusError, QScaleError, StoreError
from qscale.models.families import build
from qscale.models.surgery import quantize_model
from qscale.records import Record
from qscale.training import checkpoint, paths
from qscale.training.config import RunConfig
from qscale.training.evaluate import paired_delta, sequence_losses
from qscale.training.result import make_record
from qscale.training.schedule import branch_rate, trunk_rate

Emit = Callable[[dict[str, Any]], None]
ShouldStop = Callable[[], bool]

_LOG_EVERY = 10  # steps between two lines of the curve
_EMIT_EVERY = 0.5  # seconds between two progress events
_CHECKPOINT_EVERY = 30.0  # seconds between two rolling checkpoints


def _silent(_: dict[str, Any]) -> None:
    """An Emit for callers who do not watch."""


class DivergedError(QScaleError):
    """The loss or the gradient stopped being finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"training diverged at step {step}: the loss or its gradient is not finite")
        self.step = step


@dataclass
class _Training:
    """A model on its way: what the steps change, and where they leave their traces."""

    config: RunConfig
    corpus: Corpus
    folder: Path
    device: str
    emit: Emit
    should_stop: ShouldStop
    step: int = 0
    seconds: float = 0.0
    model: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        tokenizer.check(config.tokenizer, self.corpus.tokenizer, config.model.vocab_size)
        if self.corpus.sha256 != config.corpus_sha256:
            raise CorpusError(
                f"corpus {config.corpus!r} has changed: its sha256 is {self.corpus.sha256[:12]}, the run was "
                f"planned with {config.corpus_sha256[:12]}; plan the study again"
            )
        self.model = build(config.model, context=config.context, seed=config.init_seed).to(self.device)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        gains = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": gains, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )

    def quantize(self, recipe: str | None) -> None:
        if recipe is None:
            return
        before = set(self.model.parameters())
        quantize_model(self.model, recipe, self.config.model.role)
        if learned := [p for p in self.model.parameters() if p not in before]:
            self.optimizer.add_param_group({"params": learned, "weight_decay": 0.0})

    def restore(self, candidates: Sequence[Path]) -> bool:
        found = checkpoint.restore_newest(candidates, self.model, self.optimizer)
        if found is not None:
            self.step, self.seconds = found
        return found is not None

    def advance(self, until: int, rate: Callable[[RunConfig, int], float], end: int) -> bool:
        """Train to step ``until`` on the way to ``end``; False when asked to stop, with a checkpoint."""
        config = self.config
        batches = TrainingBatches(self.corpus.train, config.context, config.data_seed)
        parameters = list(self.model.parameters())
        saved_at = emitted_at = time.monotonic()
        emitted_step = self.step
        with _Curve(paths.curve(self.folder)) as curve:
            while self.step < until:
                began = time.monotonic()
                lr = rate(config, self.step)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                tokens = torch.from_numpy(batches.batch(self.step, config.batch_sequences)).to(self.device)
                logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
                loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip or math.inf)
                nats, gradient = float(loss.detach()), float(norm)
                if not (math.isfinite(nats) and math.isfinite(gradient)):
                    raise DivergedError(self.step)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.step += 1
                now = time.monotonic()
                self.seconds += now - began
                if self.step % _LOG_EVERY == 0:
                    curve.write(self.step, self.step * config.tokens_per_step, nats, lr, gradient)
                if now - emitted_at >= _EMIT_EVERY:
                    speed = (self.step - emitted_step) * config.tokens_per_step / (now - emitted_at)
                    self.emit(
                        {
                            "event": "step",
                            "step": self.step,
                            "steps": end,
                            "loss": nats,
                            "tokens_per_second": speed,
                        }
                    )
                    emitted_at, emitted_step = now, self.step
                if self.step < until and (self.should_stop() or now - saved_at >= _CHECKPOINT_EVERY):
                    self.save_rolling()
                    saved_at = now
                    if self.should_stop():
                        return False
        return True

    def save_rolling(self) -> None:
        folder = paths.checkpoints(self.folder)
        checkpoint.save_rolling(folder, self.model, self.optimizer, step=self.step, seconds=self.seconds)


class _Curve:
    """Appends to ``curve.jsonl``; steps that an earlier attempt already wrote are not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = 0

    def __enter__(self) -> _Curve:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            data = self.path.read_bytes()
            whole = 0
            for line in data.splitlines(keepends=True):  # a kill or a power cut may tear the end
                if (step := _step_of(line)) is None:
                    break
                self.last, whole = step, whole + len(line)
            if whole < len(data):
                os.truncate(self.path, whole)
        self.file: TextIO = self.path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, step: int, tokens: int, loss: float, rate: float, gradient: float) -> None:
        if step > self.last:
            row = {
                "step": step,
                "tokens": tokens,
                "loss": loss,
                "learning_rate": rate,
                "gradient_norm": gradient,
            }
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


def _step_of(line: bytes) -> int | None:
    """The step of a whole line of the curve, None for a torn one."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def run_trunk(
    config: RunConfig,
    steps: Sequence[int],
    folder: Path,
    corpus: Corpus,
    *,
    device: str = "cpu",
    emit: Emit = _silent,
    should_stop: ShouldStop = lambda: False,
) -> bool:
    """Train the trunk of ``config`` and leave a checkpoint at each of ``steps`` for branches to start from.

    Resumes from the newest checkpoint that lies before the first missing one. Returns False when
    ``should_stop`` ended it early; a checkpoint is then written.

    Raises:
        CorpusError: The corpus changed or is too small.
        DivergedError: A loss that is not finite.
        StoreError: A checkpoint cannot be written or read.
    """
    corpus.check(max(steps) * config.tokens_per_step, config.context, allow_repeat=config.allow_repeat)
    missing = [step for step in sorted(steps) if not paths.branch_checkpoint(folder, step).is_dir()]
    if not missing:
        return True
    training = _Training(config, corpus, folder, device, emit, should_stop)
    training.quantize(config.trunk_recipe)
    branches = paths.branch_checkpoint(folder, 0).parent
    saved = [*checkpoint.saved(branches), *checkpoint.saved(paths.checkpoints(folder))]
    training.restore([path for path in saved if checkpoint.step_of(path) <= missing[0]])
    for step in missing:
        if not training.advance(step, trunk_rate, missing[-1]):
            return False
        target = paths.branch_checkpoint(folder, step)
        checkpoint.save(target, training.model, training.optimizer, step=step, seconds=training.seconds)
    shutil.rmtree(paths.checkpoints(folder), ignore_errors=True)  # the branch checkpoints serve from here on
    return True


def run_branch(
    config: RunConfig,
    folder: Path,
    trunk: Path,
    corpus: Corpus,
    *,
    baseline: Record | None = None,
    baseline_losses: Path | None = None,
    device: str = "cpu",
    emit: Emit = _silent,
    should_stop: ShouldStop = lambda: False,
) -> Record | None:
    """Cool down one branch of a trunk, evaluate it and return its record; None when stopped early.

    ``eval_losses.npy`` is written to ``folder``. A quantized run needs its ``baseline`` record and that
    run's per-sequence losses, and gets ``delta`` from the paired differences.

    Raises:
        CorpusError: The corpus changed or is too small.
        StoreError: A checkpoint cannot be written or read.
    """
    corpus.check(config.tokens, config.context, allow_repeat=config.allow_repeat)
    corpus.check_evaluation(config.eval_windows, config.context)
    training = _Training(config, corpus, folder, device, emit, should_stop)
    training.quantize(config.recipe)
    if not training.restore(checkpoint.saved(paths.checkpoints(folder))):
        if not training.restore([paths.branch_checkpoint(trunk, config.branch_step)]):
            raise StoreError(
                f"the checkpoint at step {config.branch_step} of trunk {trunk.name} cannot be read: it was "
                "moved aside, run again to train that part of the trunk anew"
            )
        training.seconds = 0.0  # the trunk's time is not the branch's
    try:
        if not training.advance(config.steps, branch_rate, config.steps):
            return None
    except DivergedError as error:
        return make_record(config, corpus, device, training.seconds, diverged_step=error.step)
    sequences = evaluation_sequences(corpus.validation, config.context, config.eval_windows)
    emit({"event": "eval", "sequences": len(sequences)})
    losses = sequence_losses(training.model, sequences, device)
    _save_losses(paths.eval_losses(folder), losses)
    shutil.rmtree(paths.checkpoints(folder), ignore_errors=True)
    delta = None
    if baseline_losses is not None and np.isfinite(losses).all():
        delta = paired_delta(losses, np.load(baseline_losses, allow_pickle=False))
    return make_record(
        config, corpus, device, training.seconds, losses=losses, delta=delta, baseline=baseline
    )


def _save_losses(path: Path, losses: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp.npy")
    try:
        np.save(temporary, losses, allow_pickle=False)
        checkpoint.sync(temporary)
        temporary.replace(path)
        checkpoint.sync(path.parent)
    except OSError as error:
        raise StoreError(f"{path.name} cannot be written: {error}; free some space and run again") from error
