"""Files that appear whole or not at all, locks that die with their owner, disk faults as one-line errors."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qscale.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the disk is full."""
    while error is not None:
        # safetensors reports its I/O errors as text, with the number in it.
        if (isinstance(error, OSError) and error.errno in _FULL) or f"(os error {errno.ENOSPC})" in str(
            error
        ):
            return True
        error = error.__cause__
    return False


def store_error(action: str, path: Path, error: OSError) -> StoreError:
    """An operating system's error as ours: what failed, where, what to do."""
    if is_disk_full(error):
        remedy = "the disk is full: free some space and run the same command again; what is done is kept"
    elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
        remedy = f"{error.strerror}: make it writable, or copy the study folder to where you may write"
    else:
        remedy = f"{error.strerror or error}"
    return StoreError(f"cannot {action} {path}: {remedy}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which takes its place when all went well.

    Raises:
        StoreError: It cannot be written; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary, os.O_RDONLY)
        os.replace(temporary, path)  # noqa: PTH105 - the name says what matters
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)  # a rename itself is to last
    except OSError as error:
        raise store_error("write", path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut.

    Raises:
        StoreError: It cannot be written; the old file, if any, is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a job's folder; yields False where another process holds it.

    The kernel frees the lock when its owner ends, however that happens, so no lock is ever stale.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise store_error("lock", folder, error) from error
    try:
        yield _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)  # frees the lock


def is_locked(folder: Path) -> bool:
    """Whether some process works in a folder now; changes nothing, so it serves on a read-only disk."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # never locked, or not ours to see
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
