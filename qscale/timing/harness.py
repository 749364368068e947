"""Times calls in turns, so that whatever else the machine does slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

_LEAST_ROUNDS = 3
_MOST_ROUNDS = 2000
#: A call of more time is warm after the first.
_LONG_S = 0.2
#: A call of less time is made once unmeasured in its turn, since the others have emptied the caches, and then
#: some times measured, since beside a slow call there are few rounds and an interruption counts for much.
_SHORT_S = 5e-3
_SHORT_CALLS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Seconds of one call, over all that were measured."""

    min_s: float
    median_s: float
    max_s: float


def measure(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Sample]:
    """Each call in its turn, for about ``seconds`` in all and at least three rounds."""
    short = {name: _warm(call) < _SHORT_S for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start = perf_counter()
    for round_ in range(_MOST_ROUNDS):
        if round_ >= _LEAST_ROUNDS and perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            if short[name]:
                call()
            taken[name] += [_seconds(call) for _ in range(_SHORT_CALLS if short[name] else 1)]
    return {name: Sample(min_s=min(t), median_s=median(t), max_s=max(t)) for name, t in taken.items()}


def overhead(call: Callable[[], object], rounds: int = 7, calls: int = 5000) -> float:
    """Seconds of one call to something tiny: the best mean of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (perf_counter() - start) / calls)
    return best


def _warm(call: Callable[[], object]) -> float:
    """Up to three first calls; the seconds of the last."""
    for _ in range(3):
        taken = _seconds(call)
        if taken > _LONG_S:
            break
    return taken


def _seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
