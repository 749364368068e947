"""A run's losses by evaluation sequence on disk. No torch."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qscale import bounded
from qscale.errors import StoreError

#: Of one float64 each.
_MOST_SEQUENCES = 10_000_000
#: How ``np.save`` begins such a file. NumPy's own reader parses headers as Python, and fails in many ways.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f8', 'fortran_order': False, 'shape': \(([0-9]{1,9}),\), \} *\n",
    re.DOTALL,
)


def read_losses(path: Path) -> NDArray[np.float64]:
    """The mean losses of the sequences in ``eval_losses.npy``, as ``np.save`` wrote them.

    What the header says is held against the size of the file before anything is made from it, and nothing
    is unpickled.

    Raises:
        StoreError: The file cannot be read, or is something else.
    """
    try:
        data = bounded.read_bytes(path, 8 * _MOST_SEQUENCES)
        header = _HEADER.match(data)
        if header is None:
            raise ValueError("not a plain array of one float64 a sequence")
        start = 10 + int.from_bytes(header[1], "little")
        if start != header.end() or len(data) != start + 8 * int(header[2]):
            raise ValueError(f"{len(data)} bytes for {int(header[2])} sequences")
        return np.frombuffer(data, dtype="<f8", offset=start)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def losses_sha256(losses: NDArray[np.float64]) -> str:
    """The sha256 of the values, as 64-bit little-endian numbers."""
    return hashlib.sha256(np.ascontiguousarray(losses, dtype="<f8").tobytes()).hexdigest()
