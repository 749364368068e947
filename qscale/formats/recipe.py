"""Recipe: which tensors of a model are quantized, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qscale.errors import SpecError
from qscale.formats import presets
from qscale.formats.annealing import Anneal
from qscale.formats.methods import METHODS, check_served, parse_call, parse_methods
from qscale.formats.rotations import Rotation
from qscale.formats.spec import QuantSpec

#: Overrides name the operand of a layer: ``down_proj.input``, ``q_proj.weight``.
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\.(weight|input)")
_SHORT = re.compile(r"w(\d{1,3})a(\d{1,3})(?::(.+))?")
_LONGEST = 10_000  # characters of a recipe: every layer of a deep model may be named
_PARTS = {
    "weight": "w",
    "input": "a",
    "rotation": "rot",
    "quantizer": "q",
    "kv": "kv",
    "qkr": "qkr",
    "keep": "keep",
    "anneal": "anneal",
}
#: What linear layers of a block do, whatever a family calls them; an override may name one.
ROLES = ("qkv", "o", "fc1", "fc2")
_KEEPS = ("first", "last", "first+last")
_UNQUANTIZED_BITS = 16
#: The text of the recipe that quantizes nothing: for methods that quantize keys and values after training.
NOTHING = "w16a16"
#: A span of a recipe text: G is a column of its own, so recipes are compared without it.
_SPAN = re.compile(r":(?:g\d+|channel|token|tensor)(?=[:@,]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Specs of the weights and inputs of a model's linear layers, with overrides by layer.

    Text: ``w<bits>a<bits>:<granularity>`` for integers, 16 meaning "not quantized", or the long form
    ``w=int4:g128,a=int8:token``, or a ready-made name of ``qscale.formats.presets`` such as
    ``quest-w4a4``. Further parts: ``q=lsq``, or ``q=absmax/lac`` for weight and input, the quantizers of
    ``qscale.formats.methods``; ``rot=hadamard:128``, ``rot=hadamard:full:signs``; ``kv=int4:g32`` for
    keys and values before attention; ``qkr=int4:g32`` for the product of the weights of queries and keys, in
    place of each; ``keep=first``, ``last`` or ``first+last``, blocks that stay unquantized; ``anneal=0.1``,
    the last part of a run's steps, in which only StatsQ weights near a rounding boundary move
    (``anneal=0.1:0.007`` with a radius); and overrides: ``down_proj.input=int8:g128`` for the layers whose
    name ends so, ``fc2.input=int8:g128`` for a role (``qkv``, ``o``, ``fc1``, ``fc2``). ``str`` gives the
    shortest text without names, and ``Recipe.parse(str(r)) == r``. ``w16a16`` quantizes nothing: it is for
    methods that quantize keys and values of a trained model.

    Raises:
        SpecError: The text or one of its parts cannot be read, or a recipe other than ``w16a16`` quantizes
            nothing.

    Example:
        >>> recipe = Recipe.parse("w4a16:g32")
        >>> str(recipe.weight), recipe.input
        ('int4:g32', None)
    """

    weight: QuantSpec | None = None
    input: QuantSpec | None = None
    overrides: Mapping[str, QuantSpec | None] = field(default_factory=dict)  #: None: not quantized
    rotation: str | None = None
    quantizer: str = "absmax"  #: of both operands, or ``weight/input``
    kv: QuantSpec | None = None  #: keys, after the rotary embedding, and values
    qkr: QuantSpec | None = None  #: each head's ``W_q^T W_k``, by the quantizer of weights
    keep: str | None = None  #: blocks that stay unquantized: ``first``, ``last`` or ``first+last``
    anneal: str | None = None  #: ``formats.annealing.Anneal``: for training alone, the model is the same

    def __post_init__(self) -> None:
        for name in ("weight", "input", "kv", "qkr"):
            object.__setattr__(self, name, _spec(getattr(self, name)))
        overrides = {key: _spec(value) for key, value in sorted(dict(self.overrides).items())}
        object.__setattr__(self, "overrides", overrides)
        for key in overrides:
            if not _OVERRIDE.fullmatch(key):
                raise SpecError(f"override {key!r}: name a layer and its operand, such as down_proj.input")
        methods = dict.fromkeys(parse_methods(self.quantizer))
        object.__setattr__(self, "quantizer", "/".join(methods))
        if self.rotation is not None:
            object.__setattr__(self, "rotation", str(Rotation.parse(self.rotation)))
        if self.anneal is not None:
            object.__setattr__(self, "anneal", str(Anneal.parse(self.anneal)))
        if self.keep is not None and self.keep not in _KEEPS:
            raise SpecError(f"keep={self.keep!r}: the blocks to keep are {', '.join(_KEEPS)}")
        if self.kv is not None and self.kv.strategy == "channel":
            raise SpecError(f"kv {self.kv}: keys and values have tokens, not channels; use token")
        if self.qkr is not None:
            self._check_qkr(self.qkr)
        if self._quantizes_none() and not self.is_empty:
            raise SpecError(f"a recipe but {NOTHING} quantizes something: give weight, input or an override")
        if self.weight is not None and self.weight.strategy == "token":
            raise SpecError(f"weight {self.weight}: a weight has channels, not tokens; use channel")
        if self.input is not None and self.input.strategy == "channel":
            raise SpecError(f"input {self.input}: an input has tokens, not channels; use token")

    @property
    def is_empty(self) -> bool:
        """Whether this is ``w16a16``, which says nothing at all."""
        rest = (self.rotation, self.keep, self.anneal, self.quantizer)
        return self._quantizes_none() and not self.overrides and rest == (None, None, None, "absmax")

    def _quantizes_none(self) -> bool:
        operands = (self.weight, self.input, self.kv, self.qkr)
        return operands == (None,) * 4 and not any(self.overrides.values())

    def _check_qkr(self, spec: QuantSpec) -> None:
        if spec.strategy == "token":
            raise SpecError(f"qkr {spec}: a product of weights has rows, not tokens; use channel")
        if self.kv is not None:
            raise SpecError(
                f"qkr={spec} with kv={self.kv}: there are no keys, inputs are multiplied with inputs"
            )
        if self.rotation is not None:
            raise SpecError(f"qkr={spec} with rot={self.rotation}: the product is not rotated; leave one out")

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def parse(cls, text: str | Recipe) -> Recipe:
        """Read a recipe from its text; a recipe is returned as it is."""
        if isinstance(text, Recipe):
            return text
        if not isinstance(text, str):
            raise SpecError(f"a recipe is a text such as w4a4:g128, or a Recipe, not {text!r}")
        if len(text) > _LONGEST:
            raise SpecError(f"a recipe of {len(text)} characters, starting {text[:40]!r}: at most {_LONGEST}")
        head, *rest = presets.expand(text).split(",")
        fields: dict[str, Any] = {"overrides": {}}
        if "=" not in head:
            fields |= _parse_short(head)
        else:
            rest = [head, *rest]
        names = {short: name for name, short in _PARTS.items()}
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals or not value:
                raise SpecError(f"recipe {text!r}: {part!r} is not of the form name=value")
            name = names.get(key)
            if name is None:
                fields["overrides"][key] = value
            elif name in fields:
                raise SpecError(f"recipe {text!r} gives {name} twice")
            else:
                fields[name] = value
        return cls(**fields)

    def __str__(self) -> str:
        if self.is_empty:
            return NOTHING
        parts = [self._short()] if self._short() else []
        if not parts:
            operands = (("weight", self.weight), ("input", self.input))
            parts = [f"{_PARTS[name]}={spec}" for name, spec in operands if spec is not None]
        if self.rotation is not None:
            parts.append(f"{_PARTS['rotation']}={self.rotation}")
        if self.quantizer != "absmax":
            parts.append(f"{_PARTS['quantizer']}={self.quantizer}")
        if self.kv is not None:
            parts.append(f"kv={self.kv}")
        if self.qkr is not None:
            parts.append(f"qkr={self.qkr}")
        if self.keep is not None:
            parts.append(f"keep={self.keep}")
        if self.anneal is not None:
            parts.append(f"anneal={self.anneal}")
        parts += [f"{key}={'none' if spec is None else spec}" for key, spec in self.overrides.items()]
        return ",".join(parts)

    def _short(self) -> str:
        """``w4a4:g32`` where weight and input are integers of one granularity, else an empty text."""
        spans = set()
        for spec in (self.weight, self.input):
            if spec is not None:
                if spec.type != "int" or spec.row.block is not None:
                    return ""
                text = str(spec).partition(":")[2]
                spans.add("channel" if text == "token" else text)
        if len(spans) != 1:
            return ""
        weight, inputs = (_UNQUANTIZED_BITS if s is None else s.num_bits for s in (self.weight, self.input))
        return f"w{weight}a{inputs}:{spans.pop()}"

    def spec_for(self, layer: str, operand: str, role: str | None = None) -> QuantSpec | None:
        """The spec of one operand (``weight`` or ``input``) of a layer, overrides applied.

        ``layer`` is the dotted name of the module; an override names its last parts, or its ``role``, one of
        ``ROLES``. One that names the layer wins over one that names the role, and of two the one that names
        more of it: ``layers.2.mlp.down_proj`` over ``down_proj``.
        """
        naming = [key for key in self.overrides if f".{layer}.{operand}".endswith(f".{key}")]
        if naming:
            return self.overrides[max(naming, key=len)]
        if f"{role}.{operand}" in self.overrides:
            return self.overrides[f"{role}.{operand}"]
        chosen: QuantSpec | None = getattr(self, operand)
        return chosen

    def only(self, operand: str) -> Recipe:
        """This recipe with the other operand unquantized: what that operand costs alone.

        >>> str(Recipe.parse("w4a4:g32,fc2.input=int8:g32").only("weight"))
        'w4a16:g32'
        """
        kept = {key: spec for key, spec in self.overrides.items() if key.endswith(f".{operand}")}
        if operand == "weight":
            return replace(self, input=None, overrides=kept)
        return replace(self, weight=None, overrides=kept, qkr=None, anneal=None)

    def without_input_of(self, part: str) -> Recipe:
        """This recipe with the inputs of one role, or one layer, unquantized: what it costs less is theirs.

        >>> str(Recipe.parse("w4a4:g32").without_input_of("fc2"))
        'w4a4:g32,fc2.input=none'
        >>> str(Recipe.parse("w4a4:g32").without_input_of("layers.2.mlp.down_proj"))
        'w4a4:g32,layers.2.mlp.down_proj.input=none'
        """
        return replace(self, overrides={**self.overrides, f"{part}.input": None})

    def quantizer_for(self, operand: str) -> str:
        """The quantizer of one operand (``weight`` or ``input``) as text, such as ``clip(0.9)``."""
        return parse_methods(self.quantizer)[operand == "input"]

    def learned(self) -> list[str]:
        """The quantizers in use whose scales are learned in training, each once."""
        used = {"weight": self.weight, "input": self.input}
        names = (
            parse_call(self.quantizer_for(operand))[0]
            for operand in used
            if used[operand] is not None or any(key.endswith(f".{operand}") for key in self.overrides)
        )
        return [name for name in dict.fromkeys(names) if METHODS[name].learns]

    def kept_blocks(self, blocks: int) -> frozenset[int]:
        """The blocks, of ``blocks`` in all, that stay unquantized.

        >>> sorted(Recipe.parse("w4a4:g32,keep=first+last").kept_blocks(4))
        [0, 3]
        """
        ends = {"first": 0, "last": blocks - 1}
        return frozenset(ends[end] for end in (self.keep or "").split("+") if end and blocks)

    def check(self) -> None:
        """Raise where a quantizer of the recipe does not serve what it is given, as surgery would.

        Raises:
            SpecError: The message names what serves.
        """
        for operand in ("weight", "input"):
            named = (spec for key, spec in self.overrides.items() if key.endswith(f".{operand}"))
            for spec in (getattr(self, operand), *named):
                if spec is not None:
                    check_served(self.quantizer_for(operand), operand, spec)
        if self.kv is not None:
            check_served("absmax", "input", self.kv)
        if self.qkr is not None:
            check_served(self.quantizer_for("weight"), "weight", self.qkr)
        if self.anneal is not None:
            self._check_anneal()

    def _check_anneal(self) -> None:
        weights = (self.weight, *(v for k, v in self.overrides.items() if k.endswith(".weight")))
        if self.quantizer_for("weight") != "statsq" or not any(weights):
            raise SpecError(
                f"anneal={self.anneal}: annealing needs weights of quantizer 'statsq'; add q=statsq/absmax"
            )
        if self.rotation is not None:
            raise SpecError(
                f"anneal={self.anneal} with rot={self.rotation}: rounding boundaries lie in the rotated "
                "basis, weights that are frozen do not; leave one out"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field, specs as text."""
        return {
            "weight": None if self.weight is None else str(self.weight),
            "input": None if self.input is None else str(self.input),
            "overrides": {k: None if v is None else str(v) for k, v in self.overrides.items()},
            "rotation": self.rotation,
            "quantizer": self.quantizer,
            "kv": None if self.kv is None else str(self.kv),
            "qkr": None if self.qkr is None else str(self.qkr),
            "keep": self.keep,
            "anneal": self.anneal,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_json`."""
        for key in data:
            if key not in cls.__dataclass_fields__:
                raise SpecError(f"unknown recipe field {key!r}; known: {', '.join(cls.__dataclass_fields__)}")
        return cls(**data)


def without_span(recipe: str) -> str:
    """A recipe text without its granularities.

    >>> without_span("w4a4:g32"), without_span("w=int4:g128:asym@torchao,a=fp8_e4m3:token,rot=hadamard:128")
    ('w4a4', 'w=int4:asym@torchao,a=fp8_e4m3,rot=hadamard:128')
    """
    return _SPAN.sub("", recipe.strip())


def _spec(value: QuantSpec | str | None) -> QuantSpec | None:
    return None if value is None or value == "none" else QuantSpec.parse(value)


def _parse_short(text: str) -> dict[str, str | None]:
    if text == NOTHING:
        return {}
    match = _SHORT.fullmatch(text)
    if match is None or match[3] is None:
        raise SpecError(
            f"recipe {text!r} cannot be read: {presets.hint(text)}use w4a4:g128, "
            f"w4a16:channel, w=int4:g128,a=fp8_e4m3:token, or a name: {presets.known()}"
        )
    if {int(match[1]), int(match[2])} == {_UNQUANTIZED_BITS}:
        raise SpecError(f"recipe {text!r}: {NOTHING} has no granularity; what has one quantizes something")
    specs: dict[str, str | None] = {}
    for name, bits, per_row in (("weight", match[1], "channel"), ("input", match[2], "token")):
        span = presets.span_of(match[3], per_row)
        specs[name] = None if int(bits) == _UNQUANTIZED_BITS else f"int{bits}:{span}"
    return specs
