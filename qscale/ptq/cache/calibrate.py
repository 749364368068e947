"""Keys and values of a model's attentions, stored as a step says: looked at, fixed, measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.models.attention import look_up
from qscale.models.surgery import Roles, attentions_of
from qscale.ptq.blocks import Calls, find_blocks
from qscale.ptq.cache.coder import Looking
from qscale.ptq.cache.rotary import BeforeRotary, rotary_of, tell_positions
from qscale.ptq.methods.method import Step, Storing
from qscale.ptq.report import CacheReport


@torch.no_grad()
def quantize_caches(
    model: nn.Module,
    step: Step,
    windows: np.ndarray,
    *,
    roles: Roles | None = None,
    kept: Collection[int] = (),
    emit: Callable[[dict[str, Any]], None],
) -> list[CacheReport]:
    """Have the attentions of a model find keys and values as a step of kind ``cache`` stores them, in place.

    Each block is calibrated on the outputs of the blocks before it with their keys and values stored, its own
    linear layers as they are. Whole sequences are meant: what a cache of transformers holds is not stored.

    Args:
        model: In evaluation.
        step: Of kind ``cache``.
        windows: As for :func:`qscale.ptq.run.quantize_trained`.
        roles: Likewise.
        kept: Numbers of blocks that are left out.
        emit: Gets an event for each attention.

    Raises:
        ConfigError: No keys are known, attention is not ``sdpa``, keys are quantized already, or not finite.
        SpecError: A spec does not serve a head.
    """
    what = f"method {step}"
    attentions = attentions_of(model, roles, kept, what)
    for name, module in attentions.items():
        if hasattr(module, "kv_quantizers"):
            raise ConfigError(f"{what}: keys of {name} are quantized by the recipe already; leave kv= out")
    look_up(model, attentions, what)
    blocks = find_blocks(model)
    calls = Calls(model, blocks, windows)
    reports = []
    for number, name in enumerate(blocks):
        for own, module in attentions.items():
            if own == name or own.startswith(f"{name}."):
                report = _quantize(own, module, step, partial(calls.run, name), calls)
                emit({"event": "cache", "block": number, **report.to_json()})
                reports.append(report)
        calls.hidden = [calls.run(name, batch) for batch in range(len(calls.hidden))]
    return reports


def _quantize(
    name: str, module: nn.Module, step: Step, run: Callable[[int], Tensor], calls: Calls
) -> CacheReport:
    """One attention module; ``run`` runs its block for one batch."""

    def placed(keys: nn.Module, values: nn.Module) -> nn.ModuleDict:
        if step.before_rotary:
            keys = BeforeRotary(keys, rotary_of(module))
        return nn.ModuleDict({"key": keys, "value": values})

    with _output_of(module) as plain:
        run(0)
    if step.before_rotary:
        module.register_forward_pre_hook(tell_positions, with_kwargs=True)
    looking = {
        "key": Looking(f"{name}.key", lambda *shape: step.key_coder(f"{name}.key", *shape)),
        "value": Looking(f"{name}.value", lambda *shape: step.value_coder(f"{name}.value", *shape)),
    }
    module.kv_quantizers = placed(looking["key"], looking["value"])
    for batch in range(len(calls.hidden)):
        run(batch)
    coders = {part: cast("Storing", one.coder) for part, one in looking.items()}
    for coder in coders.values():
        coder.fix()
    module.kv_quantizers = placed(coders["key"], coders["value"]).eval()
    comparing = {part: _Comparing(coder) for part, coder in module.kv_quantizers.items()}
    done, module.kv_quantizers = module.kv_quantizers, nn.ModuleDict(comparing)
    latest = step.latest
    if latest is not None:
        module.kv_recent = latest  # type: ignore[assignment]
    with _output_of(module) as stored:
        run(0)
    module.kv_quantizers = done
    assert looking["key"].shape is not None
    count, size = looking["key"].shape
    length = int(calls.hidden[0].shape[1])
    full = torch.finfo(calls.hidden[0].dtype).bits
    bits = 0.0
    for part, coder in coders.items():
        late = 0.0 if latest is None else latest[part].share(length)
        bits += (late * full + (1 - late) * coder.bits) / 2
    tables = sum(coder.table_bits for coder in coders.values())
    of_tables = tables / (2 * count * size * length)
    return CacheReport(
        attention=name,
        elements=2 * count * size,
        bits=bits + of_tables,
        table_bits=tables,
        bits_of_tables=of_tables,
        relmse_keys=comparing["key"].error,
        relmse_values=comparing["value"].error,
        relmse=_error(plain[0], stored[0]),
        notes=_notes(done["key"]),
    )


def _notes(keys: nn.Module) -> tuple[str, ...]:
    if isinstance(keys, BeforeRotary) and keys.positions is None:
        return ("no rotary embedding: keys before it are those after it",)
    return ()


class _Comparing(nn.Module):
    """A coder, and how far what it gives is from what it got."""

    def __init__(self, coder: nn.Module) -> None:
        super().__init__()
        self.coder = coder
        self.error = 0.0

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.coder(x)
        self.error = _error(x, made)
        return made


def _error(x: Tensor, y: Tensor) -> float:
    power = float(x.double().square().sum())
    return float((x.double() - y.double()).square().sum()) / power if power > 0 else 0.0


@contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module gives while the block runs."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        yield found
    finally:
        handle.remove()
