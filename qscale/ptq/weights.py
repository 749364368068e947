"""The safetensors files of a model's folder, read a tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qscale import bounded
from qscale.errors import ConfigError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_INDEX_BYTES = 100_000_000
_PIECE = 1 << 20


class Weights:
    """Names and shapes of the tensors of a folder; a tensor is read when it is asked for.

    Args:
        folder: With ``model.safetensors``, or with shards and ``model.safetensors.index.json``.

    Raises:
        ConfigError: There is neither, a shard is missing or damaged, or the index names what is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files, wanted = _listed(folder)
        self.file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        for file in self.files:
            for name, shape, kind in _header(file):
                self.file_of[name], self.shapes[name], self.kinds[name] = file, shape, kind
        for name, file in wanted.items():
            if self.file_of.get(name) != file:
                raise ConfigError(
                    f"{str(folder / INDEX)!r} says that tensor {name!r} is in {file.name}, where it is not: "
                    "the shards are not of one model; get them again"
                )

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, each file opened once.

        Raises:
            ConfigError: A file is damaged.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of[name], []).append(name)
        found = {}
        for file, inside in by_file.items():
            try:
                with safe_open(file, framework="pt") as opened:
                    # a copy: what is mapped would stay in memory as long as the file is open
                    found.update({name: opened.get_tensor(name).clone() for name in inside})
            except (OSError, SafetensorError, RuntimeError) as error:
                raise _damaged(file, error) from error
        return found

    @property
    def dtype(self) -> torch.dtype:
        """That of the first floating tensor."""
        known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return next((known[kind] for kind in self.kinds.values() if kind in known), torch.float32)

    def sha256(self) -> str:
        """A hash of all the files, config.json included."""
        found = hashlib.sha256()
        for file in (*self.files, self.folder / "config.json"):
            found.update(f"{file.name} ".encode())
            if file.is_file():
                with file.open("rb") as opened:
                    while piece := opened.read(_PIECE):
                        found.update(piece)
        return found.hexdigest()


def _listed(folder: Path) -> tuple[list[Path], Mapping[str, Path]]:
    """The files, and the file of each tensor by the index, where there is one."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE], {}
    index = folder / INDEX
    if not index.is_file():
        raise ConfigError(
            f"{str(folder)!r} holds neither {WHOLE} nor {INDEX}: weights in safetensors are wanted "
            "(save_pretrained writes them)"
        )
    try:
        table = bounded.loads(bounded.read_text(index, _INDEX_BYTES))["weight_map"]
        wanted = {str(name): folder / str(file) for name, file in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{str(index)!r} cannot be read: {bounded.one_line(error)}") from error
    files = sorted(set(wanted.values()))
    for file in files:
        if file.parent != folder or not file.is_file():
            raise ConfigError(
                f"{str(index)!r} names {file.name!r}, which is not in the folder: a shard is missing; "
                "get the whole model"
            )
    if not files:
        raise ConfigError(f"{str(index)!r} names no file")
    return files, wanted


def _header(file: Path) -> list[tuple[str, tuple[int, ...], str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            found = []
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                tensor = opened.get_slice(name)
                found.append((name, tuple(tensor.get_shape()), str(tensor.get_dtype())))
            return found
    except (OSError, SafetensorError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{str(file)!r} is damaged or cut off ({bounded.one_line(error, 120)}): get the file again"
    )
