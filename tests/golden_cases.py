"""Reader of the golden vectors: outputs of other libraries, in ``shared/golden`` beside the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
BYTES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e8m0": torch.float8_e8m0fnu}
ALL_BF16 = "@arange65536.bf16"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of one library: what went in, what came out, and what is to be compared."""

    id: str
    peer: str
    op: str
    format: str
    group_size: int | None
    options: Mapping[str, Any]
    file: str
    input: str
    input_dtype: str
    output_dtype: str
    keys: Mapping[str, Mapping[str, str]]
    close: Mapping[str, tuple[float, float]]  #: role to (rtol, atol); all other roles to the bit
    cpu_dependent: tuple[str, ...]  #: roles that the library itself gives differently on another CPU

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.input_dtype]

    def inputs(self) -> dict[str, Tensor]:
        """Copies of the inputs by role."""
        return {role: self._array(key).clone() for role, key in self.keys["inputs"].items()}

    def outputs(self) -> dict[str, Tensor]:
        """The library's outputs by role."""
        return {role: self._array(key) for role, key in self.keys["outputs"].items()}

    def _array(self, key: str) -> Tensor:
        return _tensor(self.file, key)


def cases() -> list[Case]:
    """Every case, or none where the folder is absent."""
    if not (FOLDER / "index.json").is_file():
        return []
    rows = json.loads((FOLDER / "index.json").read_text())["cases"]
    optional: dict[str, Any] = {"close": {}, "cpu_dependent": ()}
    return [
        Case(**{k: v for k, v in (optional | row).items() if k in Case.__dataclass_fields__}) for row in rows
    ]


@cache
def _arrays(file: str) -> Any:
    return np.load(FOLDER / file)


@lru_cache(maxsize=4096)
def _tensor(file: str, key: str) -> Tensor:
    array = np.arange(2**16, dtype=np.uint16) if key == ALL_BF16 else _arrays(file)[key]
    if key.endswith(".bf16"):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    tag = key.rpartition(".")[2]
    return tensor.view(BYTES[tag]) if tag in BYTES else tensor
