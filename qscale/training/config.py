"""RunConfig: everything that changes the numbers of a run, and the ids made from it. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.ladder import ModelShape

#: Raised by one whenever the same configuration starts to give other numbers.
NUMERICS_VERSION = 1

#: ``baseline`` is the unquantized run of a matched pair, whatever the mode of its partner.
Mode = Literal["baseline", "scratch", "cooldown"]
MODES: tuple[Mode, ...] = ("baseline", "scratch", "cooldown")
COOLDOWNS = ("linear", "1-sqrt")

#: What a trunk does not depend on: where its branches go, and what they do.
_BRANCH_FIELDS = ("tokens", "cooldown_fraction", "cooldown_shape", "eval_windows", "mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: a model trained on ``tokens`` tokens, at constant rate and then with a linear cooldown.

    The trunk (warm-up and constant rate) is shared by all runs that agree in everything but the branch:
    see :attr:`trunk_id`. ``run_id`` is the hash of every field, defaults too.

    Raises:
        ConfigError: All problems found, each with its field and value.
    """

    model: ModelShape
    corpus: str  #: its name; a file of the user's by the hash of its bytes
    corpus_sha256: str  #: of the exact bytes, so that a corpus that changed makes new runs
    tokens: int  #: D: tokens seen, a whole number of steps
    mode: Mode
    recipe: str | None  #: canonical text; None for the baseline
    init_seed: int
    data_seed: int
    batch_sequences: int  #: sequences in one step
    context: int = 128  #: tokens in one sequence
    learning_rate: float
    warmup_steps: int = 50
    cooldown_fraction: float = 0.2  #: of all steps
    cooldown_shape: str = "linear"
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.1  #: PyTorch's convention: multiplied by the learning rate; matrices only
    gradient_clip: float = 1.0
    eval_windows: int = 1024  #: held-out sequences of ``context`` tokens
    allow_repeat: bool = False  #: more tokens than the corpus has may be asked for
    tokenizer: str = "bytes"  #: ``TokenizerId.text``, with the hash of its vocabulary
    numerics_version: int = NUMERICS_VERSION

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)}: must be positive"
            for name in ("tokens", "batch_sequences", "context", "learning_rate", "epsilon", "eval_windows")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name}={getattr(self, name)}: must lie in [0, 1)"
            for name in ("beta1", "beta2", "cooldown_fraction")
            if not 0 <= getattr(self, name) < 1
        ]
        problems += [
            f"{name}={getattr(self, name)}: must not be negative"
            for name in ("warmup_steps", "weight_decay", "gradient_clip", "init_seed", "data_seed")
            if not getattr(self, name) >= 0
        ]
        if self.mode not in MODES:
            problems.append(f"mode={self.mode!r}: known modes are {', '.join(MODES)}")
        if self.cooldown_shape not in COOLDOWNS:
            problems.append(f"cooldown_shape={self.cooldown_shape!r}: known are {', '.join(COOLDOWNS)}")
        if (self.mode == "baseline") != (self.recipe is None):
            problems.append(f"mode={self.mode!r} with recipe={self.recipe!r}: only a baseline has no recipe")
        if not problems and self.tokens % self.tokens_per_step:
            problems.append(f"tokens={self.tokens}: not a whole number of {self.tokens_per_step}-token steps")
        if not problems and self.warmup_steps > self.branch_step:
            problems.append(
                f"warmup_steps={self.warmup_steps}: the cooldown begins at step {self.branch_step}, before "
                "the warm-up ends; ask for more tokens, a smaller batch or a shorter warm-up"
            )
        longest = self.model.longest_context
        if longest is not None and self.context > longest:
            problems.append(
                f"context={self.context}: {self.model.family} learns {longest} positions; ask for a shorter "
                "context, or give the shape max_positions"
            )
        if problems:
            raise ConfigError("; ".join(problems))
        if self.recipe is not None:
            object.__setattr__(self, "recipe", str(Recipe.parse(self.recipe)))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_sequences * self.context

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.tokens_per_step

    @property
    def branch_step(self) -> int:
        """Steps taken when the run leaves the trunk and its cooldown begins."""
        return self.steps - max(1, round(self.cooldown_fraction * self.steps))

    @property
    def trunk_recipe(self) -> str | None:
        """The recipe that is already on in the trunk: that of a ``scratch`` run, else none."""
        return self.recipe if self.mode == "scratch" else None

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON of every field."""
        return _digest(self.to_json())

    @property
    def trunk_id(self) -> str:
        """The id of the trunk that this run branches from, made as ``run_id`` is."""
        shared = {key: value for key, value in self.to_json().items() if key not in _BRANCH_FIELDS}
        return _digest({**shared, "recipe": self.trunk_recipe})

    def baseline(self) -> RunConfig:
        """The unquantized run that this one is compared with."""
        return RunConfig(**{**_shallow(self), "mode": "baseline", "recipe": None})

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON."""
        return {**_shallow(self), "model": self.model.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: Unknown, missing or invalid fields.
        """
        for key in data:
            if key not in cls.__dataclass_fields__:
                raise ConfigError(f"unknown run field {key!r}; known: {', '.join(cls.__dataclass_fields__)}")
        try:
            return cls(**{**data, "model": ModelShape.from_json(data["model"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"run configuration is incomplete: {error}") from error


def _shallow(config: RunConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
