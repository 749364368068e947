"""The squared error of a quantizer of scale 1, cell by cell, and its integral over a density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from qscale.formats.densities import Array, Density, gauss_legendre

Regions: TypeAlias = tuple[Array, Array, Array, Array]

#: More equally spaced cells than this are summed by as many Gauss nodes.
_RUN = 16
#: Values that are smaller than the largest by this count for nothing.
_DEPTH = 2.0**-30
#: About how many values of a density are computed at once, to stay in a cache.
_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Cells:
    """From 0 on, for one sign of x: between ``start`` and ``stop`` the error of x is ``|x - p| * |x - q|``.

    In nearest rounding p = q is the nearest value; between two values p and q it is the mean error of
    stochastic rounding. ``weight`` cells are like the one given.
    """

    start: Array
    stop: Array
    p: Array
    q: Array
    weight: Array

    def integral(self, of: Density, scale: Array, top: Array, bottom: Array | None = None) -> Array:
        """The error times the density from ``bottom`` (0) to ``top``, the quantizer stretched by ``scale``.

        Scales are positive; a cell of a weight other than 1 must not be cut by an end.
        """
        high = top / scale
        low = np.zeros_like(high) if bottom is None else bottom / scale
        found = np.zeros_like(high)
        # Like scales together: the larger they are, the finer the cells about 0 are to be cut.
        order = np.argsort(scale)
        some = max(1, _AT_ONCE // (8 * len(self.start)))
        for rows in np.split(order, range(some, len(order), some)):
            s = scale[rows, None]
            here = self._between(float(low[rows].min()), float(high[rows].max()), float(s.max()))
            if not len(here.start):
                continue
            nodes, weights = gauss_legendre(_nodes(here, float(high[rows].max())))
            start = np.maximum(here.start, low[rows, None])
            width = np.maximum(np.minimum(here.stop, high[rows, None]) - start, 0.0)
            y = start[..., None] + width[..., None] * nodes
            error = y - here.p[:, None]
            error *= y - here.q[:, None]
            y *= s[..., None]
            error *= of.pdf(y)
            found[rows] = (np.abs(error @ weights) * width) @ here.weight
        return found * scale**3

    def _between(self, low: float, high: float, scale: float) -> Cells:
        """The cells there, cut until none spans both more than a doubling and more than 1 in units of x."""
        table = np.stack([self.start, np.minimum(self.stop, high), self.p, self.q, self.weight])
        table = table[:, (self.start < high) & (self.stop > low)]
        done = [table[:, :0]]
        while table.shape[1]:
            wide = (table[1] > 2 * table[0]) & (table[1] * scale > 1)
            done.append(table[:, ~wide])
            table = table[:, wide]
            upper = table.copy()
            upper[0] = table[1] = table[1] / 2
            done.append(upper)
        return Cells(*np.concatenate(done, axis=1))


def _nodes(here: Cells, top: float) -> int:
    """How many leave 1e-9: the wider a cell, the further the tail of a Gaussian falls in it."""
    widest = float(np.max(here.stop - here.start)) / top
    return 4 + math.ceil(24 * min(widest, 0.5))


def cells(sides: Sequence[Sequence[float]], stochastic: bool, whole_below: float = math.inf) -> Cells:
    """The cells of the values on each side of zero, half of x on either.

    Args:
        sides: Ascending magnitudes from 0; beyond the last everything goes to it. One where both are alike.
        stochastic: Rounding to either neighbour, right in the mean.
        whole_below: Cells beyond it may be cut, and keep a weight of their own.
    """
    found = [_of_one_side(np.asarray(side, dtype=np.float64), stochastic, whole_below) for side in sides]
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    columns[-1] = columns[-1] / len(sides)
    return Cells(*columns)


def _of_one_side(values: Array, stochastic: bool, whole_below: float) -> list[Array]:
    values = values[(values == 0) | (values >= values[-1] * _DEPTH)]
    if not stochastic:
        value, start, stop, weight = regions(values, whole_below=whole_below)
        return [start, stop, value, value, weight]
    last = values[-1:]
    rows = [(last, np.full(1, math.inf), last, last, np.ones(1))]
    for first, count, gap in _runs(values):
        places, weight = _several(count, whole=values[first + count] <= whole_below)
        low = values[first] + places * gap
        rows.append((low, low + gap, low, low + gap, weight))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def regions(values: Array, *, parts: int = 1, whole_below: float = math.inf) -> Regions:
    """Values, from and to where each is the nearest, and its weight: so many values are like it.

    Args:
        values: Ascending; the first reaches down to 0, the last without end.
        parts: Into how many each run of values that are alike is split.
        whole_below: Values in a run that reaches beyond it are given one by one.
    """
    borders = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [math.inf]])
    rows = [(values[-1:], borders[-2:-1], borders[-1:], np.ones(1))]
    for first, count, gap in _runs(values):
        rows.append((values[[first]], borders[[first]], borders[[first + 1]], np.ones(1)))
        for part in np.array_split(np.arange(1.0, count), parts):
            places, weight = _several(len(part), whole=values[first + count] - gap / 2 <= whole_below)
            alike = values[first] + (part[:1] + places) * gap
            rows.append((alike, alike - gap / 2, alike + gap / 2, weight))
    value, start, stop, weight = (np.concatenate(column) for column in zip(*rows, strict=True))
    return value, start, stop, weight


def _runs(values: Array) -> list[tuple[int, int, float]]:
    """First value, number and width of gaps that are equal and in one binade: a density may fall fast."""
    gaps, binades = np.diff(values), np.frexp(values)[1]
    changes = np.flatnonzero((np.diff(gaps) != 0) | (np.diff(binades[:-1]) != 0)) + 1
    edges = [0, *changes.tolist(), len(gaps)]
    return [(a, b - a, float(gaps[a])) for a, b in pairwise(edges) if a < b]


def _several(count: int, whole: bool) -> tuple[Array, Array]:
    """Nodes and weights that sum a smooth function over 0, 1, ..., count - 1: all, where they are few."""
    return _many(count) if whole and count > _RUN else (np.arange(float(count)), np.ones(count))


@lru_cache(maxsize=64)
def _many(count: int) -> tuple[Array, Array]:
    # The Gauss rule of this discrete measure, whose polynomials are Chebyshev's of a discrete variable.
    k = np.arange(1.0, _RUN)
    beside = np.sqrt(k * k * (count * count - k * k) / (4 * (4 * k * k - 1)))
    nodes, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    return nodes + (count - 1) / 2, count * vectors[0] ** 2


def error_at(place: float, sides: Sequence[Sequence[float]], stochastic: bool) -> float:
    """The squared error of a magnitude, the mean of both signs."""
    errors = []
    for values in sides:
        above = min(int(np.searchsorted(values, place)), len(values) - 1)
        low, high = place - values[max(above - 1, 0)], place - values[above]
        errors.append(-low * high if stochastic and high < 0 else min(low**2, high**2))
    return sum(errors) / len(errors)
