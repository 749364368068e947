"""Where a change of an input goes: into the norm or the linear layer before, if the block stays the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qscale.ptq.layers import Change

#: The layer whose output, a channel at a time, is multiplied into the input of another of the same module.
_WRITERS = {"down_proj": "up_proj", "fc2": "fc1", "o_proj": "v_proj", "out_proj": "v_proj"}

#: How far what a block adds to its input may move, as a part of it, both by root mean square.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
_COARSE = 2e-2


def take_in(layer: nn.Linear, change: Change) -> None:
    """Have a layer's weight and bias make up for a change of its input."""
    weight = layer.weight.float()
    if change.shift is not None:
        moved = weight @ change.shift
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(weight[:, 0], dtype=layer.weight.dtype))
        layer.bias.copy_(layer.bias.float() + moved)
    layer.weight.copy_(weight * change.scale)


def is_norm(module: nn.Module) -> bool:
    """Whether a module may be a norm with a gain for each channel: its output tells whether it is one."""
    gain = getattr(module, "weight", None)
    named = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
    return named and isinstance(gain, Tensor) and gain.dim() == 1


def writer_of(block: nn.Module, layer: str) -> nn.Linear | None:
    """The linear layer before, by its usual name, where one channel of it may be one of the input."""
    parent, _, last = layer.rpartition(".")
    name = _WRITERS.get(last)
    found = getattr(block.get_submodule(parent), name, None) if name is not None else None
    return found if isinstance(found, nn.Linear) else None


def fold(
    change: Change, layers: Sequence[nn.Linear], producer: nn.Module | None, output: Callable[[], Tensor]
) -> bool:
    """Move a change into what produces the input; False, with nothing changed, where it does not go.

    It goes where the output of the block stays what it is: another consumer of the input, a gain that is
    stored as ``w - 1``, an activation in between or heads that share values show there.

    Args:
        change: Of the input.
        layers: All that take the input, as far as is known; their weights make up for the change.
        producer: A norm, or the linear layer before.
        output: What the block, without quantizers, adds to its input: a few huge values of the residual
            stream hide nothing of it.
    """
    if producer is None or not _fits(producer, change):
        return False
    modules = [producer, *layers]
    before = output()
    kept = [_copies(module) for module in modules]
    _divide(producer, change)
    for layer in layers:
        take_in(layer, change)
    after = output()
    tolerance = _TOLERANCE.get(before.dtype, _COARSE)
    if float(_power(after - before)) <= tolerance**2 * float(_power(before)):
        return True
    for module, copies in zip(modules, kept, strict=True):
        _restore(module, *copies)
    return False


def _power(x: Tensor) -> Tensor:
    return x.double().square().mean()


def _fits(producer: nn.Module, change: Change) -> bool:
    gain = producer.weight
    assert isinstance(gain, Tensor)
    if len(gain) != len(change.scale):
        return False
    return change.shift is None or (gain.dim() == 1 and getattr(producer, "bias", None) is not None)


def _divide(producer: nn.Module, change: Change) -> None:
    gain, bias = producer.weight, getattr(producer, "bias", None)
    assert isinstance(gain, Tensor)
    gain.copy_(gain.float() / (change.scale if gain.dim() == 1 else change.scale[:, None]))
    if bias is not None:
        moved = bias.float() if change.shift is None else bias.float() - change.shift
        bias.copy_(moved / change.scale)


def _copies(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    return weight.detach().clone(), None if bias is None else bias.detach().clone()


def _restore(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    assert isinstance(module.weight, Tensor)
    module.weight.copy_(weight)
    if bias is not None:
        module.bias.copy_(bias)  # type: ignore[operator]
    elif getattr(module, "bias", None) is not None:
        module.bias = None  # type: ignore[assignment]
