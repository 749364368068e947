"""Tables of values for one coordinate: those of a normal distribution, and those of what was seen."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_LLOYD, _NEWTON = 30, 30  # rounds at most: Lloyd's iteration comes near, and is slow for many levels
_STILL = 1e-13  # levels that move less are there
_MEANS_ROUNDS = 200


@lru_cache(maxsize=16)
def lloyd_max(bits: int) -> tuple[float, ...]:
    """The ``2**bits`` levels with the least mean squared error for a standard normal number, ascending.

    Boundaries lie half way, levels at the means of their cells: Lloyd's iteration, then Newton's, in float64.

    Example:
        >>> [round(level, 4) for level in lloyd_max(2)]
        [-1.5104, -0.4528, 0.4528, 1.5104]

    Source: Lloyd 1982; Max 1960. It begins at the levels of Panter and Dite (1951) for many levels.
    """
    count = 2**bits
    if count == 1:
        return (0.0,)
    parts = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    levels = math.sqrt(3) * torch.special.ndtri(parts)
    for turn in range(_LLOYD + _NEWTON):
        ends = _ends(levels)
        density = torch.exp(-ends.square() / 2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(ends).diff()
        step = -density.diff() / mass - levels
        if turn >= _LLOYD:
            # How the mean of a cell moves with its two ends, each of which moves half with either level.
            inner = ends[1:-1]
            of_low = density[1:-1] * (levels[1:] + step[1:] - inner) / mass[1:] / 2
            of_high = density[1:-1] * (inner - levels[:-1] - step[:-1]) / mass[:-1] / 2
            slope = torch.diag(of_low, -1) + torch.diag(of_high, 1) - torch.eye(count, dtype=torch.float64)
            slope[range(1, count), range(1, count)] += of_low
            slope[range(count - 1), range(count - 1)] += of_high
            step = torch.linalg.solve(slope, -step)
        levels = levels + step
        levels = (levels - levels.flip(0)) / 2
        if float(step.abs().max()) < _STILL:
            break
    return tuple(levels.tolist())


def lloyd_max_error(levels: tuple[float, ...]) -> float:
    """The mean squared error of a table of :func:`lloyd_max`: ``1 - sum p_i y_i^2``, levels at their means.

    Example:
        >>> [round(lloyd_max_error(lloyd_max(bits)), 5) for bits in (1, 2, 3)]
        [0.36338, 0.11748, 0.03455]
    """
    y = torch.tensor(levels, dtype=torch.float64)
    parts = torch.special.ndtr(_ends(y)).diff()
    return float(1 - (parts * y.square()).sum())


def k_means(values: Tensor, bits: int) -> Tensor:
    """``2**bits`` values, ascending, that leave little squared error of the numbers given; float64.

    Lloyd's iteration from quantiles, until nothing changes: the error never grows. Cells that are empty keep
    their value. Deterministic.

    Args:
        values: Any shape, at least one.
        bits: Of the table.
    """
    x = values.double().flatten().sort().values
    count = 2**bits
    at = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * len(x)).long().clamp(max=len(x) - 1)
    table = x[at.to(x.device)]
    total = torch.cat([x.new_zeros(1), x.cumsum(0)])
    for _ in range(_MEANS_ROUNDS):
        edges = torch.searchsorted(x, (table[1:] + table[:-1]) / 2)
        ends = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), len(x))])
        sizes = ends.diff()
        means = total[ends].diff() / sizes.clamp(min=1)
        new = torch.where(sizes > 0, means, table).sort().values
        if torch.equal(new, table):
            break
        table = new
    return table


def nearest(x: Tensor, table: Tensor) -> Tensor:
    """Each number replaced by the nearest value of an ascending table."""
    return table[torch.bucketize(x.contiguous(), (table[1:] + table[:-1]) / 2)]


def _ends(levels: Tensor) -> Tensor:
    """The ends of the cells, ``(levels + 1,)``."""
    infinite = levels.new_full((1,), torch.inf)
    return torch.cat([-infinite, (levels[1:] + levels[:-1]) / 2, infinite])
