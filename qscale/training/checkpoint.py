"""Checkpoints: weights and optimizer state in safetensors, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from qscale import bounded
from qscale.errors import StoreError
from qscale.training import paths
from qscale.training.ranks import Ranks

_KEPT = 2
_STEP = re.compile(r"step-[0-9]{1,18}")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run was when a checkpoint was written."""

    step: int  #: taken so far
    seconds: float
    monitor: tuple[int, float, float] = (0, 0.0, math.inf)  #: the fields of ``Monitor``


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    ranks: Ranks | None = None,
) -> None:
    """Write a checkpoint under a temporary name beside ``folder``, sync it, then rename it.

    Of several processes all have to call it and the first writes: whole tensors, under the names and in the
    files of one process.

    Raises:
        StoreError: The disk is full or the folder cannot be written; nothing of an older one is lost.
    """
    ranks = ranks or Ranks()
    weights = ranks.gathered(_state(model).items())
    moments = ranks.gathered(
        (f"{name}.{key}", optimizer.state[p][key])
        for name, p in model.named_parameters()
        if p in optimizer.state
        for key in _MOMENTS
    )
    if not ranks.is_main:
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed here
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(weights, temporary / "model.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        state = _position_json(position)
        (temporary / "state.json").write_text(json.dumps({**state, "sha256": _digest(temporary, state)}))
        for path in temporary.iterdir():
            sync(path)
        if folder.exists():  # the same step again, after a resume: the bytes are the same
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"checkpoint {folder.name} cannot be written: {error}; free some disk space and run again, "
            "finished work is kept"
        ) from error


def _digest(folder: Path, state: dict[str, Any]) -> str:
    """The sha256 of a checkpoint: of a bit that turned in a tensor, nothing else could tell."""
    digest = hashlib.sha256(json.dumps(state).encode())
    for name in ("model.safetensors", "optimizer.safetensors"):
        with (folder / name).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _position_json(position: Position) -> dict[str, Any]:
    """Without the infinity of a lowest average that is not known yet: JSON has none."""
    seen, average, lowest = position.monitor
    monitor = [seen, average, lowest if math.isfinite(lowest) else None]
    return {"step": position.step, "seconds": position.seconds, "monitor": monitor}


def _position(folder: Path, data: dict[str, Any]) -> Position:
    """What ``state.json`` says; a ``ValueError``, ``TypeError`` or ``KeyError`` where it is not ours."""
    seen, average, lowest = data.get("monitor", (0, 0.0, None))
    numbers = (data["step"], seen, data["seconds"], average, 0.0 if lowest is None else lowest)
    if type(data["step"]) is not int or type(seen) is not int:
        raise ValueError(f"step {data['step']!r}: not a whole number")
    if not all(type(number) in (int, float) and abs(number) < 1e300 for number in numbers):
        raise ValueError("state.json holds something else than numbers")
    if folder.name.startswith("step-") and data["step"] != step_of(folder):
        raise ValueError(f"it is of step {data['step']}")
    monitor = (seen, float(average), math.inf if lowest is None else float(lowest))
    return Position(step=data["step"], seconds=float(data["seconds"]), monitor=monitor)


def save_weights(folder: Path, model: nn.Module, ranks: Ranks | None = None) -> None:
    """Write the weights of a model that has been trained, as ``folder/model.safetensors``, whole or not.

    Of several processes all have to call it and the first writes.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    ranks = ranks or Ranks()
    weights = ranks.gathered(model.named_parameters())
    if not ranks.is_main:
        return
    target = folder / "model.safetensors"
    temporary = folder / f".model.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary, metadata={"sha256": _digest_of(weights)})
        sync(temporary)
        temporary.replace(target)
        sync(folder)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"the weights of {folder.name} cannot be written: {error}; free some disk space and run again"
        ) from error


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load what :func:`save_weights` wrote into a model that is not quantized yet, or is by now.

    Weights that cannot be read are renamed to ``model.safetensors.corrupt-<n>``: the run that left them is
    then done again by whoever needs them next.

    Raises:
        StoreError: The weights cannot be read, or belong to another model.
    """
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        with safe_open(path, "pt") as file:
            wanted = (file.metadata() or {}).get("sha256")  # older files have none
        if wanted is not None and wanted != _digest_of(weights):
            raise ValueError("their sha256 is not the one that was written with them")
    except (OSError, SafetensorError, ValueError) as error:
        with suppress(OSError):
            paths.set_aside(path)
        raise StoreError(
            f"the weights in {folder.name} cannot be read: {error}; run again to train the run that left "
            "them anew"
        ) from error
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights or not _is_of_quantizer(name):
                    parameter.copy_(weights[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"the weights in {folder.name} are those of another model: {bounded.one_line(error)}"
        ) from error


def _digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """The sha256 of names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers, each once though several layers share it."""
    lasting = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in lasting}
    return {**dict(model.named_parameters()), **buffers}


def _is_of_quantizer(name: str) -> bool:
    return not {"weight_quantizer", "input_quantizer", "kv_quantizers"}.isdisjoint(name.split("."))


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk: a power cut then leaves all or nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_rolling(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    ranks: Ranks | None = None,
) -> None:
    """Write ``folder/step-<n>`` and keep the two written last; otherwise as :func:`save`."""
    ranks = ranks or Ranks()
    save(folder / f"step-{position.step:08d}", model, optimizer, position, ranks)
    if not ranks.is_main:
        return
    # By time, for steps may be taken again; but clocks go back, and the one just written has to stay.
    others = [path for path in saved(folder) if step_of(path) != position.step]
    for old in sorted(others, key=lambda path: path.stat().st_mtime_ns)[: 1 - _KEPT]:
        shutil.rmtree(old)


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = (path for path in folder.glob("step-*") if (path / "state.json").is_file())
    return sorted(path for path in found if _STEP.fullmatch(path.name))


def step_of(checkpoint: Path) -> int:
    """The number of steps taken when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def restore_newest(
    candidates: Iterable[Path], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Position | None:
    """Restore the checkpoint of the latest step that can be read; None where there is none.

    One that cannot be read is renamed to ``<name>.corrupt-<n>``, out of the way of the next attempt.
    """
    for folder in sorted(candidates, key=step_of, reverse=True):
        try:
            return restore(folder, model, optimizer)
        except StoreError:
            with suppress(OSError):
                paths.set_aside(folder)
    return None


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Load weights and optimizer state; return where the run was.

    What quantizers learn or count stays as it is where the checkpoint is that of a model not yet quantized.

    Raises:
        StoreError: The checkpoint cannot be read, or belongs to another model.
    """
    try:
        state = bounded.loads(bounded.read_bytes(folder / "state.json", bounded.NOTE_BYTES))
        if not isinstance(state, dict):
            raise TypeError("state.json is not an object")
        wanted = state.pop("sha256", None)  # older checkpoints have none
        if wanted is not None and wanted != _digest(folder, state):
            raise ValueError("its sha256 is not the one that was written with it")
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        position = _position(folder, state)
        with torch.no_grad():
            for name, tensor in _state(model).items():
                if name in weights or not _is_of_quantizer(name):
                    tensor.copy_(weights[name])
            for name, parameter in model.named_parameters():
                if f"{name}.step" in moments:
                    optimizer.state[parameter] = {
                        key: moments[f"{name}.{key}"].to(parameter.device) for key in _MOMENTS
                    }
        return position
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise StoreError(f"checkpoint {str(folder)!r} cannot be read: {bounded.one_line(error)}") from error
