"""Model shapes and ladders of sizes, counted exactly: plain arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from qscale.errors import ConfigError
from qscale.formats import Recipe

#: Families whose linear layers and norms are those of Llama blocks; one file each in ``families.py``.
FAMILIES = ("llama",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The shape of a decoder with Llama blocks (RMSNorm, rotary positions, SwiGLU, no biases).

    Raises:
        ConfigError: A size is not positive, or the heads do not divide the width.

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

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"unknown family {self.family!r}; known: {', '.join(FAMILIES)}")
        for name, value in asdict(self).items():
            if type(value) is int and value < 1:
                raise ConfigError(f"{name}={value}: a model shape needs positive sizes")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ConfigError(
                f"hidden_size={self.hidden_size} with num_heads={self.num_heads}: "
                "the size of a head must be a whole, even number"
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """Name, in_features and out_features of each linear layer of one block."""
        kv = self.num_kv_heads * self.head_size
        yield "self_attn.q_proj", self.hidden_size, self.hidden_size
        yield "self_attn.k_proj", self.hidden_size, kv
        yield "self_attn.v_proj", self.hidden_size, kv
        yield "self_attn.o_proj", self.hidden_size, self.hidden_size
        yield "mlp.gate_proj", self.hidden_size, self.intermediate_size
        yield "mlp.up_proj", self.hidden_size, self.intermediate_size
        yield "mlp.down_proj", self.intermediate_size, self.hidden_size

    @property
    def n_linear(self) -> int:
        """Parameters of the linear layers of all blocks: those that quantization touches."""
        return self.num_layers * sum(inputs * outputs for _, inputs, outputs in self.linears())

    @property
    def N(self) -> int:
        """Non-embedding parameters: linear layers and norm gains; no embedding, no head."""
        return self.n_linear + (2 * self.num_layers + 1) * self.hidden_size

    @property
    def N_total(self) -> int:
        """All parameters, embedding and head included."""
        tables = 1 if self.tie_embeddings else 2
        return self.N + tables * self.vocab_size * self.hidden_size

    def flops_per_token(self, context: int) -> int:
        """Training FLOPs of one token: 6 a weight of blocks and head, and causal attention."""
        attention = self.num_layers * self.hidden_size * context
        return 6 * (self.n_linear + self.vocab_size * self.hidden_size + attention)

    def group_length(self, recipe: Recipe, operand: str) -> float | None:
        """Mean group length of one operand (``weight`` or ``input``), weighted by layer parameters.

        None where the operand is not quantized, or holds a scale per tensor, which has no length.
        """
        weighted = total = 0
        for name, inputs, outputs in self.linears():
            spec = recipe.spec_for(name, operand)
            if spec is None:
                continue
            if spec.strategy == "tensor":
                return None
            weighted += spec.group_length(inputs) * inputs * outputs
            total += inputs * outputs
        return weighted / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Every field, defaults too."""
        return asdict(self)

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


def _tiny(width: int, layers: int) -> ModelShape:
    return ModelShape(
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=layers,
        num_heads=round(width / 32),
        num_kv_heads=round(width / 32),
    )


#: Named sizes. ``tiny``: heads of about 32, FFN of twice the width, bytes as tokens; the name gives N.
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
    }
}

SIZES: dict[str, ModelShape] = {
    f"{ladder}-{size}": shape for ladder, shapes in LADDERS.items() for size, shape in shapes.items()
}


def shape_of(name: str) -> ModelShape:
    """The shape of a named size, such as ``tiny-20k``.

    Raises:
        ConfigError: Unknown name; the nearest known one is given.
    """
    if name in SIZES:
        return SIZES[name]
    nearest = get_close_matches(name, list(SIZES), n=1, cutoff=0.3)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(f"unknown model size {name!r}; {hint}known: {', '.join(SIZES)}")
