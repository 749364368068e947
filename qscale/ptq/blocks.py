"""Running a model block by block: the inputs of the first block, and what each block is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
    if not outer and (types := _types_of_blocks(model)):
        raise ConfigError(
            f"no layer of {type(model).__name__} can be quantized: a pass quantizes layers of type Linear, "
            f"and those of its blocks are {', '.join(types)}: give a model of another architecture"
        )
    if len(outer) != 1:
        raise ConfigError(
            f"the model has {len(outer)} lists of blocks ({', '.join(outer) or 'none'}): a pass goes "
            "over one, each block on the output of the one before"
        )
    return {f"{outer[0]}.{i}": block for i, block in enumerate(model.get_submodule(outer[0]).children())}


def _types_of_blocks(model: nn.Module) -> list[str]:
    """The types of the modules in lists that have a matrix of their own."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return sorted(
        {
            type(module).__name__
            for each in lists
            for module in each.modules()
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        }
    )


class Calls:
    """Hidden states on their way through the blocks of a model.

    The other arguments of a block (positions, masks) are taken from passes of the whole model in which only
    the first block computes; they must be functions of a batch's shape alone, as without padding they are.

    Args:
        model: In evaluation; of the blocks only the first need be in memory.
        blocks: Of :func:`find_blocks`.
        windows: Tokens, ``(count, length)``.

    Raises:
        ConfigError: A block does not take the output of the one before.
    """

    def __init__(self, model: nn.Module, blocks: dict[str, nn.Module], windows: np.ndarray) -> None:
        self.model, self.blocks = model, blocks
        device = next(p.device for p in model.parameters() if not p.is_meta)
        self.tokens = [
            torch.from_numpy(windows[i : i + BATCH]).to(device) for i in range(0, len(windows), BATCH)
        ]
        sizes = {len(batch): batch for batch in reversed(self.tokens)}  # one for each size
        self._rest: tuple[Any, ...] | None = None
        self._arguments = {size: self._look(batch) for size, batch in sizes.items()}
        self.hidden = [self._first(batch) for batch in self.tokens]

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

    def advance(self, block: str) -> None:
        """Have the hidden states go through a block."""
        for batch in range(len(self.hidden)):
            self.hidden[batch] = self.run(block, batch)

    def logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """What the model makes of hidden states that have left its last block."""
        with ExitStack() as stack:
            for block in self.blocks.values():
                stack.enter_context(_stands_in(block, lambda *_, **__: self._like_a_block(hidden)))
            output: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return output

    def _look(self, tokens: Tensor) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
        """What each block is called with beside the hidden states."""
        found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        last: list[Tensor] = []

        def stand_in(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                hidden, rest, named = _split(args, kwargs)
                if last and hidden is not last[0]:
                    raise ConfigError(
                        f"block {name} does not take the output of the block before it as it is"
                    )
                found[name] = (rest, named)
                if not last:
                    output = compute(*args, **kwargs)
                    self._rest = output[1:] if isinstance(output, tuple) else None
                last[:] = [hidden.view_as(hidden)]
                return self._like_a_block(last[0])

            return run

        with ExitStack() as stack:
            for name, block in self.blocks.items():
                stack.enter_context(_stands_in(block, stand_in(name, block.forward)))
            self.model(input_ids=tokens, use_cache=False)
        return found

    def _like_a_block(self, hidden: Tensor) -> Any:
        return hidden if self._rest is None else (hidden, *self._rest)

    def _first(self, tokens: Tensor) -> Tensor:
        """The hidden states that reach the first block."""
        found: list[Tensor] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            found.append(_split(args, kwargs)[0])
            raise _EnoughError

        with _stands_in(next(iter(self.blocks.values())), stop), suppress(_EnoughError):
            self.model(input_ids=tokens, use_cache=False)
        return found[0]


@contextmanager
def _stands_in(block: nn.Module, compute: Callable[..., Any]) -> Iterator[None]:
    """A block that does something else when it is called."""
    block.forward = compute
    try:
        yield
    finally:
        del block.forward


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
