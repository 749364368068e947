"""Error feedback: what rounding a column does to the output is made up for by the columns still to come."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from qscale.errors import ConfigError

#: Dampings that are tried, each ten times the one before.
_TRIES = 12
_LEAST_RAISE = 1e-8


class ColumnRounding(Protocol):
    """How one column is rounded."""

    def begin(self, column: int, weight: Tensor) -> None:
        """Before a column: ``weight`` has the feedback of earlier blocks of columns, not of this one."""

    def round(self, column: int, values: Tensor) -> Tensor:
        """The column's current values, ``(rows,)`` float64, rounded."""


def inverse_factor(moments: Tensor, damping: float, name: str = "") -> tuple[Tensor, float]:
    """The upper Cholesky factor ``U`` of the inverse of the damped moments, ``U^T U = (M + d I)^-1``.

    ``d`` is ``damping`` times the mean of the diagonal. Where that is not enough for a factor, the damping
    is raised tenfold until it is.

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
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex((inverse + inverse.t()) / 2, upper=True)
            if not int(failed) and bool(upper.isfinite().all()):
                return upper, damping
        damping = max(10 * damping, _LEAST_RAISE)
    raise ConfigError(
        f"the second moments of the inputs{f' of {name}' if name else ''} have no Cholesky factor even with "
        f"a damping of {damping:g}: they are not finite, or not those of inputs"
    )


def error_feedback(weight: Tensor, factor: Tensor, rounding: ColumnRounding, *, block: int = 128) -> Tensor:
    """Round a weight column by column, left to right, and feed each column's error into those after it.

    With ``e = (w_i - q_i) / U_ii`` columns ``j > i`` become ``w_j - e U_ij``: within a block of columns at
    once, beyond it when the block is done. In exact arithmetic this is the recursion of optimal brain
    quantization with a fixed order.

    Args:
        weight: ``(rows, width)``; not modified.
        factor: ``U`` of :func:`inverse_factor`.
        rounding: Of one column.
        block: Columns updated together.

    Returns:
        The rounded weight, float64.

    Source: Frantar et al. 2022 (GPTQ, arXiv:2210.17323), algorithm 1.
    """
    W = weight.double().clone()
    rounded = torch.empty_like(W)
    width = W.shape[1]
    for start in range(0, width, block):
        stop = min(start + block, width)
        part = W[:, start:stop].clone()
        errors = torch.empty_like(part)
        for i in range(start, stop):
            rounding.begin(i, W)
            values = part[:, i - start]
            q = rounding.round(i, values).double()
            error = (values - q) / factor[i, i]
            part[:, i - start :] -= torch.outer(error, factor[i, i:stop])
            rounded[:, i], errors[:, i - start] = q, error
        W[:, stop:] -= errors @ factor[start:stop, stop:]
    return rounded
