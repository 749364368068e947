"""The curve of a run on disk: appended line by line, whole after any kill. No torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from qscale import bounded


class Curve:
    """Appends to a file of one JSON object a line; steps already there are not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = 0

    def __enter__(self) -> Curve:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            whole = 0
            with self.path.open("rb") as file:
                # a kill or a power cut may tear the end
                while (step := _step_of(line := file.readline(bounded.LINE_BYTES))) is not None:
                    self.last, whole = step, whole + len(line)
                if line:
                    os.truncate(self.path, whole)
        self.file: TextIO = self.path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, *rows: dict[str, Any]) -> None:
        """Rows of one step, each with a ``step``."""
        if rows[0]["step"] > self.last:
            self.file.write("".join(json.dumps(row) + "\n" for row in rows))
            self.file.flush()


def _step_of(line: bytes) -> int | None:
    """The step of a whole line of the curve, None for a torn one."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None
