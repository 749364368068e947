"""Where a study stands: its states, the share of its work, the time left. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qscale import bounded
from qscale.models.ladder import name_of
from qscale.sweep.board import Board
from qscale.sweep.eta import finished
from qscale.sweep.jobs import Job
from qscale.sweep.progress import LEGEND, result
from qscale.sweep.strangers import Strangers
from qscale.sweep.words import plural
from qscale.units import short_time

Row = dict[str, Any]
#: More rows than a screen holds are summed up.
MOST_ROWS = 60
_OF_A_KIND = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """How much of a study is done, and how long the rest takes."""

    flops: float  #: of all jobs
    flops_done: float  #: of jobs that are done, and of the steps taken by those that run
    running: int  #: jobs in work now
    timed: int  #: finished runs that the speed is taken from
    untimed: tuple[str, ...]  #: sizes that none of them has
    worker_seconds: float | None  #: of one worker for what is left; None before anything was timed

    @property
    def share(self) -> float:
        """The part of all FLOPs that is done, 0 to 1."""
        return self.flops_done / self.flops if self.flops else 1.0

    @property
    def seconds(self) -> float | None:
        """With as many workers as run now; None where none does."""
        return self.worker_seconds / self.running if self.worker_seconds and self.running else None

    def sentence(self) -> str:
        """The same in words, with what the time is based on."""
        text = f"{100 * self.share:.1f} % of {self.flops:.3g} FLOPs done"
        if self.flops_done >= self.flops:
            return text
        if self.worker_seconds is None:
            return f"{text}; no time left is known before a run has finished"
        text += f"; {short_time(self.worker_seconds)} of one worker left"
        if self.seconds is not None and self.running > 1:
            text += f", {short_time(self.seconds)} with the {self.running} at work now"
        text += f" (at the FLOPs a second of {plural(self.timed, 'finished run')}, size by size"
        if self.untimed:
            text += f"; none of {', '.join(self.untimed[:3])} yet, taken from the nearest size"
        return text + ")"

    def to_json(self) -> dict[str, Any]:
        """Every number, for programs."""
        return {**asdict(self), "share": self.share, "seconds": self.seconds}


def left(board: Board, rows: Sequence[Row]) -> Left:
    """What is left of a study whose :meth:`Board.overview` is ``rows``.

    A job's time is its FLOPs over the speed of finished runs of its size, or of the size nearest to it.
    """
    speeds, timed = finished(board)
    sizes = {size for size, _ in speeds.kinds}
    work = seconds = done = 0.0
    running = 0
    untimed: dict[str, None] = {}
    for job, row in zip(board.jobs, rows, strict=True):
        work += job.flops
        share = 1.0 if row["state"] == "done" else _share(job, row) if row["state"] == "running" else 0.0
        running += row["state"] == "running"
        done += share * job.flops
        if share < 1 and (speed := speeds.of(job)) is not None:
            size = name_of(job.config.model)
            if size not in sizes:
                untimed[size] = None
            seconds += (1 - share) * job.flops / speed
    return Left(
        flops=work,
        flops_done=min(done, work),
        running=running,
        timed=timed,
        untimed=tuple(untimed),
        worker_seconds=seconds if timed else None,
    )


def _share(job: Job, row: Row) -> float:
    start, end = (0, job.steps[-1]) if job.kind == "trunk" else (job.steps[0], job.config.steps)
    share: float = (row.get("step", start) - start) / max(1, end - start)
    return min(1.0, max(0.0, share))


def as_json(board: Board, rows: Sequence[Row], strangers: Strangers) -> str:
    """Everything for programs: one object, one line for each job."""
    head = {
        "runs": len(board.runs),
        "states": states(rows),
        "strangers": strangers.count,
        "why_strange": strangers.reasons,
        "damaged": len(board.damaged),
        "progress": left(board, rows).to_json(),
    }
    jobs = ",\n".join("  " + json.dumps(row) for row in rows)
    return json.dumps(head, indent=1)[:-2] + f',\n "jobs": [\n{jobs}\n ]\n}}'


def states(rows: Sequence[Row]) -> dict[str, int]:
    """How many runs are in each state."""
    return dict(Counter(row["state"] for row in rows if row["kind"] == "run"))


def lines(board: Board, rows: Sequence[Row], *, every: bool = False) -> Iterator[str]:
    """The table of a study: every job, or of more than a screen holds those that one would look for.

    Args:
        board: The study's.
        rows: Its :meth:`Board.overview`.
        every: Each job, however many.
    """
    whole = every or len(rows) <= MOST_ROWS
    if whole:
        yield from _table(board, rows)
    else:
        yield from _sizes(board, rows)
        yield from _groups(board, rows)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states(rows).items()))
    yield f"{plural(len(board.runs), 'run')}: {counts}"
    yield left(board, rows).sentence()
    if not whole:
        yield f"every one of {len(rows)} jobs: --all, or --json"


def _table(board: Board, rows: Sequence[Row]) -> Iterator[str]:
    width = max(len(row["label"]) for row in rows)
    yield f"{'state':<8} {'job':<{width}} {LEGEND}"
    for row in rows:
        yield f"{row['state']:<8} {row['label']:<{width}} {_news(row, board)}".rstrip()


def _groups(board: Board, rows: Sequence[Row]) -> Iterator[str]:
    """The failed, the running and the last finished, some of each."""
    done = [row for row in rows if row["state"] == "done" and row["id"] in board.results]
    done.sort(key=lambda row: -board.results[row["id"]].written)
    failed, running = ([row for row in rows if row["state"] == state] for state in ("failed", "running"))
    shown = [*failed[:_OF_A_KIND], *running[:_OF_A_KIND], *done[:_OF_A_KIND]]
    if not shown:
        return
    yield from _table(board, shown)
    more = [(len(failed), "failed"), (len(running), "running"), (len(done), "done")]
    if rest := [f"{count - _OF_A_KIND} more {name}" for count, name in more if count > _OF_A_KIND]:
        yield f"and {', '.join(rest)}"


def _sizes(board: Board, rows: Sequence[Row]) -> Iterator[str]:
    """A line for each size: runs done, work done, and the losses so far."""
    by_size: dict[str, list[tuple[Job, Row]]] = {}
    for job, row in zip(board.jobs, rows, strict=True):
        by_size.setdefault(name_of(job.config.model), []).append((job, row))
    width = max(map(len, by_size), default=4)
    yield f"{'size':<{width}} {'runs done':>14} {'FLOPs':>6}  {'loss':<15}  {'delta':<15} (least and largest)"
    for size, pairs in by_size.items():
        runs = [row for job, row in pairs if job.kind == "run"]
        done = sum(row["state"] == "done" for row in runs)
        flops = sum(job.flops for job, _ in pairs)
        worked = sum(job.flops for job, row in pairs if row["state"] == "done")
        share = f"{100 * worked / flops:.0f} %" if flops else "--"
        spans = [_span(runs, key) for key in ("loss", "delta")]
        yield (
            f"{size:<{width}} {f'{done} of {len(runs)}':>14} {share:>6}  {spans[0]:<15}  {spans[1]:<15}"
        ).rstrip()


def _span(rows: Sequence[Row], key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{min(values):.4f}..{max(values):.4f}" if values else "--"


def _news(row: Mapping[str, Any], board: Board) -> str:
    """What there is to say about one job: its result, its step, or its error."""
    if row["state"] == "failed":
        return bounded.one_line(row["error"])
    if row["state"] == "done":
        return result(dict(row)).removeprefix(": ")
    if row["state"] == "running" and "step" in row:
        job = board.runs.get(row["id"]) or board.trunks[row["id"]]
        last = job.steps[-1] if job.kind == "trunk" else job.config.steps
        return f"step {row['step']} of {last}, loss {row['loss']:.3f}"
    return ""
