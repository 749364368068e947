"""Times a case in turns with its floor, so that whatever else the machine does slows both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from benchmarks.cases import Case

_SECONDS_A_CASE = 1.0
_MOST_REPEATS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of the call, and its median as a multiple of the floor's."""

    name: str
    min_s: float
    median_s: float
    max_s: float
    gigabytes_per_s: float
    times_floor: float


def measure(case: Case, warmup: int = 3) -> Timing:
    """Call and floor in turns for about a second, at least ten times."""
    start = perf_counter()
    for _ in range(warmup):
        case.call()
        case.floor()
    once = (perf_counter() - start) / warmup
    repeats = min(_MOST_REPEATS, max(10, int(_SECONDS_A_CASE / once)))
    calls, floors = [], []
    for _ in range(repeats):
        calls.append(_seconds(case.call))
        floors.append(_seconds(case.floor))
    return Timing(
        name=case.name,
        min_s=min(calls),
        median_s=median(calls),
        max_s=max(calls),
        gigabytes_per_s=case.bytes_moved / median(calls) / 1e9,
        times_floor=median(calls) / median(floors),
    )


def overhead(call: Callable[[], object], rounds: int = 7, calls: int = 5000) -> float:
    """Seconds of one call to something tiny: the best mean of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (perf_counter() - start) / calls)
    return best


def _seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
