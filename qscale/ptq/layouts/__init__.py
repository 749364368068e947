"""How the weights of a quantized model are laid out in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from qscale.errors import ConfigError
from qscale.ptq.layouts.compressed import CompressedTensors
from qscale.ptq.layouts.layout import Layout
from qscale.ptq.layouts.own import Own
from qscale.ptq.layouts.plain import Plain

__all__ = ["LAYOUTS", "Layout", "chosen"]

LAYOUTS = ("auto", "compressed-tensors", "qscale", "plain")


def chosen(
    layout: str, notes: Sequence[Mapping[str, Any]], weights: Callable[[int], dict[str, Tensor]]
) -> Layout:
    """The layout by its name. ``auto``: the first below that gives back every bit of the quantized model.

    ``compressed-tensors`` packs codes and scales, of layers whose inputs are not quantized; ``plain`` has
    weights alone, as any model; ``qscale`` has weights, and input quantizers in its ``quantization_config``.

    Args:
        layout: One of ``LAYOUTS``.
        notes: Of :func:`qscale.ptq.stored.block_state`, a block each.
        weights: The tensors of a block by its number.

    Raises:
        ConfigError: Unknown name, or the layout asked for does not hold the model; the message says why.
    """
    if layout == "plain":
        return Plain()
    if layout == "qscale":
        return Own(notes)
    if layout == "compressed-tensors":
        return CompressedTensors(notes, weights)
    if layout != "auto":
        raise ConfigError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    if any(note["inputs"] or note["attentions"] for note in notes):
        return Own(notes)
    try:
        return CompressedTensors(notes, weights, asymmetric=False)
    except ConfigError:
        return Plain()
