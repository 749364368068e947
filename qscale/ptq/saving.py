"""A quantized model as a folder that transformers reads: its weights as they are after rounding."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError, StoreError
from qscale.models import attention
from qscale.ptq.inputs import Divided
from qscale.quantizers import QuantLinear, Rotated, Shared

#: What was done, beside the weights.
NOTE = "qscale.json"


def check_target(folder: Path) -> None:
    """Make sure that a folder may be written.

    Raises:
        ConfigError: It exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not empty: name another folder for the model")


@torch.no_grad()
def unwrap(model: nn.Module) -> None:
    """Make plain linear layers of the quantized ones, in place, their weights turned back and divided.

    With inputs that are not quantized they compute what the quantized layers do, up to rounding in the
    weights' dtype; what quantizes inputs, keys and values is gone.

    Raises:
        ConfigError: A weight is not fixed yet.
    """
    attention.leave(model)
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, QuantLinear):
            continue
        if layer.weight_quantizer is not None:
            raise ConfigError(f"layer {name} still quantizes its weight: give a model after a pass")
        weight, bias = _plain(layer)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
        plain.weight = nn.Parameter(weight)
        if bias is not None:
            plain.bias = nn.Parameter(bias)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain.train(layer.training))


def _plain(layer: QuantLinear) -> tuple[Tensor, Tensor | None]:
    weight: Tensor = layer.weight.detach().float()
    bias: Tensor | None = layer.bias
    module = layer.input_quantizer
    module = module.quantizer if isinstance(module, Shared) else module
    divided = module if isinstance(module, Divided) else None
    inner = module if divided is None else divided.quantizer
    inner = inner.quantizer if isinstance(inner, Shared) else inner
    if isinstance(inner, Rotated):
        weight = inner.from_basis(weight)
    if divided is not None:
        weight = weight / divided.scale
        if divided.shift is not None and bias is not None:
            bias = (bias.detach().float() - weight @ divided.shift).to(layer.weight.dtype)
    return weight.to(layer.weight.dtype).contiguous(), bias


def save(model: nn.Module, folder: Path, note: Mapping[str, Any], files: tuple[Path, ...] = ()) -> None:
    """Write a model that :func:`unwrap` has been given to, and ``qscale.json``, to a new folder.

    It appears whole or not at all.

    Args:
        model: Of transformers.
        folder: New, or empty.
        note: For ``qscale.json``.
        files: Copied along, such as a tokenizer's.

    Raises:
        ConfigError: The folder is not empty.
        StoreError: It cannot be written.
    """
    check_target(folder)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        model.save_pretrained(temporary)  # type: ignore[operator]
        for file in files:
            shutil.copyfile(file, temporary / file.name)
        (temporary / NOTE).write_text(json.dumps(note, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        temporary.chmod(0o755)
        temporary.replace(folder)  # of an empty folder too
    except OSError as error:
        raise StoreError(f"the model cannot be written to {str(folder)!r}: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
