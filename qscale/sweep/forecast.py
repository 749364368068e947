"""What a study will take in memory, disk and time, on what that rests, and smaller ones. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qscale.sweep import machine, needs
from qscale.sweep.board import Board
from qscale.sweep.eta import Kind, Speeds, finished, kind_of, makespan, typical_share
from qscale.sweep.grid import Exclusion, Grid, matches
from qscale.sweep.jobs import Job, jobs
from qscale.sweep.words import plural
from qscale.training.config import RunConfig
from qscale.units import short_bytes, time_span

#: Times of a probe, as parts of the estimate: loads of the machine, caches, other versions of libraries.
_PROBED = (0.6, 1.6)
#: A smaller grid that saves less is no advice.
_LEAST_SAVED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a time rests on: a speed for every job, and how far it may be off."""

    kind: Literal["measured", "calibrated", "probed"]
    words: str
    speed: Callable[[Job], float | None]  #: FLOPs a second of one worker
    spread: tuple[float, float] = (1.0, 1.0)  #: least and most, as parts of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long some jobs take, in seconds, least and most: two equal numbers where it was measured."""

    seconds: tuple[float, float]
    worker_seconds: tuple[float, float]  #: the sum over all workers
    workers: int
    kind: str
    basis: str

    @property
    def span(self) -> str:
        """The time in words."""
        return time_span(*self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a study holds of memory or disk, and what there is, in bytes."""

    largest: float  #: of one run
    all: float  #: of as many as work together; of a disk: of all runs
    free: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Smaller:
    """A part of a study that could be run instead of all of it."""

    without: str  #: in words
    runs: int
    share: float  #: of the FLOPs
    estimate: Estimate | None

    def sentence(self) -> str:
        """One line."""
        time = "" if self.estimate is None else f", {self.estimate.span}"
        return f"{self.without}: {plural(self.runs, 'run')}, {100 * self.share:.0f} % of the work{time}"


def measured(board: Board) -> Basis | None:
    """The speeds of the finished runs of a study; None where none has finished."""
    speeds, timed = finished(board)
    if not timed:
        return None
    words = f"from the FLOPs a second of {plural(timed, 'finished run')}"
    return Basis(kind="measured", words=words + _unseen(speeds, board.jobs), speed=speeds.of)


def calibrated(timed: Mapping[Kind, tuple[RunConfig, float]], work: Iterable[Job]) -> Basis | None:
    """The speeds of steps that were timed: of each kind the run, and seconds a step; None without any."""
    if not timed:
        return None
    speeds = Speeds()
    for kind, (config, seconds) in timed.items():
        flops = config.tokens_per_step * config.model.flops_per_token(config.context)
        speeds.add(kind, config.model, flops, seconds)
    words = "from training steps timed now in one process; workers side by side may be slower"
    return Basis(kind="calibrated", words=words + _unseen(speeds, work), speed=speeds.of)


def _unseen(speeds: Speeds, work: Iterable[Job]) -> str:
    """What is added where sizes have no speed of their own."""
    sizes = {size for size, _ in speeds.kinds}
    unseen = [size for size in dict.fromkeys(kind_of(job)[0] for job in work) if size not in sizes]
    return f"; {', '.join(unseen[:3])} from the nearest size" if unseen else ""


def probed(threads: int = 1) -> Basis:
    """What sizes like these reached elsewhere, scaled by the speed of a matrix product here."""
    speed = machine.product_speed()
    words = (
        f"a guess from float32 matrix products at {speed / 1e9:.0f} GFLOP/s a thread here, and the share "
        "of that which training of such widths reached elsewhere"
    )
    low, high = _PROBED
    if threads > 1:  # from all of them useful to a half
        words += f", on {threads} threads"
        speed, high = speed * threads, 2 * high
    return Basis(
        kind="probed",
        words=words,
        speed=lambda job: speed * typical_share(job.config.model, kind_of(job)[1]),
        spread=(low, high),
    )


def estimate(work: Sequence[Job], basis: Basis | None, workers: int) -> Estimate | None:
    """How long jobs take on some workers; None without a basis."""
    if basis is None:
        return None
    seconds = {job.id: job.flops / (basis.speed(job) or float("inf")) for job in work}
    span, total = makespan(work, seconds, workers), sum(seconds.values())
    low, high = basis.spread
    return Estimate(
        seconds=(low * span, high * span),
        worker_seconds=(low * total, high * total),
        workers=workers,
        kind=basis.kind,
        basis=basis.words,
    )


def samples(work: Iterable[Job]) -> dict[Kind, RunConfig]:
    """For each size, plain and quantized, a run whose steps to time: of the recipe with the most work."""
    flops: dict[Kind, dict[str | None, float]] = {}
    runs: dict[tuple[Kind, str | None], RunConfig] = {}
    for job in work:
        kind = kind_of(job)
        config = job.config if kind[1] else job.config.baseline()
        of_kind = flops.setdefault(kind, {})
        of_kind[config.recipe] = of_kind.get(config.recipe, 0.0) + job.flops
        runs.setdefault((kind, config.recipe), config)
    return {kind: runs[kind, max(each, key=lambda recipe: each[recipe])] for kind, each in flops.items()}


def memory(work: Sequence[Job], workers: int, device: str) -> Room:
    """Memory of the largest process, and of as many of the largest as there are workers."""
    sizes = sorted((needs.memory_of(job.config, device=device) for job in work), reverse=True)
    return Room(largest=sizes[0] if sizes else 0.0, all=sum(sizes[:workers]), free=machine.memory_free())


def disk(work: Sequence[Job], path: Path) -> Room:
    """What jobs leave below a path."""
    runs = [job.config for job in work if job.kind == "run"]
    largest = max((needs.disk_of([run]) for run in runs), default=0.0)
    return Room(largest=largest, all=needs.disk_of(runs), free=machine.disk_free(path))


def shortages(memory: Room, disk: Room, workers: int) -> list[str]:
    """What this machine does not have enough of, a line each."""
    found = []
    if memory.largest > memory.free:
        found.append(
            f"the largest run needs about {short_bytes(memory.largest)} of memory, and "
            f"{short_bytes(memory.free)} are free: a smaller batch_sequences, or accumulation, takes "
            "less; 'accelerate launch' divides a model among devices"
        )
    elif memory.all > memory.free:
        found.append(
            f"{plural(workers, 'worker')} need up to {short_bytes(memory.all)} of memory together, and "
            f"{short_bytes(memory.free)} are free: the largest runs wait for one another"
        )
    if disk.all > disk.free:
        found.append(
            f"the study leaves about {short_bytes(disk.all)} on disk, and {short_bytes(disk.free)} are free: "
            "'qscale sweep gc' deletes checkpoints of what is done"
        )
    return found


def smaller(
    points: Sequence[tuple[Grid, dict[str, Any], list[RunConfig]]],
    work: Sequence[Job],
    basis: Basis | None,
    workers: int,
) -> list[Smaller]:
    """What is left of some jobs without a size, the most tokens, seeds, a mode: where it saves a tenth.

    Args:
        points: Of the study, as :meth:`Study.runs_by_point` has them.
        work: Its jobs that are not done.
        basis: Of the times.
        workers: That it would run on.
    """
    undone = {job.id for job in work if job.kind == "run"}
    flops = sum(job.flops for job in work)
    found = []
    for without, exclusions in _cuts(points):
        kept: dict[str, RunConfig] = {}
        for grid, point, runs in points:
            if not any(matches(each, grid, point) for each in exclusions):
                kept |= {run.run_id: run for run in runs if run.run_id in undone}
        rest = jobs(kept.values())
        share = sum(job.flops for job in rest) / flops if flops else 1.0
        if kept and share <= 1 - _LEAST_SAVED:
            found.append(
                Smaller(without=without, runs=len(kept), share=share, estimate=estimate(rest, basis, workers))
            )
    return found


def _cuts(points: Sequence[tuple[Grid, dict[str, Any], Any]]) -> Iterator[tuple[str, list[Exclusion]]]:
    """Ways to make a study smaller, in words and as what they exclude."""

    def values(key: str, size: str | None = None) -> list[Any]:
        found = (point[key] for _, point, _ in points if size in (None, point["size"]))
        return list(dict.fromkeys(found))

    sizes, seeds, modes = values("size"), values("seed"), values("mode")
    if len(sizes) > 1:
        for size in sizes:
            yield f"without {size}", [{"size": (size,)}]
    tokens = {size: values("tokens", size) for size in sizes}
    if most := {size: max(each) for size, each in tokens.items() if len(each) > 1}:
        without = "without the largest tokens of each size"
        largest: list[Exclusion] = [{"size": (size,), "tokens": (most[size],)} for size in most]
        yield without, largest
    if len(seeds) > 1:
        first = {size: values("seed", size)[0] for size in sizes}
        others: list[Exclusion] = [
            {"size": (size,), "seed": tuple(seed for seed in seeds if seed != first[size])} for size in sizes
        ]
        yield "one seed", others
    if len(modes) > 1:
        for mode in modes:
            yield f"without mode {mode}", [{"mode": (mode,)}]


def of_session(board: Board, workers: int, threads: int, device: str) -> Estimate | None:
    """The time that is left of a study on this machine; None where nothing is, or nothing known."""
    states = board.look()
    left = [job for job in board.jobs if states[job.id] != "done"]
    basis = measured(board)
    if basis is None and device == "cpu":
        basis = probed(threads)
    return estimate(left, basis, workers) if left else None
