"""Where a ladder's files lie inside its folder: the names that training and the store share. No torch."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

#: What is written beside its target: ``.record.json.4711``, ``.step-00000010.4711``, ``.tmp4a3f``.
TEMPORARY = re.compile(r"\..+\.([0-9]{1,10})|\.tmp\w+|eval_losses\.tmp\.npy")


def branch_checkpoint(trunk: Path, step: int) -> Path:
    """The checkpoint that branches leaving the trunk at ``step`` start from.

    It appears whole or not at all.
    """
    return trunk / "branches" / f"step-{step:08d}"


def eval_losses(run: Path) -> Path:
    """Mean loss of each evaluation sequence, float64, in nats per token."""
    return run / "eval_losses.npy"


def curve(folder: Path) -> Path:
    """One JSON object a line: step, tokens, loss, learning rate, gradient norm."""
    return folder / "curve.jsonl"


def checkpoints(folder: Path) -> Path:
    """The newest two checkpoints of unfinished work."""
    return folder / "checkpoint"


def pass_report(folder: Path) -> Path:
    """One JSON object: what a method of the mode ptq did, layer by layer."""
    return folder / "layers.json"


def diagnostics(folder: Path) -> Path:
    """One JSON object a line: a step and one layer's diagnostics."""
    return folder / "diagnostics.jsonl"


def final_weights(run: Path) -> Path:
    """The folder of the weights that an unquantized run ended with."""
    return run / "final"


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to ``<name>.corrupt-<n>``; nothing is deleted.

    Raises:
        OSError: The disk does not allow it.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    return path.rename(aside)


def clear_unfinished(folder: Path) -> None:
    """Delete what a killed process left half written; the caller holds the folder's lock."""
    for place in (folder, final_weights(folder), checkpoints(folder), branch_checkpoint(folder, 0).parent):
        with suppress(OSError):  # no such folder, or a disk that is only read
            for path in place.iterdir():
                if TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
