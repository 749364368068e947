"""The plain values that sections of the page are made of: text, tables, panels of series; ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from qscale.report.canvas import apart, round_values, short
from qscale.units import short_count

Value = dict[str, Any]
Item = TypeVar("Item")

#: Of a table on the page; the rest is counted, and exported by another command.
MOST_ROWS = 1000
SOME_ROWS = 200  # of a table whose rows are in another one, too
_DIGITS = 5  # of plotted numbers
_FEWEST_TICKS = 4
NOT_KNOWN = "\N{EN DASH}"


def section(name: str, title: str, *parts: Value, remark: str | None = None, intro: str = "") -> Value:
    """One section of the page; ``remark`` is the one line of a section that has nothing to show."""
    return {"id": name, "title": title, "intro": intro, "remark": remark, "parts": list(parts)}


def part(
    heading: str = "",
    *,
    text: Iterable[str] = (),
    figures: Iterable[Value] = (),
    tables: Iterable[Value] = (),
) -> Value:
    """A piece of a section, under a heading of its own or, without one, straight below the section's."""
    return {"heading": heading, "text": list(text), "figures": list(figures), "tables": list(tables)}


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    beyond: str = "",
    folded: bool = False,
    states: bool = False,
    most: int = MOST_ROWS,
) -> Value:
    """A table of texts whose first column names its row.

    Args:
        caption: What it shows.
        head: Names of columns.
        rows: Texts.
        beyond: What to do about rows past ``most``, which are counted.
        folded: Whether it waits to be opened.
        states: Whether cells are ``done/wanted`` counts, which the page colors.
        most: Rows that are shown.
    """
    rows = [list(map(str, row)) for row in rows]
    more = f"{len(rows) - most} more rows; {beyond}" if len(rows) > most else ""
    return {
        "caption": caption,
        "head": list(head),
        "rows": rows[:most],
        "more": more,
        "folded": folded,
        "states": states,
    }


def figure(
    name: str,
    caption: str,
    alt: str,
    panels: Iterable[Value],
    data: Value | None = None,
    *,
    wide: bool = False,
) -> Value:
    """A figure of panels, what it says to who cannot see it, and its numbers."""
    data = None if data is None else {**data, "folded": True}
    return {
        "id": name,
        "caption": caption,
        "alt": alt,
        "panels": list(panels),
        "table": data,
        "wide": wide,
    }


def panel(title: str, x: Value, y: Value, series: Iterable[Value]) -> Value:
    """One pair of axes and what is drawn between them."""
    return {"title": title, "x": x, "y": y, "series": list(series)}


def axis(
    label: str,
    *,
    log: bool = False,
    ticks: Iterable[float] | None = None,
    names: Sequence[str] | None = None,
    ends: tuple[float, float] | None = None,
) -> Value:
    """An axis: its label, its ticks as numbers or, at 0, 1, 2, ..., as names, and its ends.

    Ticks on a logarithmic axis are labelled as people write counts; without ticks the page chooses.
    """
    out: Value = {"label": label, "log": log}
    if names is not None:
        out["ticks"] = [[i, name] for i, name in enumerate(names) if name]
    elif ticks is not None:
        out["ticks"] = [[_round(value), short(value)] for value in sorted(set(ticks))]
    if ends is not None:
        out["ends"] = [_round(value) for value in ends]
    return out


def log_axis(label: str, values: Iterable[float], ends: tuple[float, float] | None = None) -> Value:
    """A logarithmic axis with ticks at the values themselves where they are few, else at round numbers."""
    known = sorted({float(value) for value in values if value > 0 and math.isfinite(value)})
    if not known:
        return axis(label)
    if ends is not None:
        low, high = ends
        ticks = apart(round_values(low, high, _FEWEST_TICKS), low, high)
        return axis(label, log=True, ticks=ticks, ends=ends)
    if len(known) <= 5 and apart(known, known[0], max(known[-1], 1.001 * known[0])) == known:
        return axis(label, log=True, ticks=known)
    low, high = known[0] * 0.95, known[-1] * 1.05
    return axis(label, log=True, ticks=apart(round_values(low, high, _FEWEST_TICKS), low, high))


def count_axis(label: str, low: float, high: float) -> Value:
    """A linear axis of counts, with ticks at round numbers."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1.0)))
    step = next((k * step for k in (2.0, 1.0, 0.5, 0.25, 0.2) if (high - low) / (k * step) >= 3), 0.1 * step)
    first = math.ceil(low / step)
    return axis(label, ticks=[k * step for k in range(first, math.floor(high / step) + 1)])


def series(
    name: str,
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    color: int | str = 0,
    symbol: int = 0,
    kind: str = "points",
    dash: str = "solid",
    error: Iterable[Any] | None = None,
    band: tuple[Iterable[Any], Iterable[Any]] | None = None,
    text: Sequence[str] | None = None,
    legend: bool = True,
) -> Value:
    """What is drawn in one color: ``points``, a ``line``, or ``both``; with bars of error or a band.

    Args:
        name: For the legend.
        x: Where.
        y: How high; None and NaN leave a gap.
        color: The place in the palette, or ``ink`` or ``grey``.
        symbol: The place among the symbols.
        kind: Points, a line, both, or bars.
        dash: Of a line: ``solid``, ``dash`` or ``dot``.
        error: Half the length of each bar.
        band: Its lower and upper edge.
        text: What each point is, shown under the pointer.
        legend: Whether the legend names it.
    """
    out: Value = {"name": name, "x": rounded(x), "y": rounded(y), "color": color, "kind": kind}
    if symbol:
        out["symbol"] = symbol
    if dash != "solid":
        out["dash"] = dash
    if error is not None:
        out["error"] = rounded(error)
    if band is not None:
        out["low"], out["high"] = (rounded(edge) for edge in band)
    if text is not None:
        out["text"] = list(text)
    if not legend:
        out["legend"] = False
    return out


def rounded(values: Iterable[Any]) -> list[float | None]:
    """Numbers to five digits, which no screen shows more of; None for what is no number.

    >>> rounded([123456.0, None, float("nan"), 0.1234567])
    [123460.0, None, None, 0.12346]
    """
    return [_round(value) for value in values]


def _round(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    number = float(f"{float(value):.{_DIGITS}g}")
    return (
        int(number) if number.is_integer() and abs(number) < 1e6 and not isinstance(value, float) else number
    )


def some(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly chosen, the first and the last among them.

    >>> some(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= most:
        return list(items)
    places = np.unique(np.round(np.linspace(0, len(items) - 1, most)).astype(int))
    return [items[int(i)] for i in places]


def number(value: Any, digits: int = 4) -> str:
    """A number for a table; a dash for what is not known.

    >>> number(0.0506712), number(None), number(1.5e9)
    ('0.05067', '–', '1.5e+09')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_KNOWN
    return f"{value:.{digits}g}"


def count(value: Any) -> str:
    """A count for a table, as people write it."""
    return NOT_KNOWN if value is None else short_count(float(value)) if value >= 1000 else f"{value:g}"


def percent(value: Any, digits: int = 2) -> str:
    """A share as percent.

    >>> percent(0.0364), percent(1.0)
    ('3.6 %', '100 %')
    """
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return f"{100 * value:.0f} %" if abs(value) >= 0.995 else f"{100 * value:.{digits}g} %"


def between(low: Any, high: Any, digits: int = 4) -> str:
    """An interval, open where an end is."""
    if low is None and high is None:
        return NOT_KNOWN
    if low is None or not math.isfinite(low):
        return f"below {number(high, digits)}" if high is not None and math.isfinite(high) else "open"
    if high is None or not math.isfinite(high):
        return f"above {number(low, digits)}"
    return f"{number(low, digits)} to {number(high, digits)}"


def listed(values: Iterable[Any], most: int = 8) -> str:
    """Values in words: ``16, 32 and 64``; of many the first, and how many more.

    >>> listed(["a", "b", "c"]), listed([]), listed(range(12), 3)
    ('a, b and c', '–', '0, 1, 2 and 9 more')
    """
    texts = [str(value) for value in values]
    if not texts:
        return NOT_KNOWN
    if len(texts) > most:
        return f"{', '.join(texts[:most])} and {len(texts) - most} more"
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
