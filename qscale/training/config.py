"""RunConfig: everything that changes the numbers of a run, and the ids made from it. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

from qscale import bounded
from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.formats.annealing import Anneal
from qscale.models.families import FAMILIES, family_of
from qscale.models.ladder import ModelShape

#: Raised by one whenever the same configuration starts to give other numbers.
NUMERICS_VERSION = 1
#: Of a recipe and of names, in a configuration that somebody else may have written.
_LONGEST_TEXT = 10_000

#: ``baseline`` is the unquantized run of a matched pair, whatever the mode of its partner.
Mode = Literal["baseline", "scratch", "cooldown", "finetune", "ptq"]
MODES: tuple[Mode, ...] = ("baseline", "scratch", "cooldown", "finetune", "ptq")
#: Modes that go on from the last weights of an unquantized run; the others branch from a trunk.
_FROM_WEIGHTS = ("finetune", "ptq")
SCHEDULES = ("cooldown", "cosine")
COOLDOWNS = ("linear", "1-sqrt")
PRECISIONS = ("float32", "bfloat16")
PARAMETRIZATIONS = ("standard", "mup")

#: What a trunk does not depend on: where its branches go, and what they do.
_BRANCH_FIELDS = ("tokens", "cooldown_fraction", "cooldown_shape", "eval_windows", "mode")
#: Fields that the first runs did not have: at their default they are no part of an id.
_LATER_FIELDS = (
    "schedule",
    "final_rate",
    "finetune_fraction",
    "finetune_rate",
    "precision",
    "accumulation",
    "parametrization",
    "mup_width",
    "compiled",
    "method",
    "calibration_windows",
    "calibration_length",
)
#: Of the mode ``ptq`` with a method, and of nothing else.
_METHOD_FIELDS = ("method", "calibration_windows", "calibration_length")
#: Windows of calibration text (usual for the published methods, unverified).
CALIBRATION_WINDOWS = 128
_METHOD = re.compile(r"[a-z]\w*(\([^()]*\))?(\+[a-z]\w*(\([^()]*\))?)*")


class _Found:
    """What a configuration has found out about itself; no part of it."""

    __slots__ = ("_baseline", "_run_id", "_trunk_id")
    _baseline: RunConfig
    _run_id: str
    _trunk_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(_Found):
    """One run: a model trained on ``tokens`` tokens, at constant rate and then with a linear cooldown.

    The trunk (warm-up and constant rate) is shared by all runs that agree in everything but the branch:
    see :attr:`trunk_id`. A run of the schedule ``cosine`` shares its first weights alone. One of the mode
    ``finetune`` goes on from the end of an unquantized run (:meth:`source`), quantized, with a schedule of
    its own for the last ``finetune_fraction`` of its tokens. One of the mode ``ptq`` is its baseline's last
    weights, quantized by its ``method`` and evaluated: it trains nothing.

    ``run_id`` is the hash of every field, defaults too; fields that came later count where they are set.

    Raises:
        ConfigError: All problems found, each with its field and value.
    """

    model: ModelShape
    corpus: str  #: its name; a file of the user's by the hash of its bytes
    corpus_sha256: str  #: of the exact bytes, so that a corpus that changed makes new runs
    tokens: int  #: tokens seen (D), a whole number of steps
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
    schedule: str = "cooldown"  #: or ``cosine``, from the warm-up to the end
    final_rate: float = 0.0  #: where cosine ends, as a part of the peak
    finetune_fraction: float | None = None  #: of the tokens, in the mode ``finetune``
    finetune_rate: float = 1.0  #: its peak, as a part of ``learning_rate``
    precision: str = "float32"  #: of products in training; weights and the evaluation are float32
    accumulation: int = 1  #: parts that a step's sequences are taken in
    parametrization: str = "standard"  #: or ``mup``: rates of matrices in inverse proportion to their width
    mup_width: int = 64  #: where muP's rates are the plain ones
    compiled: bool = False  #: by torch.compile, which rounds otherwise
    method: str | None = None  #: of the mode ``ptq``, canonical text; None rounds to nearest
    calibration_windows: int | None = None  #: that a method looks at; with a method 128 by default
    calibration_length: int | None = None  #: tokens in each; with a method ``context`` by default

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)}: must be positive"
            for name in ("tokens", "batch_sequences", "context", "learning_rate", "epsilon", "eval_windows")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name}={getattr(self, name)}: must lie in [0, 1)"
            for name in ("beta1", "beta2", "cooldown_fraction")
            if not 0 <= getattr(self, name) < 1 or _is_signed_zero(getattr(self, name))
        ]
        problems += [
            f"{name}={getattr(self, name)}: must not be negative"
            for name in ("warmup_steps", "weight_decay", "gradient_clip", "init_seed", "data_seed")
            if not getattr(self, name) >= 0 or _is_signed_zero(getattr(self, name))
        ]
        problems += [
            f"{name}={getattr(self, name)!r}: known are {', '.join(known)}"
            for name, known in (
                ("mode", MODES),
                ("cooldown_shape", COOLDOWNS),
                ("schedule", SCHEDULES),
                ("precision", PRECISIONS),
                ("parametrization", PARAMETRIZATIONS),
            )
            if getattr(self, name) not in known
        ]
        problems += self._phase_problems() + self._method_problems()
        if (self.mode == "baseline") != (self.recipe is None):
            problems.append(f"mode={self.mode!r} with recipe={self.recipe!r}: only a baseline has no recipe")
        if not problems and self.tokens % self.tokens_per_step:
            problems.append(f"tokens={self.tokens}: not a whole number of {self.tokens_per_step}-token steps")
        if not problems and self.schedule == "cosine" and self.warmup_steps >= self.steps:
            problems.append(f"warmup_steps={self.warmup_steps} of {self.steps}: the cosine never begins")
        begins = 0 if problems else self._cooldown_step
        if not problems and self.schedule == "cooldown" and self.warmup_steps > begins:
            problems.append(
                f"warmup_steps={self.warmup_steps}: the cooldown begins at step {begins}, before "
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
        if self.method is not None:
            for name, value in (
                ("calibration_windows", CALIBRATION_WINDOWS),
                ("calibration_length", self.context),
            ):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        if self.recipe is not None:
            recipe, text = _recipe(self.recipe)
            object.__setattr__(self, "recipe", text)
            self._check_recipe(recipe)

    def _check_recipe(self, recipe: Recipe) -> None:
        if recipe.is_empty and self.method is None:
            how = f"mode {self.mode!r}" if self.mode != "ptq" else "method rtn"
            raise ConfigError(
                f"recipe {self.recipe!r} quantizes no layer, so {how} would be the baseline again: it is for "
                "methods of the mode ptq that quantize keys and values, such as kv(spec=int4:token); leave "
                f"this point out (exclude: [{{recipe: {self.recipe}, ...}}])"
            )
        if recipe.qkr is not None and family_of(self.model.family).rotary:
            able = ", ".join(name for name, family in FAMILIES.items() if not family.rotary)
            raise ConfigError(
                f"recipe {self.recipe!r}: rotary positions of {self.model.family} stand between W_q and W_k, "
                f"so qkr cannot be; leave it out, or use a family without them: {able}"
            )
        if self.mode == "ptq" and (learned := recipe.learned()):
            raise ConfigError(
                f"recipe {self.recipe!r}: {', '.join(learned)} must be trained, and the mode ptq trains "
                "nothing; use another mode, or a quantizer that needs no training, such as absmax"
            )
        begins = self.annealing_step
        if begins is not None and begins < self.branch_step:
            raise ConfigError(
                f"recipe {self.recipe!r}: annealing would begin at step {begins} of {self.steps}, before the "
                f"run is one of its own at step {self.branch_step} (mode {self.mode!r}); anneal less"
            )

    def _phase_problems(self) -> list[str]:
        """What is wrong with the fields of later schedules and phases."""
        problems = []
        fraction = self.finetune_fraction
        if (self.mode == "finetune") != (fraction is not None):
            problems.append(
                f"mode={self.mode!r} with finetune_fraction={fraction}: the mode finetune has one, no other"
            )
        elif fraction is not None and not 0 < fraction < 1:
            problems.append(f"finetune_fraction={fraction}: must lie in (0, 1)")
        if self.schedule == "cosine" and self.mode == "cooldown":
            problems.append(
                "mode='cooldown' with schedule='cosine': it has no cooldown to be switched on at; use the "
                "mode scratch or finetune"
            )
        if not 0 <= self.final_rate < 1 or _is_signed_zero(self.final_rate):
            problems.append(f"final_rate={self.final_rate}: must lie in [0, 1), a part of the peak")
        elif self.final_rate and self.schedule != "cosine":
            problems.append(
                f"final_rate={self.final_rate} with schedule={self.schedule!r}: only cosine ends above 0"
            )
        if not self.finetune_rate > 0:
            problems.append(f"finetune_rate={self.finetune_rate}: must be positive, a part of learning_rate")
        if self.accumulation < 1 or (self.batch_sequences > 0 and self.batch_sequences % self.accumulation):
            problems.append(
                f"accumulation={self.accumulation}: must divide batch_sequences={self.batch_sequences}"
            )
        if self.mup_width < 1:
            problems.append(f"mup_width={self.mup_width}: must be positive")
        return problems

    def _method_problems(self) -> list[str]:
        """What is wrong with the method and its calibration."""
        if self.method is None:
            return [
                f"{name}={getattr(self, name)}: only a run with a method is calibrated"
                for name in _METHOD_FIELDS
                if getattr(self, name) is not None
            ]
        problems = []
        if self.mode != "ptq":
            problems.append(f"method={self.method!r} with mode={self.mode!r}: methods are of the mode ptq")
        if self.method == "rtn" or not _METHOD.fullmatch(self.method):
            problems.append(
                f"method={bounded.one_line(self.method, 60)!r}: steps joined by +, such as awq+gptq; "
                "rounding to nearest alone is method=None"
            )
        for name in _METHOD_FIELDS[1:]:
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name}={value}: must be positive")
        longest = self.model.longest_context
        if longest is not None and self.calibration_length is not None and self.calibration_length > longest:
            problems.append(
                f"calibration_length={self.calibration_length}: {self.model.family} learns {longest} "
                "positions"
            )
        return problems

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
        """Steps taken when the run leaves what it shares: its trunk, or the run that it goes on from."""
        if self.mode == "ptq":
            return self.steps
        if self.finetune_fraction is not None:
            return self.steps - min(self.steps - 1, max(1, round(self.finetune_fraction * self.steps)))
        return 0 if self.schedule == "cosine" else self._cooldown_step

    @property
    def _cooldown_step(self) -> int:
        return self.steps - max(1, round(self.cooldown_fraction * self.steps))

    @property
    def annealing_step(self) -> int | None:
        """The first step in which weights are frozen; None where the recipe does not anneal."""
        anneal = None if self.recipe is None else _recipe(self.recipe)[0].anneal
        if anneal is None:
            return None
        return self.steps - max(1, round(Anneal.parse(anneal).fraction * self.steps))

    @property
    def trunk_recipe(self) -> str | None:
        """The recipe that is already on in the trunk: that of a ``scratch`` run, else none.

        A trunk does not anneal: runs that do share it with those that do not.
        """
        if self.recipe is None or self.mode != "scratch":
            return None
        recipe, text = _recipe(self.recipe)
        return text if recipe.anneal is None else str(replace(recipe, anneal=None))

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON of every field."""
        try:
            return self._run_id
        except AttributeError:
            object.__setattr__(self, "_run_id", _digest(self.to_json()))
            return self._run_id

    @property
    def trunk_id(self) -> str:
        """The id of the trunk that this run branches from, made as ``run_id`` is."""
        if self.mode in _FROM_WEIGHTS:
            raise ConfigError(f"a run of the mode {self.mode} leaves no trunk: it goes on from another run")
        if self.mode == "cooldown" and self.finetune_rate == 1.0:
            return self.baseline().trunk_id
        try:
            return self._trunk_id
        except AttributeError:
            shared = self.to_json()
            for name in _BRANCH_FIELDS:
                del shared[name]
            shared["recipe"] = self.trunk_recipe
            object.__setattr__(self, "_trunk_id", _digest(shared))
            return self._trunk_id

    def baseline(self) -> RunConfig:
        """The unquantized run that this one is compared with."""
        if self.mode == "baseline" and self.finetune_rate == 1.0:
            return self
        try:
            return self._baseline
        except AttributeError:
            plain = {"mode": "baseline", "recipe": None, "finetune_fraction": None, "finetune_rate": 1.0}
            values = {**_shallow(self), **plain, **dict.fromkeys(_METHOD_FIELDS)}
            object.__setattr__(self, "_baseline", _shared_baseline(*values.values()))
            return self._baseline

    def source(self) -> RunConfig | None:
        """The unquantized run that one of the modes ``finetune`` and ``ptq`` goes on from; else None.

        Raises:
            ConfigError: Its tokens make no valid run.
        """
        if self.mode not in _FROM_WEIGHTS:
            return None
        return replace(self.baseline(), tokens=self.branch_step * self.tokens_per_step)

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON; of those that came later the ones that are not at their default."""
        found = _shallow(self)
        found["model"] = self.model.to_json()
        for name in _LATER_FIELDS:
            if found[name] == _DEFAULTS[name]:
                del found[name]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: Unknown, missing or invalid fields.
        """
        for key, value in data.items():
            if key not in cls.__dataclass_fields__:
                raise ConfigError(
                    f"unknown run field {bounded.one_line(repr(key), 60)}; known: "
                    f"{', '.join(cls.__dataclass_fields__)}"
                )
            if not _is_of_kind(key, value):
                raise ConfigError(f"{key}={bounded.one_line(repr(value), 60)}: not what a run has there")
        try:
            return cls(**{**data, "model": ModelShape.from_json(data["model"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"run configuration is incomplete: {bounded.one_line(error)}") from error


def _is_of_kind(name: str, value: object) -> bool:
    """Whether a value may stand in a field: its type, and numbers that computing with cannot break."""
    kind = RunConfig.__dataclass_fields__[name].type
    if name == "model":
        return isinstance(value, Mapping)
    if value is None:
        return "None" in kind
    if kind.startswith("int"):
        return type(value) is int and abs(value) < 2**63
    if kind.startswith("float"):
        return isinstance(value, (int, float)) and type(value) is not bool and abs(value) < 1e300
    if kind.startswith("bool"):
        return type(value) is bool
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT


def _is_signed_zero(value: float) -> bool:
    """-0.0: the same numbers as 0.0, and another id."""
    return value == 0 and math.copysign(1.0, value) < 0


_FIELDS = tuple(RunConfig.__dataclass_fields__)
_DEFAULTS = {name: RunConfig.__dataclass_fields__[name].default for name in _LATER_FIELDS}
_values = attrgetter(*_FIELDS)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _shallow(config: RunConfig) -> dict[str, Any]:
    return dict(zip(_FIELDS, _values(config), strict=True))


@lru_cache(maxsize=1024, typed=True)
def _shared_baseline(*values: Any) -> RunConfig:
    """One object, with the ids that it found, for all runs that are compared with it."""
    return RunConfig(**dict(zip(_FIELDS, values, strict=True)))


@lru_cache(maxsize=4096)
def _recipe(text: str) -> tuple[Recipe, str]:
    """A recipe and its canonical text; a study has few of them, and many runs of each."""
    recipe = Recipe.parse(text)
    return recipe, str(recipe)


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(data).encode()).hexdigest()[:16]
