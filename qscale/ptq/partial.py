"""A pass on its way to a folder: what is finished is on disk, and the same pass goes on from there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qscale import bounded
from qscale.errors import ConfigError, StoreError

_IDENTITY, _LOCK, _MODEL = "pass.json", "lock", "model"
_NOTE_BYTES = 100_000_000


class Partial:
    """The folder beside ``out`` in which a pass writes; it becomes ``out`` when it is whole.

    ``.<out>-partial/`` holds the identity of the pass, weights and a note of each finished block, the hidden
    states after the last, and in the end ``model/``, which becomes the new folder. Each file appears whole: a
    kill loses the block that was being worked on. Use it as a context manager; one process at a time.

    Args:
        out: The folder to be; it must not exist, or be empty.
        identity: All that the bytes of the result depend on.

    Raises:
        ConfigError: ``out`` is not empty, or another pass, or another process, has a partial folder there.
        StoreError: It cannot be written.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        check_target(out)
        self.out = out
        self.folder = partial_folder(out)
        self.model = self.folder / _MODEL
        self._identity = json.loads(json.dumps(identity))
        self._lock: int | None = None

    def __enter__(self) -> Partial:
        with storing(self.out):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._close()
            raise ConfigError(
                f"another process is writing {str(self.out)!r}: wait for it, or stop it"
            ) from error
        try:
            self._check_identity()
        except StoreError:
            self.__exit__()
            raise
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and not self.notes():  # nothing finished, nothing to go on from
            shutil.rmtree(self.folder, ignore_errors=True)
        self._close()

    def notes(self) -> list[dict[str, Any]]:
        """The notes of the finished blocks, in order."""
        found: list[dict[str, Any]] = []
        while (note := self._note(f"block-{len(found)}.json")) is not None:
            found.append(note)
        return found

    def begin_model(self) -> Path:
        """An empty folder for what will be the result."""
        with storing(self.out):
            shutil.rmtree(self.model, ignore_errors=True)
            self.model.mkdir()
        return self.model

    def finish(
        self,
        number: int,
        weights: Mapping[str, Tensor],
        note: Mapping[str, Any],
        states: Mapping[str, list[Tensor]],
    ) -> None:
        """Keep a finished block, and what is needed to go on after it."""
        self.tensors(self._weights(number), weights)
        flat = {f"{kind}.{i}": x for kind, batches in states.items() for i, x in enumerate(batches)}
        self.tensors(self._states(number), flat)
        self._json(f"block-{number}.json", note)
        if number > 0:
            self._states(number - 1).unlink(missing_ok=True)

    def weights(self, number: int) -> dict[str, Tensor]:
        """The weights of a finished block.

        Raises:
            StoreError: They cannot be read.
        """
        return self._load(self._weights(number))

    def states(self, number: int) -> dict[str, list[Tensor]]:
        """The hidden states after a block, by kind.

        Raises:
            StoreError: They cannot be read.
        """
        flat = self._load(self._states(number))
        found: dict[str, list[Tensor]] = {}
        for i in range(len(flat)):
            for kind in {name.rpartition(".")[0] for name in flat}:
                if f"{kind}.{i}" in flat:
                    found.setdefault(kind, []).append(flat[f"{kind}.{i}"])
        return found

    def once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that was kept before, or is computed now and kept."""
        path = self.folder / f"{name}.npy"
        if path.is_file():
            return np.asarray(np.load(path, allow_pickle=False))
        made = compute()
        with storing(self.out):
            beside = path.with_name(f"{name}.tmp.npy")
            np.save(beside, made, allow_pickle=False)
            _into_place(beside, path)
        return made

    def tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to a file, whole or not at all."""
        with storing(self.out):
            beside = path.with_name(path.name + ".tmp")
            kept = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
            try:
                save_file(kept, beside, metadata={"format": "pt"})
            except SafetensorError as error:  # it wraps what the system says
                beside.unlink(missing_ok=True)
                raise OSError(str(error)) from error
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            _into_place(beside, path)

    def publish(self) -> None:
        """Give the model its place: from now on the folder is there, whole."""
        with storing(self.out):
            sync(self.model)
            self.model.chmod(0o755)
            self.model.replace(self.out)  # of an empty folder too
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check_identity(self) -> None:
        kept = self._note(_IDENTITY)
        if kept is None:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._json(_IDENTITY, self._identity)
            return
        if kept != self._identity:
            names = sorted({*kept, *self._identity})
            other = ", ".join(name for name in names if kept.get(name) != self._identity.get(name))
            raise ConfigError(
                f"{str(self.folder)!r} holds a pass that was cut off and is another one (other {other}): "
                "give the command that began it to go on, delete that folder to start anew, or name another "
                "folder"
            )

    def _load(self, path: Path) -> dict[str, Tensor]:
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{str(path)!r} cannot be read ({bounded.one_line(error, 120)}): delete {str(self.folder)!r} "
                "and start anew"
            ) from error

    def _weights(self, number: int) -> Path:
        return self.folder / f"block-{number}.safetensors"

    def _states(self, number: int) -> Path:
        return self.folder / f"states-{number}.safetensors"

    def _note(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            note = bounded.loads(bounded.read_text(path, _NOTE_BYTES))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{str(path)!r} cannot be read ({bounded.one_line(error, 120)}): delete {str(self.folder)!r} "
                "and start anew"
            ) from error
        return dict(note)

    def _json(self, name: str, note: Mapping[str, Any]) -> None:
        with storing(self.out):
            beside = self.folder / f"{name}.tmp"
            beside.write_text(json.dumps(note, allow_nan=False), encoding="utf-8")
            _into_place(beside, self.folder / name)

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_target(folder: Path) -> None:
    """Make sure that a folder may be written.

    Raises:
        ConfigError: It exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not empty: name another folder for the model")


def partial_folder(out: Path) -> Path:
    """Where a pass keeps what is finished until ``out`` is whole."""
    return out.parent / f".{out.name}-partial"


class storing:  # noqa: N801 - reads as a phrase: with storing(folder)
    """Turns what the system says while a folder is written into a StoreError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            kept = partial_folder(self.folder)
            more = f"; finished blocks are kept in {str(kept)!r}" if (kept / "block-0.json").is_file() else ""
            raise StoreError(f"the model cannot be written to {str(self.folder)!r}: {error}{more}") from error


def sync(folder: Path) -> None:
    """Have every file of a folder, and the folder itself, on the disk."""
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _into_place(beside: Path, path: Path) -> None:
    _sync(beside)
    beside.replace(path)


def to_device(states: list[Tensor], device: torch.device) -> list[Tensor]:
    """Hidden states on the device where the pass computes."""
    return [x.to(device) for x in states]
