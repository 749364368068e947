"""What a method of quantization after training is made of: steps with parameters."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.attention import Recent
from qscale.models.surgery import Roles
from qscale.ptq.cache.coder import Coder, InHadamard
from qscale.ptq.layers import Change, Layer, Rounded, Site
from qscale.ptq.statistics import Need, Statistics
from qscale.ptq.tuning import Tuning
from qscale.quantizers import Quantizer

#: What stores keys or values.
Storing = Coder | InHadamard
#: What steps do, in the order in which they are done: rotate the model, change inputs, round, correct what
#: was rounded, learn a block that has been rounded, store keys and values.
Kind = Literal["rotate", "transform", "round", "correct", "tune", "cache"]
KINDS: tuple[Kind, ...] = ("rotate", "transform", "round", "correct", "tune", "cache")


def parameter(
    default: Any, what: str, *, low: float = -math.inf, high: float = math.inf, of: Sequence[str] = ()
) -> Any:
    """A field of a step: its default, what it is, the ends of a number or the words there are.

    A text without words to choose from is checked by the step itself.
    """
    return field(default=default, metadata={"what": what, "low": low, "high": high, "of": tuple(of)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One part of a method. Its parameters are its fields; text: ``name(parameter=value,...)``.

    A subclass does what it is for and leaves the rest as it is here. It keeps no state: one step serves all
    layers.

    Raises:
        ConfigError: A parameter of another kind, or out of range.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    needs: ClassVar[tuple[Need, ...]] = ()  #: statistics of inputs

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(self.name, item, getattr(self, item.name))

    def __str__(self) -> str:
        given = [
            f"{item.name}={_text(value)}"
            for item in fields(self)
            if (value := getattr(self, item.name)) != item.default
        ]
        return self.name + (f"({','.join(given)})" if given else "")

    def check(self, layer: Layer) -> None:  # noqa: B027 - most serve every layer
        """Raise where the step cannot serve a layer, before anything is changed."""

    def check_recipe(self, recipe: Recipe) -> None:  # noqa: B027 - most serve every recipe
        """Raise where the step has nothing to do in a recipe, before anything is changed."""

    def rotate_outer(self, model: nn.Module) -> None:  # noqa: B027
        """Rotate what lies outside of the blocks; called once, before all blocks."""

    def rotate_block(self, model: nn.Module, name: str, block: nn.Module) -> None:  # noqa: B027
        """Rotate one block, by the same rotation, before its layers are replaced by quantized ones."""

    def rotate_inputs(  # noqa: B027
        self, model: nn.Module, name: str, block: nn.Module, roles: Roles | None = None
    ) -> None:
        """Have quantized layers of a block rotate their inputs, once they are there."""

    def transform(self, site: Site) -> Change | None:  # noqa: ARG002
        """A change of an input that weights make up for; None leaves it."""
        return None

    def wrap(self, site: Site, quantizer: Quantizer) -> Quantizer:  # noqa: ARG002
        """What quantizes an input from now on, behind factors and rotations; called after all transforms."""
        return quantizer

    def limit(self, layer: Layer, statistics: Statistics) -> Tensor | None:  # noqa: ARG002
        """Other weights, in the layer's basis, to be rounded in place of the layer's; None leaves them."""
        return None

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:
        """Round a weight that is in the layer's basis, as the statistics are."""
        raise NotImplementedError

    def correct(self, layer: Layer, target: Tensor, rounded: Rounded, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """Bring a rounded weight nearer to its target; all in the layer's basis."""
        return rounded

    @property
    def tunes(self) -> bool:
        """Whether :meth:`tune` is to be called."""
        return self.kind == "tune"

    def tune(self, block: Tuning) -> None:  # noqa: B027 - most learn nothing
        """Learn a block whose layers have been rounded: replace what is in ``block.rounded``."""

    def key_coder(self, name: str, heads: int, size: int) -> Storing:
        """What stores the keys of an attention module; ``size`` is that of a head."""
        raise NotImplementedError

    def value_coder(self, name: str, heads: int, size: int) -> Storing:
        """What stores its values."""
        raise NotImplementedError

    @property
    def before_rotary(self) -> bool:
        """Whether keys are stored as they are before the rotary embedding."""
        return False

    @property
    def latest(self) -> dict[str, Recent] | None:
        """Which keys and which values stay in full precision; None: none."""
        return None


def _check(name: str, item: Field[Any], value: Any) -> None:
    assert item.default is not MISSING, "a parameter of a step has a default"
    wanted, metadata = type(item.default), item.metadata
    if type(value) is not wanted:
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
        raise ConfigError(f"method {name}: {item.name}={value!r}: {metadata['what']} is {kinds[wanted]}")
    if wanted is str and metadata["of"] and value not in metadata["of"]:
        raise ConfigError(f"method {name}: {item.name}={value!r}: one of {', '.join(metadata['of'])}")
    if wanted in (int, float) and not metadata["low"] <= value <= metadata["high"]:
        ends = f"from {metadata['low']:g} to {metadata['high']:g}"
        raise ConfigError(f"method {name}: {item.name}={value!r}: {metadata['what']} is {ends}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
