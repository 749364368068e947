"""Counts in words."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """A count and its noun: ``1 run``, ``2 runs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
