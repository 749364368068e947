"""What a model family declares about itself: its linear layers, its other parameters, its configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qscale.models.ladder import ModelShape

#: The four kinds of linear layers of a block, in the words of arXiv 2505.14302.
Role = Literal["qkv", "o", "fc1", "fc2"]
#: The roles whose layers write to the residual stream.
WRITERS: tuple[Role, ...] = ("o", "fc2")


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a block.

    Example:
        >>> Linear("mlp.down_proj", "fc2", 64, 32).weights
        2048
    """

    name: str  #: dotted, from the block down
    role: Role
    inputs: int  #: in_features
    outputs: int  #: out_features
    bias: bool = False

    @property
    def weights(self) -> int:
        """Elements of the matrix."""
        return self.inputs * self.outputs


class Family(ABC):
    """A kind of decoder block. One subclass and one small file each; none loads torch when it is imported.

    ``qscale.models.families.FAMILIES`` is the list; ``tests/models/test_families.py`` counts the parameters
    of every one of them against the real model.
    """

    name: ClassVar[str]  #: ``model_type`` of transformers
    blocks: ClassVar[str]  #: dotted name of the module that holds the blocks
    ffn_matrices: ClassVar[int]  #: 3 with a gate, 2 without
    grouped_queries: ClassVar[bool] = False  #: several query heads may share keys and values
    heads_of_any_size: ClassVar[bool] = False  #: with a head_dim, heads need not divide the width
    rotary: ClassVar[float] = 0.0  #: the part of each head that rotary positions turn
    #: Optional fields of a shape that this family has, and what each is where the shape leaves it open. The
    #: values are part of the numbers of every run: another one is another ``NUMERICS_VERSION``.
    options: ClassVar[Mapping[str, float | None]]
    #: Keys of a ``config.json`` by field of the shape.
    keys: ClassVar[Mapping[str, str]]
    #: Optional fields that a ``config.json`` must give all the same.
    required: ClassVar[tuple[str, ...]] = ()
    #: Keys of a ``config.json`` that change the block, with the one value it has (a missing key has it too).
    fixed: ClassVar[Mapping[str, object]]
    ties_by_default: ClassVar[bool] = False  #: where a ``config.json`` does not say

    @abstractmethod
    def linears(self, shape: ModelShape) -> tuple[Linear, ...]:
        """The linear layers of one block, in the order of its computation."""

    @abstractmethod
    def norms(self, shape: ModelShape) -> int:
        """Gains and biases of the norms of one block."""

    @abstractmethod
    def final_norm(self, shape: ModelShape) -> int:
        """Gains and biases of the norm behind the last block."""

    @abstractmethod
    def config(self, shape: ModelShape, context: int) -> PretrainedConfig:
        """The configuration that transformers builds the model from; dropout is off."""

    def positions(self, shape: ModelShape) -> int:  # noqa: ARG002 - most families learn no positions
        """Parameters of learned positions."""
        return 0

    def writes_residual(self, layer: Linear) -> bool:
        """Whether a layer writes to the residual stream: its first weights are smaller."""
        return layer.role in WRITERS


def common(shape: ModelShape, context: int, **more: Any) -> dict[str, Any]:
    """What every family's configuration calls by the same name, and ``more``, which wins."""
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": shape.tie_embeddings,
        "use_cache": False,
        **more,
    }
