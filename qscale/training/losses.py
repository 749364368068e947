"""A run's losses by evaluation sequence on disk. No torch."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qscale import bounded
from qscale.errors import StoreError

#: Of one float64 each.
_MOST_SEQUENCES = 10_000_000


def read_losses(path: Path) -> NDArray[np.float64]:
    """The mean losses of the sequences in ``eval_losses.npy``, as ``np.save`` wrote them.

    What the header says is held against the size of the file before anything is made from it, and nothing
    is unpickled.

    Raises:
        StoreError: The file cannot be read, or is something else.
    """
    try:
        data = bounded.read_bytes(path, 8 * _MOST_SEQUENCES)
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.float64 or len(shape) != 1:
            raise ValueError(f"{dtype} of shape {shape}, not one float64 a sequence")
        if len(data) - file.tell() != 8 * shape[0]:
            raise ValueError(f"{len(data)} bytes for {shape[0]} sequences")
        return np.frombuffer(data, dtype=dtype, offset=file.tell())
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise StoreError(f"{path} cannot be read: {bounded.one_line(error)}") from error
