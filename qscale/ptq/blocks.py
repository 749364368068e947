"""Running a model block by block: the inputs of the first block, and what each block is called with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from qscale.errors import ConfigError
from qscale.quantizers import QuantLinear

#: Windows that run through a block together.
BATCH = 8


class _EnoughError(Exception):
    """The first block has been reached."""


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model, in order, by their dotted names.

    Raises:
        ConfigError: There is no list of blocks with linear layers, or more than one.
    """
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(m, nn.Linear) for m in module.modules())
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise ConfigError(
            f"the model has {len(outer)} lists of blocks ({', '.join(outer) or 'none'}): a pass goes "
            "over one, each block on the output of the one before"
        )
    return {f"{outer[0]}.{i}": block for i, block in enumerate(model.get_submodule(outer[0]).children())}


class Calls:
    """Hidden states on their way through the blocks of a model.

    The other arguments of a block (positions, masks) are taken from one pass of the whole model; they must
    be functions of a batch's shape alone, as without padding they are.

    Args:
        model: In evaluation.
        blocks: Of :func:`find_blocks`.
        windows: Tokens, ``(count, length)``.

    Raises:
        ConfigError: A block does not take the output of the one before.
    """

    def __init__(self, model: nn.Module, blocks: dict[str, nn.Module], windows: np.ndarray) -> None:
        self.blocks = blocks
        device = next(model.parameters()).device
        batches = [torch.from_numpy(windows[i : i + BATCH]).to(device) for i in range(0, len(windows), BATCH)]
        sizes = {len(batch): batch for batch in reversed(batches)}  # one for each size
        self._arguments = {size: self._look(model, batch) for size, batch in sizes.items()}
        self.hidden = [self._first(model, batch) for batch in batches]

    def run(self, block: str, batch: int) -> Tensor:
        """The output of a block for one batch of what reached it."""
        return self.call(block, self.hidden[batch])

    def call(self, block: str, hidden: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output of a block for these hidden states, with other parameters by name where given."""
        args, kwargs = self._arguments[len(hidden)][block]
        if weights is not None:
            output = functional_call(self.blocks[block], dict(weights), (hidden, *args), kwargs)
            return _hidden_of(output)
        return _hidden_of(self.blocks[block](hidden, *args, **kwargs))

    def _look(self, model: nn.Module, tokens: Tensor) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
        """What each block is called with beside the hidden states."""
        found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        last: list[Tensor] = []

        def before(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, rest, named = _split(args, kwargs)
            if last and hidden is not last[0]:
                raise ConfigError(f"block {name} does not take the output of the block before it as it is")
            found[name] = (rest, named)

        def after(output: Any) -> None:
            last[:] = [_hidden_of(output)]

        handles = []
        for name, block in self.blocks.items():
            handles.append(
                block.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, args, kwargs), with_kwargs=True
                )
            )
            handles.append(block.register_forward_hook(lambda _, __, output: after(output)))
        try:
            model(input_ids=tokens, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _first(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """The hidden states that reach the first block."""
        found: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(_split(args, kwargs)[0])
            raise _EnoughError

        handle = next(iter(self.blocks.values())).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            model(input_ids=tokens, use_cache=False)
        except _EnoughError:
            pass
        finally:
            handle.remove()
        return found[0]


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest


def _hidden_of(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def plain(block: nn.Module) -> Iterator[None]:
    """The linear layers of a block without their quantizers."""
    layers = [module for module in block.modules() if isinstance(module, QuantLinear)]
    kept = [(layer.weight_quantizer, layer.input_quantizer) for layer in layers]
    for layer in layers:
        layer.weight_quantizer = layer.input_quantizer = None
    try:
        yield
    finally:
        for layer, quantizers in zip(layers, kept, strict=True):
            layer.weight_quantizer, layer.input_quantizer = quantizers
