"""Methods of quantization after training: a registry of steps, and texts such as ``smoothquant+gptq``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from torch import nn

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.surgery import Roles
from qscale.ptq.layers import Layer
from qscale.ptq.methods.aqas import AQAS
from qscale.ptq.methods.awq import AWQ
from qscale.ptq.methods.bnb import BnbInt8, BnbNF4
from qscale.ptq.methods.gptq import GPTQ
from qscale.ptq.methods.granq import GranQ
from qscale.ptq.methods.kv import KV
from qscale.ptq.methods.llm_fp4 import LLMFP4
from qscale.ptq.methods.low_rank import LowRank
from qscale.ptq.methods.lrq import LRQ
from qscale.ptq.methods.method import KINDS, Kind, Step, parameter
from qscale.ptq.methods.outlier_tune import OutlierTune
from qscale.ptq.methods.pb_llm import PBLLM
from qscale.ptq.methods.qjl import QJL
from qscale.ptq.methods.quarot import QuaRot
from qscale.ptq.methods.rrs import RRS
from qscale.ptq.methods.rtn import RTN
from qscale.ptq.methods.smoothquant import SmoothQuant
from qscale.ptq.methods.smoothrot import SmoothRot
from qscale.ptq.methods.turboesm import TurboESM
from qscale.ptq.methods.turboquant import TurboQuant
from qscale.ptq.statistics import NEEDS, Need

__all__ = ["METHODS", "Kind", "Method", "Step", "parameter"]

#: Every step by name; a new one is a file beside this one and a class here.
METHODS: dict[str, type[Step]] = {
    step.name: step
    for step in (
        *(RTN, GPTQ, AWQ, SmoothQuant, OutlierTune, AQAS, QuaRot, SmoothRot, RRS, GranQ),
        *(PBLLM, LLMFP4, BnbNF4, BnbInt8, LowRank, LRQ),
        *(KV, QJL, TurboQuant, TurboESM),
    )
}
_LONGEST = 1000
#: Kinds that come after rounding.
_LAST = KINDS[KINDS.index("round") + 1 :]
_STEP = re.compile(r"([a-z]\w*)(?:\((.*)\))?")


@dataclass(frozen=True, slots=True)
class Method:
    """Steps of quantization after training: any that rotate or change inputs, one that rounds, any that
    correct or learn, and one for keys and values.

    Text: steps joined by ``+``, parameters in brackets, those at their default left out. Without a step that
    rounds, weights are rounded to nearest. ``str(Method.parse(text)) == text`` for canonical text.

    Raises:
        ConfigError: Steps in another order, the same twice, or none.

    Example:
        >>> str(Method.parse("smoothquant(alpha=0.50)+gptq(act_order=true,damping=0.01)"))
        'smoothquant+gptq(act_order=true)'
        >>> [step.name for step in Method.parse("awq").steps]
        ['awq', 'rtn']
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        if not steps:
            raise ConfigError(f"a method has at least one step; known: {', '.join(METHODS)}")
        if not any(step.kind == "round" for step in steps):
            at = next((i for i, step in enumerate(steps) if step.kind in _LAST), len(steps))
            steps = (*steps[:at], RTN(), *steps[at:])
        object.__setattr__(self, "steps", steps)
        names = [step.name for step in steps]
        if len(set(names)) < len(names):
            raise ConfigError(f"method {self}: give each step once")
        kinds = [step.kind for step in steps]
        if max(kinds.count("round"), kinds.count("cache")) > 1 or kinds != sorted(kinds, key=KINDS.index):
            order = "; ".join(f"{kind}: {', '.join(_of_kind(kind))}" for kind in KINDS)
            raise ConfigError(
                f"method {self}: steps that rotate, that transform, one that rounds, others, one of a cache "
                f"({order})"
            )

    @classmethod
    def parse(cls, text: str | Method) -> Method:
        """Read a method from its text; a method is returned as it is.

        Raises:
            ConfigError: It cannot be read; the nearest known name is given.
        """
        if isinstance(text, Method):
            return text
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise ConfigError(f"a method is a text such as smoothquant+gptq, not {str(text)[:60]!r}")
        return cls(tuple(_step(part.strip(), text) for part in text.split("+")))

    def __str__(self) -> str:
        plain = [step for step in self.steps if str(step) != "rtn"]
        return "+".join(str(step) for step in plain or self.steps)

    @property
    def rounding(self) -> Step:
        """The step that rounds."""
        return next(step for step in self.steps if step.kind == "round")

    def check(self, layer: Layer) -> None:
        """Raise where a step does not serve a layer.

        Raises:
            SpecError: As said.
        """
        if layer.quantizer is not None:
            for step in self.steps:
                step.check(layer)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise where a step has nothing to do in a recipe.

        Raises:
            ConfigError: As said.
        """
        for step in self.steps:
            step.check_recipe(recipe)

    def rotate_outer(self, model: nn.Module) -> None:
        """What lies outside of the blocks, before any of them."""
        for step in self.steps:
            step.rotate_outer(model)

    def rotate_block(self, model: nn.Module, name: str, block: nn.Module) -> None:
        """One block, before its layers are replaced by quantized ones; the others may be without storage."""
        for step in self.steps:
            step.rotate_block(model, name, block)

    def rotate_inputs(
        self, model: nn.Module, name: str, block: nn.Module, roles: Roles | None = None
    ) -> None:
        """What the quantized layers of a block rotate at run time, once they are there."""
        for step in self.steps:
            step.rotate_inputs(model, name, block, roles)

    @property
    def cache(self) -> Step | None:
        """The step that stores keys and values."""
        return next((step for step in self.steps if step.kind == "cache"), None)

    @property
    def needs(self) -> Collection[Need]:
        """What calibration has to gather for the steps."""
        wanted = {need for step in self.steps for need in step.needs}
        return tuple(need for need in NEEDS if need in wanted)


def _of_kind(kind: Kind) -> list[str]:
    return [name for name, step in METHODS.items() if step.kind == kind]


def _step(text: str, whole: str) -> Step:
    match = _STEP.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"method {whole!r}: {text!r} cannot be read: use gptq, gptq(act_order=true), or "
            "steps joined by +, such as awq+gptq"
        )
    name, arguments = match[1], match[2]
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; {_hint(name, METHODS)}known: {', '.join(METHODS)}")
    known = {item.name: type(item.default) for item in fields(METHODS[name])}
    values: dict[str, Any] = {}
    for argument in (arguments or "").split(",") if arguments else ():
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals or not value:
            raise ConfigError(f"method {whole!r}: {argument!r} is not of the form parameter=value")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"method {name} has no parameter {key!r}; {_hint(key, known)}{has}")
        if key in values:
            raise ConfigError(f"method {whole!r} gives {key} twice")
        values[key] = _value(value, known[key])
    return METHODS[name](**values)


def _value(text: str, kind: type) -> Any:
    """A value of its kind, or the text itself, which the step then refuses."""
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    try:
        return kind(text)
    except ValueError:
        return text


def _hint(name: str, known: Collection[str]) -> str:
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {nearest[0]!r}? " if nearest else ""
