"""What every figure shares: colors, panels, ticks that stay apart, and a file at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from qscale.errors import QScaleError, StoreError
from qscale.laws.forms import FloatArray
from qscale.units import short_count

#: Of series, in order. Told apart in every common color blindness, which a test simulates. Source: Okabe and
#: Ito 2008; its purple and yellow are darker here, for thin lines on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#e0b000", "#4a4a4a")
#: The same on a dark ground, told apart alike.
DARK_COLORS = ("#6184f8", "#e85814", "#26e188", "#bc73a1", "#ffec37", "#d1fbff")
MARKERS = ("o", "s", "^", "D", "v", "P")  # the second sign of a series, for print without color
GREY = "#555555"
LEVEL = 0.9  # of every band and interval
_CLOSEST = 0.16  # share of an axis between two of its labels
_LABEL_INCHES = 0.42  # that a label takes at least
_FEWEST_TICKS = 4
#: Inches: one column of a journal, and two; and the points of all text there.
SINGLE, DOUBLE, POINTS = 3.3, 6.9, 8
_MOST_ACROSS = 3  # panels of a journal's width
_captions: ContextVar[dict[Path, str] | None] = ContextVar("captions", default=None)
_FEWEST_ROWS = 5  # of a running median
_FINEST = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
_MANTISSAS: tuple[tuple[float, ...], ...] = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), _FINEST)


def new_figure(
    panels: int, *, across: int, size: tuple[float, float], share_y: bool = False, beside: float = 0.0
) -> tuple[Any, list[Any]]:
    """A figure and its panels, ``across`` in a row (four by two instead of three), each this many inches.

    ``beside``: inches for a legend on the right.

    Raises:
        QScaleError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise QScaleError("figures need matplotlib: pip install 'qscale[report]'") from error
    on_paper = _captions.get() is not None
    if on_paper:
        across = min(across, _MOST_ACROSS)
    across = 2 if (panels, across) == (4, 3) else min(across, panels)
    down = -(-panels // across)
    if on_paper:
        width = SINGLE if across == 1 and not beside else DOUBLE
        beside = 0.75 * beside
        wide = (width - beside) / across
        size = (wide, wide * max(0.7, min(size[1] / size[0], 1.0)))
    layout = ConstrainedLayoutEngine(w_pad=0.12)  # inches: a label of one panel stays off the next
    figure = Figure(figsize=(size[0] * across + beside, size[1] * down), layout=layout, dpi=130)
    axes = list(figure.subplots(down, across, squeeze=False, sharey=share_y).flat)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def save(figure: Any, path: Path) -> None:
    """Write the file, and the folders above it.

    Raises:
        StoreError: The file cannot be written, or its ending is that of no picture.
    """
    if (captions := _captions.get()) is not None:
        captions[path] = _take_words(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        if captions is not None:
            figure.savefig(path.with_suffix(".svg"))
    except (OSError, ValueError) as error:
        raise StoreError(f"figure {str(path)!r} cannot be written: {error}") from error


@contextmanager
def paper() -> Iterator[dict[Path, str]]:
    """Figures made and saved inside are of a journal's widths, with text of one size and as text.

    Each is saved under its own name, and as SVG beside it.

    Yields:
        The titles and captions by file, which are for the article's own text and not drawn.

    Raises:
        QScaleError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise QScaleError("figures need matplotlib: pip install 'qscale[report]'") from error
    found: dict[Path, str] = {}
    token = _captions.set(found)
    try:
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "font.size": POINTS}):
            yield found
    finally:
        _captions.reset(token)


def _take_words(figure: Any) -> str:
    """Title and caption off the figure, and all other text to one size."""
    from matplotlib.text import Text

    texts = [figure.get_suptitle(), figure.get_supxlabel()]
    figure.suptitle("").set_in_layout(False)
    figure.supxlabel("").set_in_layout(False)
    for text in figure.findobj(Text):
        text.set_fontsize(POINTS)
    return "\n\n".join(" ".join(text.split()) for text in texts if text)


def plain(axis: Any) -> None:
    """Two spines, small ticks and a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2, linewidth=0.6)


def words(figure: Any, title: str, caption: str) -> None:
    """A title above and a caption below, broken to the figure's width."""
    width = figure.get_figwidth()
    figure.suptitle(_broken(title, 13 * width), fontsize=9)
    figure.supxlabel(_broken(caption, 19 * width), fontsize=7, color=GREY)


def _broken(text: str, width: float) -> str:
    return "\n".join(
        part for line in text.splitlines() for part in textwrap.wrap(line, int(width), break_on_hyphens=False)
    )


def legend_beside(figure: Any, axis: Any) -> None:
    """One legend for all panels, where it stands on no title, caption or point."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False)


def short(number: float) -> str:
    """A count as people write it, and a small number to three digits.

    >>> short(595e6), short(4.5), short(0.057279)
    ('595M', '4.5', '0.0573')
    """
    return short_count(number) if number >= 1000 else f"{number:.3g}"


def log_ticks(
    axis: Any, which: str, values: Iterable[float] | None = None, *, label: Callable[[float], str] = short
) -> None:
    """A logarithmic axis (``x`` or ``y``) labelled at these values, else at round ones; call it last.

    Labels that would stand on each other are left out.
    """
    own = axis.xaxis if which == "x" else axis.yaxis
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    low, high = sorted(axis.get_xlim() if which == "x" else axis.get_ylim())
    inches = axis.get_figure().get_figwidth() / axis.get_subplotspec().get_gridspec().ncols
    known = sorted(set(values)) if values is not None else round_values(low, high, _FEWEST_TICKS)
    chosen = apart(known, low, high, max(_CLOSEST, _LABEL_INCHES / inches if which == "x" else 0.0))
    own.set_ticks(chosen, [label(value) for value in chosen], fontsize=8)
    axis.tick_params(which="minor", **{"bottom" if which == "x" else "left": False})
    own.set_minor_formatter("")


def round_values(low: float, high: float, fewest: int) -> list[float]:
    """Round numbers between two positive ends, as few as hold the fewest wanted, evenly on a log axis."""
    tens = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for mantissas in _MANTISSAS:
        found = [m * 10.0**ten for ten in tens for m in mantissas if low <= m * 10.0**ten <= high]
        if len(found) >= fewest:
            return found
    step = 10.0 ** np.floor(np.log10((high - low) / fewest))
    step = max((k * step for k in (1, 2, 5) if (high - low) / (k * step) >= fewest), default=step)
    return [float(v) for v in step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)]


def apart(values: Sequence[float], low: float, high: float, closest: float = _CLOSEST) -> list[float]:
    """Those of ascending values whose labels have room between two ends of a logarithmic axis."""
    kept: list[float] = []
    least = closest * np.log(high / low)
    for value in values:
        if not kept or np.log(value / kept[-1]) >= least:
            kept.append(value)
    return kept


def running_median(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The median of y about each value of x, over the tenth of the range on either side of it.

    Where that holds fewer than five rows, over the five nearest.
    """
    values = np.unique(x)
    away = np.abs(values[:, None] - x)
    nearest = np.sort(away, axis=1)[:, min(_FEWEST_ROWS, len(x)) - 1]
    width = np.maximum(0.1 * np.ptp(x), nearest)
    return values, np.array([np.median(y[row <= w]) for row, w in zip(away, width, strict=True)])
