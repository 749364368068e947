"""Learning curves: training loss over tokens, of trunks and of the runs that leave them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qscale import bounded
from qscale.report.canvas import COLORS
from qscale.report.sources import Source
from qscale.report.values import (
    SOME_ROWS,
    Value,
    axis,
    count,
    count_axis,
    figure,
    listed,
    number,
    panel,
    part,
    rounded,
    section,
    series,
    some,
    table,
)
from qscale.sweep.jobs import Job, jobs
from qscale.sweep.store import Store
from qscale.training import paths
from qscale.units import short_count

_MOST_PANELS = 6
_MOST_POINTS = 6000  # of all curves together
_FEWEST, _MOST = 6, 40  # points of one curve
_LEAST_OF_A_POINT = 8
_OF_A_POINT = 25  # logged steps that a point is the mean of
_FILE_BYTES = 100_000_000  # of one curve that is read
_IN_VIEW = 0.9  # of the points: the start of training is off the top


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One curve, thinned."""

    job: Job
    kind: str  #: ``trunk``, ``baseline`` or the recipe
    tokens: list[float]
    loss: list[float | None]


def curves(source: Source) -> Value:
    """A panel for each size, a color for each recipe."""
    title = "Learning curves"
    if source.folder is None:
        return section("curves", title, remark="Learning curves lie in a study's folder; a table has none.")
    store = Store(source.folder)
    work = _chosen(jobs(store.runs()), source)
    points = int(np.clip(_MOST_POINTS / max(1, len(work)), _FEWEST, _MOST))
    found = [curve for job in work if (curve := _read(store.folder(job), job, points)) is not None]
    if not found:
        return section("curves", title, remark="No run has logged a step yet.")
    sizes = sorted({curve.job.config.model.N for curve in found})
    kinds = sorted({curve.kind for curve in found} - {"trunk", "baseline"})
    shown = some(kinds, len(COLORS) - 1)
    colors: dict[str, Any] = {"trunk": "grey", "baseline": "ink"} | {kind: i for i, kind in enumerate(shown)}
    drawn = [curve for curve in found if curve.kind in colors]
    panels = [
        _panel(n, [c for c in drawn if n == c.job.config.model.N], colors) for n in some(sizes, _MOST_PANELS)
    ]
    missing = f" {len(shown)} of {len(kinds)} recipes are drawn." if len(kinds) > len(shown) else ""
    left = f" {_MOST_PANELS} of {len(sizes)} sizes are drawn." if len(sizes) > _MOST_PANELS else ""
    alt = (
        f"Training loss against tokens of {len(found)} curves at {len(sizes)} sizes, "
        f"{listed(short_count(n) for n in sizes)} parameters, of {listed(['trunks', 'baselines', *kinds])}."
    )
    return section(
        "curves",
        title,
        part(
            text=[
                f"A point is the mean of up to {_OF_A_POINT} logged steps; quantized runs begin where they "
                f"leave their trunk.{left}{missing}"
            ],
            figures=[figure("curves", "Training loss, nats per token", alt, panels, _ends(found), wide=True)],
        ),
    )


def _chosen(work: Sequence[Job], source: Source) -> list[Job]:
    """Of runs that were left out by mode, recipe or method, no curve; baselines and trunks stay."""
    known = {row["run_id"] for row in source.rows}
    finished = {row["run_id"] for row in source.baselines} | known
    every = [job for job in work if job.kind == "trunk" or job.config.recipe is None or job.id in known]
    order = {"trunk": 0, "run": 1}
    return sorted(every, key=lambda job: (order[job.kind], job.id not in finished, job.label))


def _panel(n: int, of_size: Sequence[Curve], colors: dict[str, Any]) -> Value:
    order = [kind for kind in colors if any(curve.kind == kind for curve in of_size)]
    drawn = []
    for kind in order:
        own = [curve for curve in of_size if curve.kind == kind]
        one = series(
            kind, [], [], color=colors[kind], kind="line", dash="dash" if kind == "baseline" else "solid"
        )
        one["pieces"] = [
            {"text": curve.job.label, "x": rounded(curve.tokens), "y": rounded(curve.loss)} for curve in own
        ]
        drawn.append(one)
    losses = [loss for curve in of_size for loss in curve.loss if loss is not None]
    low, high = (min(losses), float(np.quantile(losses, _IN_VIEW))) if losses else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.1
    tokens = [t for curve in of_size for t in curve.tokens]
    ends = count_axis("D, training tokens", 0.0, max(tokens, default=1.0))
    return panel(f"N = {short_count(n)}", ends, axis("training loss", ends=(low - room, high + room)), drawn)


def _read(folder: Path, job: Job, points: int) -> Curve | None:
    try:
        lines = bounded.read_text(paths.curve(folder), _FILE_BYTES).splitlines()
    except (OSError, ValueError):
        return None
    tokens: list[float] = []
    losses: list[float | None] = []
    for chosen in _bins(lines, int(np.clip(len(lines) // _LEAST_OF_A_POINT, _FEWEST, points))):
        rows = [row for line in chosen if (row := _row(line)) is not None]
        if rows:
            known = [row[1] for row in rows if row[1] is not None]
            tokens.append(float(np.mean([row[0] for row in rows])))
            losses.append(float(np.mean(known)) if known else None)
    if not tokens:
        return None
    kind = "trunk" if job.kind == "trunk" else (job.config.recipe or "baseline")
    return Curve(job=job, kind=kind, tokens=tokens, loss=losses)


def _bins(lines: Sequence[str], points: int) -> Iterator[list[str]]:
    """Groups of lines in order, each of a few evenly chosen."""
    for edge in np.array_split(np.arange(len(lines)), min(points, max(1, len(lines)))):
        yield [lines[int(i)] for i in some(list(edge), _OF_A_POINT)]


def _row(line: str) -> tuple[float, float | None] | None:
    """Tokens and loss of a line; None of a torn or odd one."""
    try:
        row = bounded.loads(line)
        tokens, loss = float(row["tokens"]), float(row["loss"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return (tokens, loss if np.isfinite(loss) else None) if np.isfinite(tokens) else None


def _ends(found: Sequence[Curve]) -> Value:
    rows = [
        (
            f"{curve.job.label}",
            count(curve.tokens[0]),
            count(curve.tokens[-1]),
            number(curve.loss[0]),
            number(curve.loss[-1]),
        )
        for curve in found
    ]
    head = ("curve", "from tokens", "to tokens", "first loss", "last loss")
    return table(
        "Ends of the curves", head, rows, beyond="curve.jsonl of each run has every step", most=SOME_ROWS
    )
