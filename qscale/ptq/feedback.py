"""Error feedback: what rounding a column does to the output is made up for by the columns still to come."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qscale.errors import ConfigError

#: Dampings that are tried, each ten times the one before.
_TRIES = 12
_LEAST_RAISE = 1e-8
#: Columns that a factor is made of at once: a wider matrix takes wider ones.
_TILE, _WIDE_TILE, _WIDE = 128, 256, 2048
#: Columns rounded one after the other before the rest of their block takes in their errors.
_STRIP = 32


class ColumnRounding(Protocol):
    """How one column is rounded."""

    def begin(self, column: int, weight: Tensor) -> None:
        """Before a column: ``weight`` has the feedback of earlier blocks of columns, not of this one."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """The column's current values, ``(rows,)`` float64, rounded."""


@runtime_checkable
class StripRounding(Protocol):
    """How a strip of neighbouring columns is rounded, errors fed from each into the next."""

    def strip(self, first: int, values: Tensor, factor: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded columns from ``first`` on and their errors over ``U_ii``, both as ``values``.

        Args:
            first: The first column.
            values: Their current values, ``(columns, rows)`` float64.
            factor: ``U`` of these columns.
            weight: ``(rows, width)``, with the feedback of earlier blocks.
        """


def inverse_factor(moments: Tensor, damping: float, name: str = "") -> tuple[Tensor, float]:
    """The upper Cholesky factor ``U`` of the inverse of the damped moments, ``U^T U = (M + d I)^-1``.

    ``d`` is ``damping`` times the mean of the diagonal. Where that is not enough for a factor, the damping
    is raised tenfold until it is. The inverse itself is never made: with ``M + d I = R R^T``, ``R`` upper
    triangular, ``U = R^-1``.

    Returns:
        ``U``, float64, and the damping that was used.

    Raises:
        ConfigError: No damping helps: the moments are not finite.
    """
    M = moments.double()
    mean = float(M.diagonal().mean())
    for _ in range(_TRIES):
        damped = M.clone()
        damped.diagonal().add_(damping * mean)
        upper = _inverse_of_root(damped)
        if upper is not None and bool(upper.sum().isfinite()):
            return upper, damping
        damping = max(10 * damping, _LEAST_RAISE)
    raise ConfigError(
        f"the second moments of the inputs{f' of {name}' if name else ''} have no Cholesky factor even with "
        f"a damping of {damping:g}: they are not finite, or not those of inputs"
    )


def _inverse_of_root(matrix: Tensor) -> Tensor | None:
    """``R^-1`` of a symmetric ``R R^T``; None where there is no ``R``. What ``matrix`` holds is lost.

    From the last columns to the first, a tile at a time: ``K^3/3`` operations for ``R``, as many for its
    inverse, nearly all of them in products of matrices.
    """
    width = len(matrix)
    tile = _WIDE_TILE if width > _WIDE else _TILE
    R, U = matrix, torch.zeros_like(matrix)  # above the tiles R takes the place of what it was made of
    for start in reversed(range(0, width, tile)):
        stop = min(start + tile, width)
        panel = matrix[:stop, start:stop].addmm_(R[:stop, stop:], R[start:stop, stop:].t(), alpha=-1)
        # Turned about, the lower factor of a tile is the upper one.
        lower, failed = torch.linalg.cholesky_ex(panel[start:].flip(0, 1))
        if int(failed):
            return None
        one = torch.eye(stop - start, dtype=matrix.dtype, device=matrix.device)
        inverse = torch.linalg.solve_triangular(lower, one, upper=False).flip(0, 1)
        R[:start, start:stop] = panel[:start] @ inverse.t()
        # Rows of U hold what the rows of R below them have taken away.
        U[start:stop, stop:] = inverse @ U[start:stop, stop:]
        U[start:stop, start:stop] = inverse
        U[:start, start:].addmm_(R[:start, start:stop], U[start:stop, start:], alpha=-1)
    return U


def error_feedback(
    weight: Tensor, factor: Tensor, rounding: ColumnRounding | StripRounding, *, block: int = 128
) -> Tensor:
    """Round a weight column by column, left to right, and feed each column's error into those after it.

    With ``e = (w_i - q_i) / U_ii`` columns ``j > i`` become ``w_j - e U_ij``: within a strip of columns at
    once, in the rest of a block when the strip is done, beyond it when the block is. In exact arithmetic
    this is the recursion of optimal brain quantization with a fixed order.

    Args:
        weight: ``(rows, width)``; not modified.
        factor: ``U`` of :func:`inverse_factor`.
        rounding: Of one column, or of a strip.
        block: Columns updated together.

    Returns:
        The rounded weight, in the dtype that ``rounding`` gives: of single columns float64.

    Source: Frantar et al. 2022 (GPTQ, arXiv:2210.17323), algorithm 1.
    """
    strips = rounding if isinstance(rounding, StripRounding) else _OneByOne(rounding)
    W = weight.t().clone(memory_format=torch.contiguous_format).double()  # a column lies in one piece
    rounded = []
    width = len(W)
    for start in range(0, width, block):
        stop = min(start + block, width)
        part = W[start:stop].clone()
        errors = torch.empty_like(part)
        for first in range(start, stop, _STRIP):
            last = min(first + _STRIP, stop)
            own, rest = slice(first - start, last - start), slice(last - start, None)
            found, errors[own] = strips.strip(first, part[own], factor[first:last, first:last], W.t())
            rounded.append(found)
            part[rest].addmm_(factor[first:last, last:stop].t(), errors[own], alpha=-1)
        W[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return torch.cat(rounded).t() if rounded else W.t()


class _OneByOne:
    """Strips of columns that are rounded one at a time."""

    def __init__(self, rounding: ColumnRounding) -> None:
        self.rounding = rounding

    def strip(self, first: int, values: Tensor, factor: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        values, rounded, errors = values.clone(), torch.empty_like(values), torch.empty_like(values)
        for i, column in enumerate(values):
            self.rounding.begin(first + i, weight)
            rounded[i] = self.rounding.round(first + i, column)
            errors[i] = (column - rounded[i]) / factor[i, i]
            values[i + 1 :] -= torch.outer(factor[i, i + 1 :], errors[i])
        return rounded, errors
