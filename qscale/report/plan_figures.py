"""The figure of a plan: predicted loss against bytes, and the options that no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qscale.planning import Plan, Row
from qscale.report.canvas import COLORS, GREY, MARKERS, log_ticks, new_figure, plain, save, words
from qscale.units import short_bytes

_NAMED = 6  # of the front
_NEAR = 1.6  # times in bytes: closer names stand on each other


def pareto_figure(plan: Plan, path: Path) -> None:
    """Loss against bytes of every option, with bands, the Pareto front and the budget.

    Losses far above those of the front are left out, and the caption says how many.

    Args:
        plan: Of :func:`qscale.planning.least_loss`.
        path: Ends in .png, .svg or .pdf.

    Raises:
        StoreError: The file cannot be written.
        QScaleError: matplotlib is not installed.
    """
    figure, (axis,) = new_figure(1, across=1, size=(7.2, 4.6))
    front = plan.front
    highest = front[0].loss.value + 0.6 * (front[0].loss.value - front[-1].loss.value or 1.0)
    shown = [row for row in plan.rows if row.loss.value <= highest]
    for kind, (how, rows) in enumerate(_by_how(shown).items()):
        axis.errorbar(
            [row.footprint.total for row in rows],
            [row.loss.value for row in rows],
            yerr=[_ends(rows, "low"), _ends(rows, "high")],
            fmt=MARKERS[kind % len(MARKERS)],
            color=COLORS[kind % len(COLORS)],
            markersize=4,
            linewidth=0.8,
            alpha=0.75,
            label=how,
        )
    axis.step(
        [row.footprint.total for row in front],
        [row.loss.value for row in front],
        where="post",
        color=GREY,
        linewidth=1,
        label="Pareto front",
    )
    budget = short_bytes(plan.limit)
    axis.axvline(plan.limit, color=GREY, linewidth=1, linestyle="--", label=f"budget {budget}")
    for row in _spread(front):
        axis.annotate(
            str(row.option),
            (row.footprint.total, row.loss.value),
            xytext=(-3, -9),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
    axis.set_xlabel("bytes", fontsize=9)
    axis.set_ylabel("predicted loss, nats per token", fontsize=9)
    plain(axis)
    axis.legend(fontsize=8, frameon=False)
    log_ticks(axis, "x", label=short_bytes)
    best = "nothing fits" if plan.best is None else f"best in {budget}: {plan.best.option}"
    caption = (
        "Bands where the baseline and the law of delta both have one. Outside fitted boxes: extrapolated."
    )
    if hidden := len(plan.rows) - len(shown):
        caption += f" {hidden} options with a higher loss are not shown."
    words(figure, best, caption)
    save(figure, path)


def _by_how(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.option.how or "16 bits", []).append(row)
    return found


def _ends(rows: Sequence[Row], which: str) -> list[float]:
    """How far the band's end lies from the value; 0 where there is no band."""
    ends = (getattr(row.loss, which) for row in rows)
    return [
        0.0 if end is None else max(0.0, (row.loss.value - end) * (1 if which == "low" else -1))
        for row, end in zip(rows, ends, strict=True)
    ]


def _spread(front: Sequence[Row]) -> list[Row]:
    """A few of the front, apart from each other."""
    kept: list[Row] = []
    for row in front[:: max(1, len(front) // _NAMED)]:
        if not kept or row.footprint.total > _NEAR * kept[-1].footprint.total:
            kept.append(row)
    return kept
