"""Where a ladder's files lie inside its folder: the names that training and the store share. No torch."""

from __future__ import annotations

from pathlib import Path


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


def diagnostics(folder: Path) -> Path:
    """One JSON object a line: a step and one layer's diagnostics."""
    return folder / "diagnostics.jsonl"


def final_weights(run: Path) -> Path:
    """The folder of the weights that an unquantized run ended with."""
    return run / "final"
