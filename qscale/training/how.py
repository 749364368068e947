"""How a run is computed: what changes none of its numbers. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qscale.training.ranks import Ranks

Emit = Callable[[dict[str, Any]], None]
ShouldStop = Callable[[], bool]


def silent(_: dict[str, Any]) -> None:
    """An Emit for callers who do not watch."""


def never() -> bool:
    """A ShouldStop for callers who do not interrupt."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What changes no number of a run: where it computes, who watches, what is looked at on the way."""

    device: str = "cpu"
    emit: Emit = silent
    should_stop: ShouldStop = never
    ranks: Ranks = field(default_factory=Ranks)
    checkpoint_activations: bool = False  #: forward again in backward: less memory, more time
    diagnose_every: int = 0  #: steps between two looks at every layer; 0: at the end of a run alone
    oscillations: bool = False  #: follow the codes of weights from step to step (of this process's steps)
