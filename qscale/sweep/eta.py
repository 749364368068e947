"""How long jobs take: speeds by size, and jobs laid out on workers. No torch."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush

from qscale.models.ladder import ModelShape, name_of
from qscale.sweep.board import Board
from qscale.sweep.jobs import Job

#: Size, and whether its layers are quantized: what a speed is kept for.
Kind = tuple[str, bool]

#: Width of a model, and the share of a small matrix product's FLOPs a second that its training reaches on one
#: thread, plain and as w4a4:g32. Measured as time of the processor: tiny-20k to tiny-5.02M, torch 2.13.0, a
#: Xeon whose products ran at 80 GFLOP/s. By width, as the rest of a step (norms, softmax, rounding, calls)
#: grows with the width and products with its square.
_SHARES = (
    (32, 0.17, 0.13),
    (64, 0.30, 0.24),
    (96, 0.41, 0.37),
    (128, 0.50, 0.44),
    (192, 0.61, 0.55),
    (224, 0.68, 0.60),
)


def kind_of(job: Job) -> Kind:
    """What a job's speed is kept under."""
    recipe = job.config.trunk_recipe if job.kind == "trunk" else job.config.recipe
    return name_of(job.config.model), recipe is not None


def typical_share(shape: ModelShape, quantized: bool) -> float:
    """The part of a matrix product's speed to expect of training, between the widths that were measured."""
    widths = [row[0] for row in _SHARES]
    values = [row[2 if quantized else 1] for row in _SHARES]
    at = bisect(widths, shape.hidden_size)
    if at in (0, len(widths)):
        return values[min(at, len(widths) - 1)]
    part = math.log(shape.hidden_size / widths[at - 1]) / math.log(widths[at] / widths[at - 1])
    return values[at - 1] * math.pow(values[at] / values[at - 1], part)


class Speeds:
    """FLOPs a second of one worker by size, plain and quantized, from what was timed.

    A kind that was not timed has the speed of the one nearest to it in width, scaled by what is typical of
    both.
    """

    def __init__(self) -> None:
        self._flops: dict[Kind, float] = {}
        self._seconds: dict[Kind, float] = {}
        self._shapes: dict[Kind, ModelShape] = {}
        self._found: dict[Kind, float] = {}

    def add(self, kind: Kind, shape: ModelShape, flops: float, seconds: float) -> None:
        """Take note of work that was timed."""
        self._flops[kind] = self._flops.get(kind, 0.0) + flops
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._shapes[kind] = shape
        self._found.clear()

    @property
    def kinds(self) -> set[Kind]:
        """What was timed."""
        return {kind for kind, seconds in self._seconds.items() if seconds > 0 and self._flops[kind] > 0}

    def of(self, job: Job) -> float | None:
        """The speed of a job; None before anything was timed."""
        kind = kind_of(job)
        if kind not in self._found:
            if not (timed := self.kinds):
                return None
            self._found[kind] = self._nearest(kind, job.config.model, timed)
        return self._found[kind]

    def _nearest(self, kind: Kind, shape: ModelShape, timed: Iterable[Kind]) -> float:
        size, quantized = kind

        def distance(other: Kind) -> tuple[bool, float, bool]:
            apart = abs(math.log(self._shapes[other].hidden_size / shape.hidden_size))
            return other[0] != size, apart, other[1] != quantized

        nearest = min(sorted(timed), key=distance)
        speed = self._flops[nearest] / self._seconds[nearest]
        if nearest == kind:
            return speed
        return speed * typical_share(shape, quantized) / typical_share(self._shapes[nearest], nearest[1])


def finished(board: Board) -> tuple[Speeds, int]:
    """Speeds of the finished runs of a study, and how many they are from.

    Runs that diverged early say nothing of it. ``board`` has looked at its store.
    """
    speeds, timed = Speeds(), 0
    for run, found in board.results.items():
        job = board.runs.get(run)
        if job is not None and not found.diverged and found.seconds > 0:
            timed += 1
            speeds.add(kind_of(job), job.config.model, job.flops, found.seconds)
    return speeds, timed


def makespan(
    jobs: Sequence[Job], seconds: Mapping[str, float], workers: int, begun: Mapping[str, float] | None = None
) -> float:
    """Seconds until the last of some jobs ends.

    A worker that is free takes the first job that needs nothing undone; those begun go on first. A branch
    may start when its trunk has passed the step that it leaves at. What waits for something that is never
    done is left out.

    Args:
        jobs: What is to do, in the order in which it is handed out.
        seconds: Of one worker for what is left of each.
        workers: At once.
        begun: The part that is done of those that were begun, 0 to 1.

    Example:
        >>> makespan([], {}, 2)
        0.0
    """
    begun = begun or {}
    order = sorted(jobs, key=lambda job: begun.get(job.id, 0.0) <= 0)
    left = {job.id: job for job in order}
    waiting: dict[tuple[str, int], list[int]] = {}  # what is to come, to the jobs that need it
    needs = [_needs(job, left, begun) for job in order]
    for place, wanted in enumerate(needs):
        for need in wanted:
            waiting.setdefault(need, []).append(place)
    missing = [len(wanted) for wanted in needs]
    ready = [place for place, count in enumerate(missing) if not count]
    coming: list[tuple[float, str, int]] = []
    now, free = 0.0, workers
    while ready or coming:
        while ready and free:
            job = order[heappop(ready)]
            free -= 1
            done, rest = begun.get(job.id, 0.0), seconds[job.id]
            heappush(coming, (now + rest, job.id, -1))
            if job.kind == "trunk":
                for step in job.steps:
                    ahead = max(0.0, (step / max(1, job.steps[-1]) - done) / max(1e-9, 1 - done))
                    heappush(coming, (now + rest * min(1.0, ahead), job.id, step))
        now, what, step = heappop(coming)
        free += step == -1
        for place in waiting.pop((what, step), ()):
            missing[place] -= 1
            if not missing[place]:
                heappush(ready, place)
    return now


def _needs(job: Job, left: Mapping[str, Job], begun: Mapping[str, float]) -> list[tuple[str, int]]:
    """What must come before a job, as ids with the step of a trunk or -1 for the end of a run."""
    wanted = [
        (other, -1) for other in (job.source_id, job.baseline_id) if other in left and other is not None
    ]
    trunk = left.get(job.trunk_id) if job.kind == "run" and job.trunk_id is not None else None
    if trunk is not None and begun.get(trunk.id, 0.0) * trunk.steps[-1] < job.steps[0]:
        wanted.append((trunk.id, job.steps[0]))
    return wanted
