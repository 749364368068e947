"""Models whose parameters are divided among processes: torch's ``fully_shard`` and what it needs around it.

Between passes each process has a part of every parameter, along its first axis (a ``DTensor``). A block
gathers its own for its forward pass and again for its backward pass, and lets go of them after each; the
tensors that autograd saved are filled again with it. So a quantizer sees whole, plain tensors in both, and
what it makes again in backward is made of the same bits. Outside a pass ask :func:`whole`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from qscale.quantizers import QuantLinear
from qscale.quantizers.quantizer import LazyQuantizer


def shard(model: nn.Module, optimizer: torch.optim.Optimizer, mesh: DeviceMesh, reshard: bool = True) -> None:
    """Divide a model that every process has whole, and its optimizer's state, in place.

    Each block is gathered by itself, what lies around the blocks together. Names, the optimizer's groups and
    the numbers of steps taken stay as they are. Parts go to the device of the mesh, block after block.

    Args:
        model: The same bits in every process.
        optimizer: Over all of its parameters.
        mesh: Of one dimension, all processes.
        reshard: Whether a block lets go of its parameters between forward and backward.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    states = {names[p]: state for p, state in optimizer.state.items()}
    for group in optimizer.param_groups:
        group["params"] = []  # a plain parameter that is still held is memory that is not freed
    optimizer.state.clear()
    del names
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh)
    parts = dict(model.named_parameters())
    for group, members in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [parts[name] for name in members]
    for name, state in states.items():
        optimizer.state[parts[name]] = {key: _part(x, parts[name]) for key, x in state.items()}
    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.keeps_folded = False
    model.register_forward_hook(_let_go)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; every process has to ask, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def starting(model: nn.Module) -> Iterator[None]:
    """A forward pass, alike in every process, in which quantizers may set their parameters.

    They set those that were gathered, which are let go; here the parts are set as well.
    """
    found: dict[nn.Module, dict[str, Tensor]] = {}

    def note(quantizer: nn.Module, *_: object) -> None:
        found[quantizer] = {name: p.detach().clone() for name, p in quantizer.named_parameters()}

    lazy = [module for module in model.modules() if isinstance(module, LazyQuantizer)]
    handles = [quantizer.register_forward_hook(note) for quantizer in lazy]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for quantizer, values in found.items():
            for name, part in quantizer.named_parameters():
                part.copy_(_part(values[name], part))


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            yield from module


def _part(x: Tensor, like: Tensor) -> Tensor:
    """This process's part of what all have whole, divided as ``like``; counts stay as they are."""
    assert isinstance(like, DTensor)
    x = x.to(like.device)
    return x if x.ndim == 0 else distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def _let_go(model: nn.Module, *_: object) -> None:
    """After a pass that no backward follows, nothing else would."""
    if not torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
