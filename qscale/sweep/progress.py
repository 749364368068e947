"""What a person or a program sees of a study at work: bars, lines, or JSON. No torch."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from qscale.sweep.board import Board
from qscale.sweep.jobs import Job
from qscale.sweep.words import plural
from qscale.units import short_count, short_time

Event = dict[str, Any]
#: What the numbers of :func:`result` are.
LEGEND = "delta +- evaluation s.e., loss in nats per token"


class Meter:
    """Work done, in FLOPs, and the time left at the rate so far."""

    def __init__(self, board: Board) -> None:
        self.jobs: dict[str, Job] = {job.id: job for job in board.jobs}
        self.total = sum(job.flops for job in board.jobs)
        done = {job for job, state in board.look().items() if state == "done"}
        self.runs = len(board.runs)
        self.runs_done = sum(run in done for run in board.runs)
        self._began = time.monotonic()
        self._share = dict.fromkeys(done, 1.0)
        self._before = dict(self._share)  # what this session did not do says nothing about its rate

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        job = self.jobs.get(event.get("id", ""))
        if job is None:
            return
        if event["event"] == "finished":
            self._share[job.id] = 1.0
            self.runs_done += job.kind == "run"
        elif event["event"] == "diverged":
            self._share |= dict.fromkeys(event["runs"], 1.0)
            self.runs_done += len(event["runs"])
        elif event["event"] == "step":
            start, end = (0, job.steps[-1]) if job.kind == "trunk" else (job.steps[0], job.config.steps)
            self._share[job.id] = min(1.0, (event["step"] - start) / max(1, end - start))
            self._before.setdefault(job.id, self._share[job.id])

    @property
    def share(self) -> float:
        """The part of all work that is done, 0 to 1."""
        return self._flops(self._share) / self.total if self.total else 1.0

    @property
    def eta(self) -> str:
        """Time left, or ``?`` before there is a rate."""
        done = self._flops(self._share)
        gained = done - self._flops(self._before)
        if gained <= 0:
            return "?"
        return short_time((self.total - done) * (time.monotonic() - self._began) / gained)

    def _flops(self, shares: dict[str, float]) -> float:
        return sum(self.jobs[job_id].flops * share for job_id, share in shares.items())


class JsonLines:
    """Every event as one JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        self.out.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")
        self.out.flush()


class TextLines(JsonLines):
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

    def line(self, text: str) -> None:
        """Print one line."""
        self.out.write(text + "\n")
        self.out.flush()


class LiveBars(TextLines):
    """A bar for each worker and one for the study, on a terminal; what ends is printed above them."""

    def __init__(self, out: TextIO, board: Board) -> None:
        super().__init__(out, board)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[info]}"),
            console=Console(file=out),
            refresh_per_second=4,
        )
        self.total = self.bars.add_task("all", total=1.0, info="")
        self.workers: dict[int, Any] = {}

    def __enter__(self) -> LiveBars:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)

    def __call__(self, event: Event) -> None:
        name, worker = event["event"], event.get("worker", 0)
        if name == "started":
            if worker not in self.workers:
                self.workers[worker] = self.bars.add_task("", total=1.0, info="")
            self.bars.reset(self.workers[worker], description=event["label"], total=1.0, info="")
            self.meter.hear(event)
        else:
            super().__call__(event)
        if name == "step" and worker in self.workers:
            info = (
                f"step {event['step']}/{event['steps']}  loss {event['loss']:.3f}  "
                f"{short_count(event['tokens_per_second'])} tok/s"
            )
            self.bars.update(self.workers[worker], completed=event["step"] / event["steps"], info=info)
        elif name in ("finished", "failed", "stopped", "died", "exit") and worker in self.workers:
            self.bars.update(self.workers[worker], description="idle", completed=0.0, info="")
        meter = self.meter
        info = f"{meter.runs_done}/{meter.runs} runs  about {meter.eta} left"
        self.bars.update(self.total, completed=meter.share, info=info)


def display(board: Board, *, as_json: bool) -> JsonLines:
    """JSON on stdout; bars on stderr where that is a terminal, and lines where it is not."""
    if as_json:
        return JsonLines(sys.stdout)
    return (LiveBars if sys.stderr.isatty() else TextLines)(sys.stderr, board)


def sentence(event: Event) -> str | None:
    """An event in one line for people; None where it is not worth one."""
    name, label = event["event"], event.get("label", "")
    if name == "starting":
        return f"starting  {plural(event['workers'], 'worker')}"
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
