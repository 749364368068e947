"""Bytes of a model in use: weights by recipe, the cache of keys and values, activations, what is stated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from qscale.errors import ConfigError
from qscale.formats import QuantSpec, Recipe
from qscale.planning.architecture import Architecture
from qscale.planning.memory import Bytes, bits_per_weight, weight_bytes

_HALF, _SINGLE = 2, 4  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a model is used, as far as memory asks.

    Raises:
        ConfigError: A number is negative, or there is no sequence.
    """

    context: int = 0  #: tokens whose keys and values are kept, of one sequence; 0: no cache
    batch: int = 1  #: sequences at a time
    kv: QuantSpec | None = None  #: of keys and values; None: 16 bits
    tokens_at_once: int = 0  #: that one pass computes (a chunk of the prompt); 0: no activations counted
    overhead: int = 0  #: bytes that are stated: runtime, fragmentation, another model
    scale_bits: int | None = None  #: of one scale; None: as the format has it, else 16
    zero_bits: int | None = None  #: of one zero point; None: as the format has it

    def __post_init__(self) -> None:
        for name in ("context", "tokens_at_once", "overhead"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: not negative")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch}: at least one sequence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes, part by part."""

    weights: Bytes
    cache: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights.total + self.cache + self.activations + self.overhead

    def to_json(self) -> dict[str, int]:
        """Every part, those of the weights too, and the sum."""
        weights = {
            "elements": self.weights.elements,
            "scales": self.weights.scales,
            "zero_points": self.weights.zero_points,
            "full_precision": self.weights.full_precision,
        }
        return {
            **weights,
            "cache": self.cache,
            "activations": self.activations,
            "overhead": self.overhead,
        } | {"total": self.total}


def footprint(
    architecture: Architecture, recipe: Recipe | str | None, serving: Serving | None = None
) -> Footprint:
    """Bytes of a model that is quantized by a recipe: exact for weights and cache.

    Embeddings, head, norms, biases and the blocks of ``keep`` have 16 bits an element. Inputs are quantized
    on the fly and take nothing. The recipe's ``kv`` is the cache's where ``serving`` has none.

    Args:
        architecture: The model.
        recipe: Such as ``w4a16:g128``; None: not quantized.
        serving: Context, batch and what else takes memory; by default the weights alone.

    Raises:
        SpecError: The recipe cannot be read.

    Example:
        >>> llama = Architecture.typical(6.48e9)  # the shape of Llama-2 7B
        >>> round(footprint(llama, "w=int4:g128:asym").total / 2**30, 2)  # GiB
        3.62
        >>> footprint(llama, None, Serving(context=4096)).cache  # 32 blocks, 4096 wide, keys and values
        2147483648
    """
    recipe = None if recipe is None else Recipe.parse(recipe)
    serving = serving or Serving()
    kv = serving.kv if serving.kv is not None or recipe is None else recipe.kv
    return Footprint(
        weights=_weights(architecture, recipe, serving.scale_bits, serving.zero_bits),
        cache=cache_bytes(architecture, kv, context=serving.context, batch=serving.batch),
        activations=activation_bytes(architecture, serving.tokens_at_once, serving.batch),
        overhead=serving.overhead,
    )


def bits_of_linears(architecture: Architecture, recipe: Recipe | None) -> float:
    """Bits that a weight of the linear layers takes in the mean, its share of the scales included."""
    kept = (architecture.tables + architecture.others) * _HALF
    return 8 * (footprint(architecture, recipe).weights.total - kept) / architecture.n_linear


@lru_cache(maxsize=4096)
def _weights(
    architecture: Architecture, recipe: Recipe | None, scale_bits: int | None, zero_bits: int | None
) -> Bytes:
    kept = architecture.tables + architecture.others
    total = Bytes(elements=0, scales=0, zero_points=0, full_precision=kept * _HALF)
    unquantized = frozenset() if recipe is None else recipe.kept_blocks(architecture.blocks)
    counts: Counter[tuple[QuantSpec | None, int, int]] = Counter()
    for block, name, matrix in architecture.layers():
        is_kept = recipe is None or block in unquantized
        spec = None if is_kept or recipe is None else recipe.spec_for(name, "weight", matrix.role)
        counts[spec, matrix.outputs, matrix.inputs] += 1
    for (spec, outputs, inputs), count in counts.items():
        one = weight_bytes(spec, (outputs, inputs), scale_bits=scale_bits, zero_bits=zero_bits)
        total += count * one
    return total


def cache_bytes(
    architecture: Architecture, spec: QuantSpec | str | None, *, context: int, batch: int = 1
) -> int:
    """Bytes of keys and values of ``batch`` sequences of ``context`` tokens.

    ``2 * blocks * kv_heads * head_size * context * batch`` elements of 16 bits, or of the spec's with a scale
    for each group along a head: ``token`` is one for each head and token.

    Example:
        >>> cache_bytes(Architecture.typical(6.48e9), "int4:g32", context=4096) / 2**20
        576.0
    """
    vectors = 2 * architecture.blocks * architecture.kv_heads * context * batch
    if spec is None:
        return vectors * architecture.head_size * _HALF
    bits = bits_per_weight(spec, in_features=architecture.head_size)
    return -(-round(vectors * architecture.head_size * bits) // 8)


def activation_bytes(architecture: Architecture, tokens: int, batch: int = 1) -> int:
    """What one pass over ``tokens`` of each of ``batch`` sequences holds at most: a stated approximation.

    Two copies of the hidden states, two of the FFN's inside, in 16 bits; and the logits of one token a
    sequence in 32. Attention is taken not to write its scores. 0 tokens: nothing.
    """
    if tokens == 0:
        return 0
    states = 2 * (architecture.hidden + architecture.widest) * tokens * batch * _HALF
    return states + architecture.vocabulary * batch * _SINGLE
