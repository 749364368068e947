"""QuaRot: the residual stream, the values and the inputs of the last layers are rotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from qscale.errors import ConfigError
from qscale.models.surgery import Roles
from qscale.ptq import residual
from qscale.ptq.blocks import find_blocks
from qscale.ptq.inputs import rotate_input
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.residual import Stream, Turn
from qscale.quantizers import QuantLinear, signs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class QuaRot(Step):
    """Rotations that leave outputs and spread outliers (Ashkboos et al. 2024, QuaRot, arXiv:2404.00456).

    Gains of norms go into the layers that read them. The residual stream is then rotated by a Hadamard
    transform with random signs: rows of embeddings, of the head and of the layers behind norms, outputs of
    the layers that write to it. Tied embeddings become two matrices. ``values``: those of each head are
    rotated in the layer that makes them and turned back in ``o``. ``online``: what weights cannot take is
    rotated at run time, with the recipe's own ``Rotated``: inputs of ``fc2`` whole, those of ``o`` across
    heads (whole without ``values``).

    Departures. Where norms subtract the mean, the authors move that into the writers and are left with RMS
    norms; here a reflection after the rotation leaves the vector of ones where it was, so that subtracting
    the mean and rotating commute: layer norms stay, a saved model is one of its own architecture, and most
    entries of the matrix differ from ``+-1/sqrt(n)`` by about ``1/n``. A bias of the last norm, which a head
    without bias cannot take, stays there in the new basis. Rotations at run time have random signs too:
    inputs that are never negative have a mean, which a plain transform gathers in one channel. An odd number
    of heads is not rotated across, a layer that the recipe rotates keeps that rotation. Queries and keys,
    which the authors rotate behind the rotary embedding for their cache, are left alone. Weights are rounded
    to the model's dtype once or twice on the way.
    """

    name: ClassVar[str] = "quarot"
    kind: ClassVar[Kind] = "rotate"

    online: bool = parameter(True, "rotations at run time")
    values: bool = parameter(True, "rotated values")
    seed: int = parameter(0, "the seed of the signs", low=0, high=2**31)

    @torch.no_grad()
    def rotate_outer(self, model: nn.Module) -> None:
        """Rotate embeddings and head, with the last norm; blocks are only looked at."""
        stream = residual.stream_of(model)
        residual.check_gain(stream.norm_name, stream.norm, stream.form, [stream.head])
        for name, block in find_blocks(model).items():
            self._check(name, block, stream)
        turn = self._turn(stream)
        residual.untie(model, stream)
        for table in stream.tables.values():
            residual.turn_input(table, turn)
        residual.take_gain(stream.norm_name, stream.norm, stream.form, [stream.head], turn)

    @torch.no_grad()
    def rotate_block(self, model: nn.Module, name: str, block: nn.Module) -> None:
        """Rotate what a block reads and writes, and its values."""
        stream = residual.stream_of(model)
        self._check(name, block, stream)
        layout, turn = residual.layout_of(name, block), self._turn(stream)
        for norm, readers in layout.norms.items():
            layers = [_linear(block, reader) for reader in readers]
            residual.take_gain(f"{name}.{norm}", block.get_submodule(norm), stream.form, layers, turn)
        for writer in (layout.o, layout.fc2):
            residual.turn_output(_linear(block, writer), turn)
        if self.values:
            o = _linear(block, layout.o)
            head = _head(name, block, layout.o)
            if residual.even_block(head) is not None:
                values = residual.turn_of(head, f"quarot.{self.seed}.values")
                residual.turn_values(_linear(block, layout.values), o, head, values, fused=layout.fused)

    def rotate_inputs(
        self,
        model: nn.Module,  # noqa: ARG002
        name: str,
        block: nn.Module,
        roles: Roles | None = None,  # noqa: ARG002 - layers are known by the layout
    ) -> None:
        """Have quantized layers rotate what weights cannot take."""
        if not self.online:
            return
        layout = residual.layout_of(name, block)
        for part in (layout.o, layout.fc2):
            layer = block.get_submodule(part)
            if not isinstance(layer, QuantLinear):
                continue
            across = _head(name, block, part) if part == layout.o and self.values else None
            size = residual.even_block(layer.in_features // (across or 1))
            if size is not None:
                signs = signs_of(f"quarot.{self.seed}.{name}.{part}", layer.in_features)
                rotate_input(layer, size, signs, across)

    def _turn(self, stream: Stream) -> Turn:
        return residual.turn_of(stream.width, f"quarot.{self.seed}", keep_mean=stream.form.centred)

    def _check(self, name: str, block: nn.Module, stream: Stream) -> None:
        layout = residual.layout_of(name, block)
        for norm, readers in layout.norms.items():
            layers = [_linear(block, reader) for reader in readers]
            residual.check_gain(f"{name}.{norm}", block.get_submodule(norm), stream.form, layers)
            if residual.form_of(f"{name}.{norm}", block.get_submodule(norm)) != stream.form:
                raise ConfigError(
                    f"norm {name}.{norm} and {stream.norm_name} compute different things: one rotation does "
                    "not suit both"
                )
        if self.values:
            _head(name, block, layout.o)


def _linear(block: nn.Module, name: str) -> nn.Linear:
    layer = block.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise ConfigError(f"{name} is a {type(layer).__name__}, not a linear layer: it cannot be rotated")
    return layer


def _head(name: str, block: nn.Module, o: str) -> int:
    parent = o.rpartition(".")[0]
    return residual.head_of(f"{name}.{parent}", block.get_submodule(parent), _linear(block, o))
