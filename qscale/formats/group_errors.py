"""The mean squared error of an element in a group of independent ones, by how the group gets its scale.

F is the distribution of |x|, I(m) the squared error times the density up to m, G the elements of a group.
The largest magnitude m has the density ``G F(m)**(G-1) F'(m)``; given it, the others follow the density cut
off there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qscale.formats.cells import cells, error_at
from qscale.formats.densities import Array, Density, gauss_legendre, panels
from qscale.formats.steps import SCALE_GRIDS, Steps, rounded


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Values on each side of zero, and the rounding to them."""

    sides: tuple[Sequence[float], ...]  #: magnitudes from 0 up, over the scale; one where both are alike
    denominator: float  #: the scale is the largest magnitude of a group divided by this
    stochastic: bool

    def at_maximum(self, maximum: Array, group: int, of: Density) -> Array:
        """The squared error of an element, times the density that the maximum is there."""
        scale = maximum / self.denominator
        table = cells(self.sides, self.stochastic, whole_below=self.denominator)
        others = (group - 1) * table.integral(of, scale, maximum) / (1 - of.beyond(maximum))
        largest = error_at(self.denominator, self.sides, self.stochastic) * scale**2
        return of.pdf(maximum) * (1 - of.exceeded(maximum, group - 1)) * (others + largest)

    def between(self, scale: Array, low: Array, high: Array, group: int, of: Density) -> Array:
        """The squared error of an element where the maximum is from ``low`` to ``high``, for one scale there.

        That is ``F(high)**(G-1) I(high) - F(low)**(G-1) I(low)``, as every element of a group is alike: no
        integral over the maximum is left. Two terms that do not cancel stand for it.
        """
        found = np.zeros_like(scale)
        high = np.minimum(high, of.end)
        # Under a scale of 0 all is 0.
        for sides, chosen in ((self.sides, scale > 0), (((0.0,),), scale == 0)):
            rows = np.flatnonzero(chosen & (high > low))
            if not len(rows):
                continue
            below, top, s = low[rows], high[rows], np.where(scale[rows] > 0, scale[rows], 1.0)
            table = cells(sides, self.stochastic, whole_below=float(np.min(below / s)))
            above_low, above_high = (of.exceeded(end, group - 1) for end in (below, top))
            found[rows] = (above_low - above_high) * table.integral(of, s, below)
            found[rows] += (1 - above_high) * table.integral(of, s, top, bottom=below)
        return found


def of_exact_scales(quantizer: Quantizer, group: int, of: Density) -> float:
    """Scales that are not rounded."""
    maximum, weight = of.maxima(group)
    return float(weight @ quantizer.at_maximum(maximum, group, of))


def of_steps(quantizer: Quantizer, steps: Steps, group: int, of: Density) -> float:
    """Scales of a type."""
    return float(steps.weight @ quantizer.between(steps.scale, steps.low, steps.high, group, of))


def of_two_levels(quantizer: Quantizer, group: int, tensor_size: int, of: Density) -> float:
    """Scales in E4M3 times one of the tensor, so that its largest magnitude M has a scale without error.

    One group holds M; the others are groups below it.
    """
    largest, weight = of.maxima(tensor_size)
    grid, least = SCALE_GRIDS["e4m3"], of.least_maximum(group)
    level = (largest / (quantizer.denominator * grid.max))[:, None]
    steps = rounded(grid, quantizer.denominator, least / float(level.max()), quantizer.denominator * grid.max)
    at, step = np.nonzero(steps.high * level > least)
    scale, low, high = ((column * level)[at, step] for column in (steps.scale, steps.low, steps.high))
    errors = quantizer.between(scale, low, np.minimum(high, largest[at]), group, of)
    total = quantizer.at_maximum(largest, group, of)
    if rest := tensor_size - group:
        elsewhere = np.bincount(at, weights=errors, minlength=len(largest))
        total *= 1 - of.exceeded(largest, rest)
        total += elsewhere * rest * of.pdf(largest) * (1 - of.exceeded(largest, rest - 1))
    return float(weight @ total)


def of_two_ends(last: int, group: int, of: Density) -> float:
    """Codes from 0 to ``last`` with an integer zero point: over the range of a group and zero's place in it.

    In units of the scale, range / last, zero is at a place from 0 to last, and the zero point k is the
    nearest integer. The grid has k steps on its left and last - k on its right, and ends up to half a step
    before or after the values do: what is right of zero at one place is left of it at the opposite place.
    """
    span, weight = of.maxima(group, times=2.0)
    scale = span[:, None, None] / last
    halvings = max(1, math.ceil(math.log2(of.end / last)) + 2)  # near an end as fine as the density needs
    near = 0.5 * np.exp2(-np.arange(halvings))
    edges = np.concatenate([[0.0], near[::-1], np.arange(1.5, last), last - near[1:], [last]])
    place, place_weight = panels(edges, 4 + math.ceil(24 / last))
    k = np.rint((edges[:-1] + edges[1:]) / 2)[:, None]
    error = (place - k) ** 2 * scale**2
    height = of.pdf(place * scale) / 2
    (mass, whole_mass), (errors, whole_errors) = (
        _from_start(y * scale, edges, place_weight) for y in (height, error * height)
    )
    opposite = (slice(None), slice(None, None, -1), slice(None, None, -1))
    mass, errors = mass + mass[opposite], errors + errors[opposite]
    others = (group - 2) * errors / mass
    total = mass ** (group - 2) * (others + 2 * error) * height * height[opposite] * place_weight * scale
    # Where all have one sign zero is an end, and the largest magnitude is a value.
    one_sign = whole_mass ** (group - 2) * whole_errors * of.pdf(span)
    return (group - 1) * float(weight @ (total.sum(axis=(1, 2)) + one_sign))


def _from_start(y: Array, edges: Array, weight: Array) -> tuple[Array, Array]:
    """The integral of values at nodes of panels, from the first edge to each node and to the last edge."""
    at_edges = np.cumsum((y * weight).sum(axis=-1), axis=-1)
    before = np.concatenate([np.zeros_like(at_edges[:, :1]), at_edges[:, :-1]], axis=1)
    within = (y @ _to_nodes(y.shape[-1]).T) * np.diff(edges)[:, None]
    return before[..., None] + within, at_edges[:, -1]


@lru_cache(maxsize=16)
def _to_nodes(count: int) -> Array:
    """The matrix from values at the Gauss nodes of [0, 1] to the integrals from 0 to each node."""
    nodes, weights = gauss_legendre(count)
    polynomials = np.polynomial.legendre.legvander(2 * nodes - 1, count)
    odd = 2 * np.arange(count) + 1
    # A polynomial's integral is the difference of its neighbours.
    integrals = np.column_stack([2 * nodes, (polynomials[:, 2:] - polynomials[:, :-2]) / odd[1:]]) / 2
    found: Array = integrals @ (odd[:, None] * polynomials[:, :-1].T * weights)
    return found
