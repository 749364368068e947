"""Prepared bytes on disk: made once, whole or not at all, and shared by processes. No torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qscale.errors import CorpusError


def cache_folder(kind: str = "corpora") -> Path:
    """Where prepared files of one kind lie: below ``$QSCALE_CACHE``, else in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("QSCALE_CACHE") or Path(base) / "qscale") / kind


@contextmanager
def building(folder: Path, what: str) -> Iterator[Path]:
    """A new folder to fill, which becomes ``folder`` at the end, unless another process was first.

    Raises:
        CorpusError: It cannot be written; nothing is left behind.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise CorpusError(f"{what} cannot be cached in {str(folder.parent)!r}: {error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def mapped(path: Path, dtype: str, length: int) -> np.ndarray:
    """The numbers of a file, read only, of which the disk keeps what memory cannot.

    Raises:
        CorpusError: The file is missing or has another length.
    """
    try:
        found = path.stat().st_size
    except OSError:
        found = -1
    if found != length * np.dtype(dtype).itemsize:
        raise damaged(path.parent)
    # A plain view: indexing the subclass costs more than the copying of a batch.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if length else np.empty(0, dtype)


def damaged(folder: Path) -> CorpusError:
    """The error of a cache that does not hold what its ``meta.json`` says."""
    return CorpusError(f"the cache in {str(folder)!r} is damaged: delete that folder and run again")
