"""What a person or a program sees of a study at work: bars, lines, or JSON. No torch."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

from qscale.sweep.board import Board
from qscale.sweep.eta import Speeds, kind_of, makespan
from qscale.sweep.jobs import Job
from qscale.sweep.terminal import Bars, Event, Lines
from qscale.sweep.words import plural
from qscale.units import short_count, short_time, time_span

_RECKON = 1.0  # seconds that a time left is shown before it is reckoned anew
#: What the numbers of :func:`result` are.
LEGEND = "delta +- evaluation s.e., loss in nats per token"


class Meter:
    """Work done, in FLOPs, and the time left at the speeds of this session, size by size.

    Sizes that were not seen yet have the speed of the nearest that was; what is left is laid out on the
    workers, so that those with nothing to do at the end do not count. Jobs of other drivers do: what they
    finish is not told here.
    """

    def __init__(self, board: Board) -> None:
        self.jobs: dict[str, Job] = {job.id: job for job in board.jobs}
        self.total = sum(job.flops for job in board.jobs)
        done = {job for job, state in board.look().items() if state == "done"}
        self.runs = len(board.runs)
        self.runs_done = sum(run in done for run in board.runs)
        self.workers = 1
        self.speeds = Speeds()
        self._share = dict.fromkeys(done, 1.0)
        self._before: dict[str, float] = {}  # where a job stood when it was first heard of
        self._told: dict[str, tuple[float, float]] = {}  # FLOPs and seconds that a job's steps have told
        self._lost: set[str] = set()
        self._eta, self._computed = "?", float("-inf")

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if event["event"] == "starting":
            self.workers = max(1, event["workers"])
        job = self.jobs.get(event.get("id", ""))
        if job is None:
            return
        name = event["event"]
        if name == "finished":
            self._end(job, event.get("seconds"))
            self._share[job.id] = 1.0
            self.runs_done += job.kind == "run"
        elif name == "diverged":
            self._share |= dict.fromkeys(event["runs"], 1.0)
            self.runs_done += len(event["runs"])
        elif name == "step":
            self._step(job, event)
        elif name in ("failed", "died"):
            self._lost.add(job.id)
        elif name in ("started", "retrying"):  # this attempt is timed on its own
            self._before.pop(job.id, None)
            self._told.pop(job.id, None)
        if name != "step":
            self._computed = float("-inf")

    def _step(self, job: Job, event: Event) -> None:
        start, end = (0, job.steps[-1]) if job.kind == "trunk" else (job.steps[0], job.config.steps)
        share = min(1.0, max(0.0, (event["step"] - start) / max(1, end - start)))
        since, self._share[job.id] = self._share.get(job.id, share), share
        speed, whole = event.get("tokens_per_second"), max(1, end - start) * job.config.tokens_per_step
        if not speed:
            return
        tokens = (share - since) * whole
        if job.id not in self._before or tokens <= 0:
            # A job's first event says how fast it is, not since when: it counts for half a second.
            tokens = 0.5 * speed
            self._before.setdefault(job.id, max(0.0, share - tokens / whole))
        self._note(job, tokens, tokens / speed)

    def _note(self, job: Job, tokens: float, seconds: float) -> None:
        flops = tokens * job.config.model.flops_per_token(job.config.context)
        told = self._told.get(job.id, (0.0, 0.0))
        self._told[job.id] = (told[0] + flops, told[1] + seconds)
        self.speeds.add(kind_of(job), job.config.model, flops, seconds)

    def _end(self, job: Job, seconds: float | None) -> None:
        """All the time of a job replaces what its steps have told, for one its evaluation."""
        told = self._told.get(job.id, (0.0, 0.0))
        # Without a step told it may have gone on from just before its end: only better than nothing.
        if seconds and (job.id in self._before or kind_of(job) not in self.speeds.kinds):
            flops = job.flops * (1 - self._before.get(job.id, 0.0))
            self.speeds.add(kind_of(job), job.config.model, flops - told[0], seconds - told[1])

    @property
    def share(self) -> float:
        """The part of all work that is done, 0 to 1."""
        done = sum(self.jobs[job_id].flops * share for job_id, share in self._share.items())
        return done / self.total if self.total else 1.0

    @property
    def eta(self) -> str:
        """Time left, or ``?`` before there is a speed."""
        if self._eta == "?" or time.monotonic() - self._computed > _RECKON:
            self._eta, self._computed = self._left(), time.monotonic()
        return self._eta

    def _left(self) -> str:
        left = [job for job in self.jobs.values() if self._share.get(job.id, 0.0) < 1]
        seconds = {}
        for job in left:
            if (speed := self.speeds.of(job)) is None:
                return "?"
            seconds[job.id] = (1 - self._share.get(job.id, 0.0)) * job.flops / speed
        lost, before = set(self._lost), -1
        while lost and len(lost) != before:  # and what needs it, and what needs that
            before = len(lost)
            lost |= {job.id for job in left if {job.trunk_id, job.source_id, job.baseline_id} & lost}
        able = [job for job in left if job.id not in lost]
        return short_time(makespan(able, seconds, self.workers, self._share))


class JsonLines(Lines):
    """Every event as one JSON object a line."""

    def __call__(self, event: Event) -> None:
        self.line(json.dumps({"time": round(time.time(), 3), **event}))


class TextLines(Lines):
    """One line for each job that starts, ends or fails; steps are not told."""

    def __init__(self, out: TextIO, board: Board) -> None:
        super().__init__(out)
        self.meter = Meter(board)
        self.explained = False

    def __call__(self, event: Event) -> None:
        self.meter.hear(event)
        text = sentence(event)
        if text is None:
            return
        if event["event"] == "finished" and event.get("delta") is not None and not self.explained:
            self.explained = True
            self.line(f"note      {LEGEND}")
        if event["event"] == "finished":
            text += f"  [{self.meter.runs_done} of {self.meter.runs} runs, about {self.meter.eta} left]"
        self.line(text)


class LiveBars(TextLines, Bars):
    """A bar for each worker and one for the study, on a terminal; what ends is printed above them."""

    def __init__(self, out: TextIO, board: Board) -> None:
        super().__init__(out, board)
        self.total = self.bars.add_task("all", total=1.0, info="")
        self.workers: dict[int | str, Any] = {}

    def __call__(self, event: Event) -> None:
        name = event["event"]
        if name == "started":
            self._bar(event)
            self.meter.hear(event)
        else:
            super().__call__(event)
        # Ray's tasks have no worker: each has a bar of its own.
        bar = self.workers.get(_place(event))
        if name == "step" and bar is not None:
            self.bars.update(bar, completed=event["step"] / event["steps"], info=self._news(event))
        elif name in ("finished", "failed", "retrying", "stopped", "died", "exit") and bar is not None:
            if "worker" in event:
                self.bars.update(bar, description="idle", completed=0.0, info="")
            else:
                self.bars.remove_task(bar)
                del self.workers[_place(event)]
        meter = self.meter
        info = f"{meter.runs_done}/{meter.runs} runs  about {meter.eta} left"
        self.bars.update(self.total, completed=meter.share, info=info)

    def _bar(self, event: Event) -> None:
        key = _place(event)
        if key not in self.workers:
            self.workers[key] = self.bars.add_task("", total=1.0, info="")
        self.bars.reset(self.workers[key], description=event["label"], total=1.0, info="")

    def _news(self, event: Event) -> str:
        """A job's step and loss, and where its speed is known the time that it has left."""
        text = f"step {event['step']}/{event['steps']}  loss {event['loss']:.3f}"
        job, speed = self.meter.jobs.get(event["id"]), event.get("tokens_per_second")
        if job is not None and speed:
            left = (event["steps"] - event["step"]) * job.config.tokens_per_step / speed
            text += f"  {short_count(speed)} tok/s  {short_time(left)} left"
        return text


def _place(event: Event) -> int | str:
    """What has a bar: a worker, or a job where it has none."""
    worker: int | str | None = event.get("worker")
    return str(event.get("id")) if worker is None else worker


def display(board: Board, *, as_json: bool) -> Lines:
    """JSON on stdout; bars on stderr where that is a terminal, and lines where it is not."""
    if as_json:
        return JsonLines(sys.stdout)
    return (LiveBars if sys.stderr.isatty() else TextLines)(sys.stderr, board)


def sentence(event: Event) -> str | None:
    """An event in one line for people; None where it is not worth one."""
    name, label = event["event"], event.get("label", "")
    if name == "starting":
        return f"starting  {plural(event['workers'], 'worker')}"
    if name == "estimate":
        span = f"{time_span(*event['seconds'])} with {plural(event['workers'], 'worker')}"
        return f"estimate  {span}: {event['basis']}"
    if name == "started":
        return f"started   {label}"
    if name == "finished":
        return f"finished  {label}{result(event)}, {short_time(event['seconds'])}"
    if name == "diverged":
        many = plural(len(event["runs"]), "run")
        return f"diverged  {label}, at step {event['step']}: {many} marked as diverged, left out of fits"
    if name == "failed":
        return f"FAILED    {label}: {event['error']}"
    if name == "retrying":
        return f"again     {label}: {event['error']}"
    if name == "stopped":
        return f"stopped   {label}: it goes on from its checkpoint"
    if name == "died":
        return f"FAILED    {label or 'no job'}: {event['error']}"
    if name == "stopping":
        return "stopping now" if event["killed"] else "finishing the current steps (Ctrl-C again: stop now)"
    if name == "exit" and event["error"] is not None:
        return f"FAILED    worker {event['worker']}: {event['error']}"
    return f"note      {event['text']}" if name == "note" else None


def result(row: Event) -> str:
    """Loss and delta of a finished run, as far as there are any."""
    if row.get("diverged"):
        return ": diverged"
    if row.get("delta") is not None:
        return f": delta {row['delta']:.4f} +- {row['delta_se']:.4f}, loss {row['loss']:.4f}"
    return f": loss {row['loss']:.4f}" if row.get("loss") is not None else ""
