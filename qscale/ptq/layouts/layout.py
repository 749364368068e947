"""What every layout does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor


class Layout(ABC):
    """How the tensors of a block, as the pass left them, become those of a file."""

    name: ClassVar[str]

    @abstractmethod
    def convert(self, tensors: dict[str, Tensor], note: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of one block for a file.

        Args:
            tensors: By their names in the model, of :func:`qscale.ptq.stored.block_state`.
            note: Likewise.
        """

    @abstractmethod
    def config(self) -> dict[str, Any] | None:
        """The ``quantization_config`` of config.json."""
