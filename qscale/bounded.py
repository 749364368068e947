"""Files that may come from strangers, read with bounds: their kind, size and nesting. No torch, no NumPy.

Whoever unpacks a study of somebody else reads what that other wrote: every file of it is plain text or
numbers, and no file can make a reader wait, fill its memory or run anything. All limits stand here.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

#: Bytes that are read at most; what we write ourselves is a hundredth of it and less.
STUDY_BYTES = 1_000_000
RECORD_BYTES = 1_000_000
NOTE_BYTES = 100_000  #: corpus.json, failure.json, config.json, the state of a checkpoint
MODEL_CONFIG_BYTES = 1_000_000
TOKENIZER_BYTES = 100_000_000
DIAGNOSTICS_BYTES = 500_000_000
LINE_BYTES = 65_536  #: of a curve


def read_bytes(path: Path | str, limit: int) -> bytes:
    """A file of at most ``limit`` bytes.

    Pipes and devices, which could go on for ever, are refused without waiting for them.

    Raises:
        OSError: It is missing or unreadable.
        ValueError: It is larger, or no regular file.
    """
    return read_with_time(path, limit)[0]


def read_with_time(path: Path | str, limit: int) -> tuple[bytes, float]:
    """As :func:`read_bytes`, with the time of the last change, in seconds."""
    descriptor, status = _open(path)
    try:
        if status.st_size > limit:
            raise ValueError(f"{status.st_size} bytes, where at most {limit} are read")
        data = os.read(descriptor, status.st_size + 1)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
            data += more
        return data, status.st_mtime
    finally:
        os.close(descriptor)


def read_end(path: Path | str, length: int) -> bytes:
    """The last ``length`` bytes of a file, or all where it is shorter.

    Raises:
        OSError: It is missing or unreadable.
        ValueError: It is no regular file.
    """
    descriptor, status = _open(path)
    try:
        return os.pread(descriptor, length, max(0, status.st_size - length))
    finally:
        os.close(descriptor)


def _open(path: Path | str) -> tuple[int, os.stat_result]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return descriptor, status
    os.close(descriptor)
    raise ValueError("it is not a regular file")


def read_text(path: Path | str, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes, in UTF-8.

    Raises:
        OSError: It is missing or unreadable.
        ValueError: It is larger, no regular file, or not UTF-8.
    """
    return text_of(read_bytes(path, limit))


def text_of(data: bytes) -> str:
    """Bytes as UTF-8 text.

    Raises:
        ValueError: They are not.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("not text") from error


def loads(text: str | bytes) -> Any:
    """Strict JSON: no NaN, no infinity, nesting as deep as the interpreter goes.

    Raises:
        ValueError: Anything else.

    Example:
        >>> loads('{"step": 1}')
        {'step': 1}
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text_of(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that strict JSON has")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def is_id(text: object) -> bool:
    """Whether a text is an id of a run or a trunk: 16 hex digits, and so no path.

    Example:
        >>> is_id("0123456789abcdef"), is_id("../../../../etc")
        (True, False)
    """
    return isinstance(text, str) and len(text) == 16 and not text.strip("0123456789abcdef")


def one_line(text: object, limit: int = 300) -> str:
    """A text for one line of a terminal: no line ends, no control characters, cut at ``limit``.

    Example:
        >>> one_line("a\\nb\\x1b[31m")
        'a b?[31m'
    """
    words = " ".join(str(text)[: 4 * limit].split())
    plain = "".join(letter if letter.isprintable() else "?" for letter in words)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."
