"""Model shapes and ladders of sizes, counted exactly: plain arithmetic, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.configfile import read_shape_fields
from qscale.models.families import Linear, family_of
from qscale.models.families.family import Role
from qscale.units import short_count

#: Fields that not every family has; None is the family's own value, and is left out of the JSON form.
_OPTIONS = ("head_dim", "rope_theta", "norm_eps", "max_positions")
_REALS = ("rope_theta", "norm_eps")
_MOST_LAYERS, _LARGEST = 10_000, 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The shape of a decoder: sizes, and the family that says what a block is made of.

    An option of None takes the family's value. Given as that very value it becomes None, so that one model
    has one shape and one run id.

    Raises:
        ConfigError: A size is not positive, the heads do not divide the width, or the family lacks an option.

    Example:
        >>> ModelShape(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=1, num_kv_heads=1).N
        20640
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int = 256
    tie_embeddings: bool = False
    family: str = "llama"
    head_dim: int | None = None  #: where it is not hidden_size / num_heads (llama, qwen3)
    rope_theta: float | None = None  #: base of the rotary positions (llama, qwen3, gpt_neox)
    norm_eps: float | None = None  #: (llama, qwen3, gpt_neox)
    max_positions: int | None = None  #: rows of learned positions, the longest context (opt)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "tie_embeddings":
                if type(value) is not bool:
                    raise ConfigError(f"tie_embeddings={value!r}: true or false")
            elif name == "family" or (name in _OPTIONS and value is None):
                continue
            elif name in _REALS:
                if type(value) not in (int, float) or not 0 < value < math.inf:
                    raise ConfigError(f"{name}={value!r}: a model shape needs positive numbers")
                object.__setattr__(self, name, float(value))
            elif type(value) is not int or value < 1:
                raise ConfigError(f"{name}={value!r}: a model shape needs positive whole sizes")
            elif value > (_MOST_LAYERS if name == "num_layers" else _LARGEST):
                raise ConfigError(
                    f"{name}: a model shape has at most {_MOST_LAYERS} layers and sizes of 2^31"
                )
        self._check_options()
        self._check_heads()

    def _check_options(self) -> None:
        """Refuse those that the family lacks; forget those that say what the family does anyway."""
        options = dict(family_of(self.family).options)
        if "head_dim" in options and self.hidden_size % self.num_heads == 0:
            options["head_dim"] = self.hidden_size // self.num_heads
        for name in _OPTIONS:
            value = getattr(self, name)
            if value is not None and name not in options:
                known = ", ".join(options)
                raise ConfigError(f"{name}={value!r}: {self.family} has no such option; it has {known}")
            if value is not None and value == options[name]:
                object.__setattr__(self, name, None)

    def _check_heads(self) -> None:
        family = family_of(self.family)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        if self.num_kv_heads != self.num_heads and not family.grouped_queries:
            raise ConfigError(
                f"num_kv_heads={self.num_kv_heads} with num_heads={self.num_heads}: "
                f"{self.family} has no grouped queries, give both the same"
            )
        size = f"hidden_size={self.hidden_size} with num_heads={self.num_heads}"
        free = family.heads_of_any_size and self.head_dim is not None
        if self.hidden_size % self.num_heads and not free:
            raise ConfigError(f"{size}: the size of a head must be a whole, even number")
        size = size if self.head_dim is None else f"head_dim={self.head_dim}"
        turned = int(self.head_size * family.rotary)
        if turned % 2 or (family.rotary and not turned):
            part = "" if family.rotary == 1 else f", and so must the {family.rotary} of it that rotates"
            raise ConfigError(f"{size}: the size of a head must be a whole, even number{part}")

    def option(self, name: str) -> float:
        """An option as the model has it: that of this shape, or its family's."""
        value = getattr(self, name)
        value = family_of(self.family).options[name] if value is None else value
        assert value is not None, name
        return float(value)

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def longest_context(self) -> int | None:
        """Tokens that the learned positions reach; None where positions are not learned."""
        return (
            int(self.option("max_positions")) if "max_positions" in family_of(self.family).options else None
        )

    def in_family(self, family: str) -> ModelShape:
        """The same width, depth and heads with the blocks of another family.

        An FFN of two matrices is 3/2 as wide as a gated one of three, so the linear layers keep their number
        of weights.

        Raises:
            ConfigError: Unknown family, or one that cannot take this shape.

        Example:
            >>> shape_of("tiny-20k").in_family("opt").intermediate_size
            96
        """
        old, new = family_of(self.family), family_of(family)
        width, rest = divmod(self.intermediate_size * old.ffn_matrices, new.ffn_matrices)
        if rest:
            raise ConfigError(
                f"intermediate_size={self.intermediate_size} in {old.ffn_matrices} matrices: {family} has "
                f"{new.ffn_matrices}, which makes no whole width; write a shape with family: {family}"
            )
        return replace(self, family=family, intermediate_size=width)

    def linears(self) -> Iterator[Linear]:
        """The linear layers of one block."""
        yield from _linears(self)

    def layers(self) -> Iterator[tuple[str, Linear]]:
        """The linear layers of all blocks, each with its name from the list of blocks down.

        Example:
            >>> [name for name, _ in shape_of("tiny-20k").layers()][-1]
            'layers.1.mlp.down_proj'
        """
        blocks = family_of(self.family).blocks.rpartition(".")[2]
        for block in range(self.num_layers):
            for linear in self.linears():
                yield f"{blocks}.{block}.{linear.name}", linear

    def role(self, layer: str) -> Role:
        """What a linear layer does in its block, by its dotted name: ``qkv``, ``o``, ``fc1`` or ``fc2``.

        The words are those of arXiv 2505.14302. Any part of the name may stand before that of the layer.

        Raises:
            ConfigError: No linear layer of a block is called so.

        Example:
            >>> shape_of("tiny-20k").role("model.layers.0.mlp.down_proj")
            'fc2'
        """
        for linear in self.linears():
            if f".{layer}".endswith(f".{linear.name}"):
                return linear.role
        names = ", ".join(linear.name for linear in self.linears())
        raise ConfigError(f"{layer!r} is no linear layer of a {self.family} block; it has {names}")

    @property
    def n_linear(self) -> int:
        """Weights of the linear layers of all blocks, without biases: those that quantization touches."""
        return self.num_layers * sum(linear.weights for linear in _linears(self))

    @property
    def N(self) -> int:
        """Non-embedding parameters: linear layers with biases, norms; no embedding, no head, no positions."""
        return _parameters(self)

    @property
    def N_total(self) -> int:
        """All parameters: N, embedding, head and learned positions."""
        tables = 1 if self.tie_embeddings else 2
        positions = family_of(self.family).positions(self)
        return self.N + tables * self.vocab_size * self.hidden_size + positions

    def flops_per_token(self, context: int) -> int:
        """Training FLOPs of one token: 6 a weight of blocks and head, and causal attention."""
        return _flops_per_token(self, context)

    def group_length(self, recipe: Recipe, operand: str) -> float | None:
        """Mean group length of one operand (``weight`` or ``input``), weighted by layer parameters.

        None where the operand is not quantized, or holds a scale per tensor, which has no length.
        """
        weighted = total = 0
        for linear in self.linears():
            spec = recipe.spec_for(linear.name, operand, linear.role)
            if recipe.qkr is not None and operand == "weight" and linear.name.endswith(("q_proj", "k_proj")):
                spec = recipe.qkr  # of their product, whose rows are as long
            if spec is None:
                continue
            if spec.strategy == "tensor":
                return None
            weighted += spec.group_length(linear.inputs) * linear.weights
            total += linear.weights
        return weighted / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Every field, defaults too; of the options those that are not the family's own.

        They came later than the first runs, whose ids are made from this.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if name not in _OPTIONS or value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: Unknown or missing fields.
        """
        for key in data:
            if key not in cls.__dataclass_fields__:
                raise ConfigError(
                    f"unknown model field {key!r}; known: {', '.join(cls.__dataclass_fields__)}"
                )
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError(f"model shape {dict(data)}: {error}") from error


@lru_cache(maxsize=1024)
def _linears(shape: ModelShape) -> tuple[Linear, ...]:
    return tuple(family_of(shape.family).linears(shape))


@lru_cache(maxsize=1024)
def _parameters(shape: ModelShape) -> int:
    family = family_of(shape.family)
    biases = sum(linear.outputs for linear in _linears(shape) if linear.bias)
    return shape.n_linear + shape.num_layers * (biases + family.norms(shape)) + family.final_norm(shape)


@lru_cache(maxsize=1024)
def _flops_per_token(shape: ModelShape, context: int) -> int:
    attention = shape.num_layers * shape.num_heads * shape.head_size * context
    return 6 * (shape.n_linear + shape.vocab_size * shape.hidden_size + attention)


@lru_cache(maxsize=1024)
def with_vocabulary(shape: ModelShape, size: int) -> ModelShape:
    """The same shape with a vocabulary of ``size`` tokens; one object for all that ask."""
    return replace(shape, vocab_size=size)


def _tiny(width: int, layers: int) -> ModelShape:
    return ModelShape(
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=layers,
        num_heads=round(width / 32),
        num_kv_heads=round(width / 32),
    )


def _paper(layers: int, width: int, ffn: int, heads: int, kv_heads: int) -> ModelShape:
    """A shape of arXiv 2505.14302, whose tables give these five sizes and "Llama-3 style".

    The rest is chosen here: vocabulary, rotary base and epsilon of Llama 3, and a head of its own.
    """
    return ModelShape(
        hidden_size=width,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=128_256,
        rope_theta=500_000.0,
        norm_eps=1e-5,
    )


def _pythia(layers: int, width: int, heads: int, vocabulary: int = 50_304) -> ModelShape:
    return ModelShape(
        family="gpt_neox",
        hidden_size=width,
        intermediate_size=4 * width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        vocab_size=vocabulary,
    )


def _opt(layers: int, width: int, heads: int) -> ModelShape:
    return ModelShape(
        family="opt",
        hidden_size=width,
        intermediate_size=4 * width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        vocab_size=50_272,
        tie_embeddings=True,
    )


def _qwen3(layers: int, width: int, ffn: int, heads: int, *, tied: bool = False) -> ModelShape:
    return ModelShape(
        family="qwen3",
        hidden_size=width,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=151_936,
        tie_embeddings=tied,
        rope_theta=1_000_000.0,
    )


#: Named sizes. ``tiny``: heads of about 32, FFN of twice the width, bytes as tokens; the name gives N.
#: ``paper``: N of the linear layers. The others are shapes of released models under their released names.
LADDERS: dict[str, dict[str, ModelShape]] = {
    "tiny": {
        "20k": _tiny(32, 2),
        "46k": _tiny(48, 2),
        "82k": _tiny(64, 2),
        "123k": _tiny(64, 3),
        "164k": _tiny(64, 4),
        "369k": _tiny(96, 4),
        "656k": _tiny(128, 4),
        "985k": _tiny(128, 6),
        "1.54M": _tiny(160, 6),
        "2.05M": _tiny(160, 8),
        "2.95M": _tiny(192, 8),
        "5.02M": _tiny(224, 10),
    },
    "paper": {
        "74m": _paper(12, 768, 2048, 16, 4),
        "145m": _paper(12, 1024, 3072, 16, 4),
        "297m": _paper(12, 1536, 4096, 24, 6),
        "595m": _paper(24, 1536, 4096, 24, 6),
        "973m": _paper(16, 2048, 8192, 32, 8),
        "2.8b": _paper(28, 3072, 8192, 24, 8),
    },
    # 14m and 31m are from memory: no published count at hand holds them.
    "pythia": {
        "14m": _pythia(6, 128, 4),
        "31m": _pythia(6, 256, 8),
        "70m": _pythia(6, 512, 8),
        "160m": _pythia(12, 768, 12),
        "410m": _pythia(24, 1024, 16),
        "1b": _pythia(16, 2048, 8),
        "1.4b": _pythia(24, 2048, 16),
        "2.8b": _pythia(32, 2560, 32),
        "6.9b": _pythia(32, 4096, 32, 50_432),
        "12b": _pythia(36, 5120, 40, 50_688),
    },
    # From memory, as are those of qwen3. 350m is left out: its norms lie behind the layers, and its embedding
    # is narrower.
    "opt": {
        "125m": _opt(12, 768, 12),
        "1.3b": _opt(24, 2048, 32),
        "2.7b": _opt(32, 2560, 32),
        "6.7b": _opt(32, 4096, 32),
        "13b": _opt(40, 5120, 40),
    },
    "qwen3": {
        "0.6b": _qwen3(28, 1024, 3072, 16, tied=True),
        "1.7b": _qwen3(28, 2048, 6144, 16, tied=True),
        "4b": _qwen3(36, 2560, 9728, 32, tied=True),
        "8b": _qwen3(36, 4096, 12_288, 32),
        "14b": _qwen3(40, 5120, 17_408, 40),
    },
}

SIZES: dict[str, ModelShape] = {
    f"{ladder}-{size}": shape for ladder, shapes in LADDERS.items() for size, shape in shapes.items()
}


def shape_of(name: str) -> ModelShape:
    """The shape of a named size, of one in another family, or of a ``config.json``.

    Names are ``tiny-20k``, ``tiny-20k-qwen3`` (:meth:`ModelShape.in_family`) and any path that ends in
    ``.json``: a configuration as transformers writes it.

    Raises:
        ConfigError: Unknown name, the nearest known one is given; or a file that describes no shape.

    Example:
        >>> shape_of("pythia-70m").N, shape_of("tiny-20k-qwen3").family
        (18915328, 'qwen3')
    """
    if name in SIZES:
        return SIZES[name]
    if name.endswith(".json"):
        fields = read_shape_fields(name)
        try:
            return ModelShape(**fields)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    size, _, family = name.rpartition("-")
    if size in SIZES:
        return SIZES[size].in_family(family)
    nearest = get_close_matches(name, list(SIZES), n=1, cutoff=0.3)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    known = "; ".join(f"{ladder}- {', '.join(shapes)}" for ladder, shapes in LADDERS.items())
    raise ConfigError(
        f"unknown model size {name!r}; {hint}known: {known}; or -FAMILY behind one of them, or a config.json"
    )


@cache
def name_of(shape: ModelShape) -> str:
    """The name of a size: that of the ladder it is on, whatever its vocabulary, or its family and N.

    Example:
        >>> name_of(shape_of("tiny-20k").in_family("opt"))
        'tiny-20k-opt'
    """
    ladder = {name: replace(row, vocab_size=shape.vocab_size) for name, row in SIZES.items()}
    for name, row in ladder.items():
        if row == shape:
            return name
    for name, row in ladder.items():
        with suppress(ConfigError):
            if row.in_family(shape.family) == shape:
                return f"{name}-{shape.family}"
    return f"{shape.family}-{short_count(shape.N)}"
