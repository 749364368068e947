"""qscale's own layout: weights as they are in the quantized layers, and what quantizes their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from qscale.ptq.layouts.layout import Layout

#: Of quantization_config; readers refuse other ones.
VERSION = 1


class Own(Layout):
    """Read again by ``from_pretrained`` once ``qscale.ptq`` is imported: the same bits of every output."""

    name: ClassVar[str] = "qscale"

    def __init__(self, notes: Sequence[Mapping[str, Any]]) -> None:
        self._notes = notes

    def convert(self, tensors: dict[str, Tensor], note: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: ARG002
        """As they are."""
        return tensors

    def config(self) -> dict[str, Any]:
        """Input quantizers by layer, biases, and attentions whose keys and values are quantized."""
        return {
            "quant_method": "qscale",
            "version": VERSION,
            "inputs": [group for note in self._notes for group in note["inputs"]],
            "biases": [name for note in self._notes for name in note["biases"]],
            "attentions": {k: v for note in self._notes for k, v in note["attentions"].items()},
        }
