"""A model on its way: the step, its precision and its parts, and what it leaves behind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qscale.data import tokenizer
from qscale.data.batches import TrainingBatches, evaluation_sequences
from qscale.data.corpus import Corpus
from qscale.errors import ConfigError, CorpusError
from qscale.formats import Recipe
from qscale.formats.annealing import Anneal
from qscale.models.families import build
from qscale.models.surgery import quantize_model
from qscale.quantizers import Annealing
from qscale.quantizers.quantizer import LazyQuantizer
from qscale.training import checkpoint, paths
from qscale.training.config import RunConfig
from qscale.training.curve import Curve
from qscale.training.diagnostics import LayerDiagnostics, Oscillations, diagnose
from qscale.training.how import How
from qscale.training.monitor import Monitor
from qscale.training.optimizer import add_learned, make_optimizer, set_rate
from qscale.training.ranks import Ranks

Rate = Callable[[RunConfig, int], float]

_LOG_EVERY = 10  # steps between two lines of the curve
_EMIT_EVERY = 0.5  # seconds between two progress events
_CHECKPOINT_EVERY = 30.0  # seconds between two rolling checkpoints
_DIAGNOSED = 64  # evaluation sequences that layers are looked at with


@dataclass
class Training:
    """A model and its optimizer; what the steps change, and where they leave their traces."""

    config: RunConfig
    corpus: Corpus
    folder: Path
    how: How
    step: int = 0
    seconds: float = 0.0
    monitor: Monitor = field(default_factory=Monitor)
    model: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    annealing: Annealing | None = field(init=False, default=None)
    _stepper: tuple[nn.Module, torch.optim.Optimizer] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        config = self.config
        tokenizer.check(config.tokenizer, self.corpus.tokenizer, config.model.vocab_size)
        if self.corpus.sha256 != config.corpus_sha256:
            raise CorpusError(
                f"corpus {config.corpus!r} has changed: its sha256 is {self.corpus.sha256[:12]}, the run was "
                f"planned with {config.corpus_sha256[:12]}; plan the study again"
            )
        model = build(config.model, context=config.context, seed=config.init_seed)
        self.model = model.to(self.how.ranks.builds_on(self.how.device))
        if self.how.checkpoint_activations:
            _recompute_activations(self.model)
        self.optimizer = make_optimizer(config, self.model)

    def quantize(self, recipe: str | None) -> None:
        """Quantize the model's layers; the optimizer learns what their quantizers have to learn.

        Raises:
            ConfigError: Activations would be computed again with other random words, or the recipe anneals
                weights that are not there, or that FSDP divides.
        """
        if recipe is None:
            return
        before = set(self.model.parameters())
        quantize_model(self.model, recipe, self.config.model.role)
        random = any(getattr(module, "repeats", True) is False for module in self.model.modules())
        if random and self.how.checkpoint_activations:
            raise ConfigError(
                f"recipe {recipe!r} rounds at random: activations that are computed again would be others; "
                "leave --checkpoint-activations out"
            )
        add_learned(self.optimizer, (p for p in self.model.parameters() if p not in before))
        if (anneal := Recipe.parse(recipe).anneal) is not None:
            if self.how.ranks.shards:
                raise ConfigError(
                    f"recipe {recipe!r} anneals whole weights: launch with DDP, or leave anneal= out"
                )
            self.annealing = Annealing(self.model, Anneal.parse(anneal).radius)

    def restore(self, candidates: Sequence[Path]) -> bool:
        """Go on from the newest whole checkpoint; False where there is none."""
        found = checkpoint.restore_newest(candidates, self.model, self.optimizer)
        if found is None:
            return False
        self.step, self.seconds, self.monitor = found.step, found.seconds, Monitor(*found.monitor)
        return True

    def advance(self, until: int, rate: Rate, end: int) -> bool:
        """Train to step ``until`` on the way to ``end``; False when asked to stop, with a checkpoint.

        Raises:
            DivergedError: The run has diverged.
            StoreError: A checkpoint cannot be written.
        """
        if self.step >= until:
            return True
        config, how, ranks = self.config, self.how, self.how.ranks
        batches = TrainingBatches(self.corpus.train, config.context, config.data_seed)
        stepper, optimizer = self._prepared()
        parameters = list(self.model.parameters())
        meter = Oscillations(self.model, ranks) if how.oscillations else None
        saved_at = emitted_at = time.monotonic()
        emitted_step = self.step
        with ExitStack() as files:
            # Of several processes the first writes.
            curve = files.enter_context(Curve(paths.curve(self.folder))) if ranks.is_main else None
            layers = None
            if how.diagnose_every and ranks.is_main:
                layers = files.enter_context(Curve(paths.diagnostics(self.folder)))
            while self.step < until:
                began = time.monotonic()
                lr = rate(config, self.step)
                set_rate(optimizer, lr)
                annealing = self._annealing_now()
                tokens = torch.from_numpy(
                    batches.batch(self.step, config.batch_sequences, rank=ranks.rank, ranks=ranks.world)
                ).to(how.device)
                nats = ranks.mean(gradients(stepper, tokens, config, ranks))
                if annealing is not None:
                    annealing.mask_gradients()
                if how.diagnose_every and (self.step + 1) % how.diagnose_every == 0:
                    found = self.look(meter)
                    if layers is not None:
                        layers.write(*self._rows(self.step + 1, found))
                gradient = ranks.clip(parameters, config.gradient_clip or math.inf)
                self.monitor.see(self.step, nats, gradient)
                optimizer.step()
                if annealing is not None:
                    annealing.restore()
                optimizer.zero_grad(set_to_none=True)
                self.step += 1
                if meter is not None:
                    meter.update()
                now = time.monotonic()
                self.seconds += now - began
                if curve is not None and self.step % _LOG_EVERY == 0:
                    row = {"step": self.step, "tokens": self.step * config.tokens_per_step, "loss": nats}
                    row |= {"learning_rate": lr, "gradient_norm": gradient}
                    curve.write(row)
                    # Trackers have one place for all runs of a ladder, and these share steps.
                    ranks.log({f"{self.folder.name}/{name}": value for name, value in row.items()}, self.step)
                if now - emitted_at >= _EMIT_EVERY:
                    speed = (self.step - emitted_step) * config.tokens_per_step / (now - emitted_at)
                    progress = {"step": self.step, "steps": end, "loss": nats, "tokens_per_second": speed}
                    how.emit({"event": "step", **progress})
                    emitted_at, emitted_step = now, self.step
                if self.step < until:
                    wish = (how.should_stop(), now - saved_at >= _CHECKPOINT_EVERY)
                    stop, save = ranks.tell(wish)
                    if stop or save:
                        self._save_rolling()
                        saved_at = now
                    if stop:
                        return False
        return True

    def _annealing_now(self) -> Annealing | None:
        """What freezes weights in the step to come; None before its time."""
        begins = None if self.annealing is None else self.config.annealing_step
        if begins is None or self.step < begins:
            return None
        assert self.annealing is not None
        if not self.annealing.begun:
            self.annealing.begin(settled=self.step > begins)  # by a checkpoint from within
            self.how.emit({"event": "annealing", "step": self.step, "free": self.annealing.free_fraction})
        return self.annealing

    def _prepared(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """What computes the loss and what makes the step: made once, though a trunk has several stretches."""
        if self._stepper is None:
            stepper, optimizer = self.how.ranks.prepare(self.model, self.optimizer)
            if self.how.ranks.world > 1 or self.config.compiled:
                self._start_quantizers()
            if self.config.compiled:
                stepper = torch.compile(stepper)  # type: ignore[assignment]
            self._stepper = (stepper, optimizer)
        return self._stepper

    @torch.no_grad()
    def _start_quantizers(self) -> None:
        """Let learned scales start from the whole next batch, as in one process: shares differ by process.

        And a start in the middle of a compiled graph would break it in two.
        """
        lazy = [module for module in self.model.modules() if isinstance(module, LazyQuantizer)]
        started = [quantizer.has_started() for quantizer in lazy]  # asked of each: a graph reads no buffers
        if all(started):
            return
        config = self.config
        batches = TrainingBatches(self.corpus.train, config.context, config.data_seed)
        rows = batches.batch(self.step, config.batch_sequences)
        first = torch.from_numpy(rows[:, :-1]).chunk(config.accumulation)[0]
        self.model.eval()
        with self.how.ranks.starting(self.model):
            self.model(input_ids=first.to(self.how.device), use_cache=False)
        self.model.train()

    def look(self, meter: Oscillations | None = None) -> list[LayerDiagnostics]:
        """What quantization does to each layer now, on the first evaluation sequences."""
        config = self.config
        count = min(_DIAGNOSED, config.eval_windows)
        rows = evaluation_sequences(self.corpus.validation, config.context, count)
        tokens = torch.from_numpy(rows[:, :-1]).to(self.how.device)
        return diagnose(self.model, tokens, config.model, meter, self.how.ranks)

    def write_diagnostics(self, found: Sequence[LayerDiagnostics]) -> None:
        """Those of the end of the run, behind the ones of the way."""
        with Curve(paths.diagnostics(self.folder)) as file:
            file.write(*self._rows(self.step, found))

    @staticmethod
    def _rows(step: int, found: Sequence[LayerDiagnostics]) -> list[dict[str, Any]]:
        return [{"step": step, **row.to_json()} for row in found]

    def save(self, folder: Path) -> None:
        """A checkpoint that training can go on from; of several processes the first writes it."""
        checkpoint.save(folder, self.model, self.optimizer, self._position, self.how.ranks)
        self.how.ranks.tell(None)  # the others may read it next: they wait until it is there

    def _save_rolling(self) -> None:
        folder = paths.checkpoints(self.folder)
        checkpoint.save_rolling(folder, self.model, self.optimizer, self._position, self.how.ranks)
        self.how.ranks.tell(None)

    @property
    def _position(self) -> checkpoint.Position:
        watched = (self.monitor.seen, self.monitor.average, self.monitor.lowest)
        return checkpoint.Position(step=self.step, seconds=self.seconds, monitor=watched)


def _recompute_activations(model: Any) -> None:
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers from 5 on
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


def gradients(stepper: nn.Module, tokens: Tensor, config: RunConfig, ranks: Ranks | None = None) -> float:
    """Add up the gradients of sequences, ``(sequences, context + 1)``; their mean loss in nats per token."""
    ranks, parts, nats = ranks or Ranks(), config.accumulation, 0.0
    half = torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    for number, part in enumerate(tokens.chunk(parts) if parts > 1 else (tokens,)):
        with ranks.apart(stepper) if number < parts - 1 else nullcontext():
            with half:
                logits = stepper(input_ids=part[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
            ranks.backward(loss if parts == 1 else loss / parts)
            nats += float(loss.detach()) / parts
    return nats
