"""What calibration gathers of a linear layer's inputs, streamed in batches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qscale.errors import ConfigError

#: ``moments``: the second moments and the sum; ``range``: the ends of each channel; ``mean``: mean
#: magnitudes; ``rows``: some of the rows themselves.
Need = Literal["moments", "range", "mean", "rows"]
NEEDS: tuple[Need, ...] = ("moments", "range", "mean", "rows")

#: Rows that are kept at most.
ROWS = 512
#: Columns whose products are taken at once, half of which follow from others: of inputs, of errors.
_WIDE_TILE, _TILE = 256, 128
#: Rows of a weight that are made float64 at once: fewer make products slow, more leave the cache.
ROWS_AT_ONCE = 1024


@dataclass(slots=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of inputs ``(..., width)``; only what ``needs`` names is gathered, the rest is None.

    Products are taken and added in float64: the factors of a nearly singular matrix depend on its last bits.
    The rows kept are those whose number is a multiple of a stride, which doubles when there are more than
    ``limit``: they are spread over all of the text and do not depend on the batches it came in.

    Raises:
        ConfigError: An input of another width, or one that is not finite; the message names the layer.

    Example:
        >>> found = Statistics(width=2, needs={"moments", "mean"}, name="fc1")
        >>> found.add(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
        >>> found.count, found.moments.tolist(), found.mean.tolist(), found.rows
        (2, [[10.0, -2.0], [-2.0, 4.0]], [2.0, 1.0], None)
    """

    width: int
    needs: Collection[Need]
    name: str = ""  #: for messages
    limit: int = ROWS
    count: int = 0  #: rows seen: tokens
    moments: Tensor | None = None  #: ``X^T X``, float64, symmetric
    total: Tensor | None = None  #: the sum over rows, float64, beside the moments
    low: Tensor | None = None  #: the smallest value of each channel, float32
    high: Tensor | None = None  #: the largest
    magnitudes: Tensor | None = None  #: the sum of ``|x|`` of each channel, float64
    rows: Tensor | None = None  #: float32, ``(at most limit, width)``
    _stride: int = 1

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take in a batch."""
        if x.shape[-1] != self.width:
            raise ConfigError(f"inputs of {self.name}: {x.shape[-1]} channels came, {self.width} were wanted")
        x = x.detach().reshape(-1, self.width).float()
        if not len(x):
            return
        if not bool(x.isfinite().all()):
            raise ConfigError(
                f"inputs of {self.name} are not finite: the model, or a block quantized before, overflows"
            )
        if "moments" in self.needs:
            double = x.double()
            total = double.sum(0)
            self.moments = _with_products(self.moments, double)
            self.total = total if self.total is None else self.total + total
        if "range" in self.needs:
            low, high = x.amin(0), x.amax(0)
            self.low = low if self.low is None else torch.minimum(self.low, low)
            self.high = high if self.high is None else torch.maximum(self.high, high)
        if "mean" in self.needs:
            magnitudes = x.abs().sum(0, dtype=torch.float64)
            self.magnitudes = magnitudes if self.magnitudes is None else self.magnitudes + magnitudes
        if "rows" in self.needs:
            self._keep(x)
        self.count += len(x)

    def _keep(self, x: Tensor) -> None:
        first = -self.count % self._stride
        kept = x[first :: self._stride]
        rows = kept.clone() if self.rows is None else torch.cat([self.rows, kept])
        while len(rows) > self.limit:
            rows, self._stride = rows[::2].clone(), 2 * self._stride
        self.rows = rows

    @property
    def absmax(self) -> Tensor | None:
        """The largest magnitude of each channel, float32."""
        if self.low is None or self.high is None:
            return None
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def mean(self) -> Tensor | None:
        """The mean magnitude of each channel, float64."""
        return None if self.magnitudes is None else self.magnitudes / self.count

    def divided(self, scale: Tensor, shift: Tensor | None = None) -> Statistics:
        """Those of ``(x - shift) / scale``, one positive scale and one shift a channel.

        Mean magnitudes of shifted channels cannot be told and become None.
        """
        s = scale.double()
        z = torch.zeros_like(s) if shift is None else shift.double()
        moments = total = None
        if self.moments is not None and self.total is not None:
            cross = torch.outer(self.total, z)
            moments = self.moments - cross - cross.t() + self.count * torch.outer(z, z)
            moments, total = moments / torch.outer(s, s), (self.total - self.count * z) / s
        return replace(
            self,
            moments=moments,
            total=total,
            low=_moved(self.low, s, z),
            high=_moved(self.high, s, z),
            magnitudes=None if self.magnitudes is None or shift is not None else self.magnitudes / s,
            rows=_moved(self.rows, s, z),
        )

    def rotated(self, rotate: Callable[[Tensor], Tensor]) -> Statistics:
        """Those of ``x R``, where ``rotate`` makes ``x R`` of float32 rows; ranges and means become None."""
        moments, total = self.moments, self.total
        if moments is not None and total is not None:
            R = rotate(torch.eye(self.width, device=moments.device)).double()
            moments, total = R.t() @ moments @ R, total @ R
            moments = (moments + moments.t()) / 2
        rows = None if self.rows is None else rotate(self.rows)
        return replace(self, moments=moments, total=total, low=None, high=None, magnitudes=None, rows=rows)


def _with_products(moments: Tensor | None, x: Tensor) -> Tensor:
    """``M + X^T X``, symmetric to the bit, for little more than half a product; ``M`` may be changed."""
    width = x.shape[1]
    M = x.new_zeros(width, width) if moments is None else moments
    for start in range(0, width, _WIDE_TILE):
        at = slice(start, start + _WIDE_TILE)
        own = M[at, at].addmm_(x[:, at].t(), x[:, at])
        own.copy_((own + own.t()) / 2)
        rest = slice(start + _WIDE_TILE, None)
        M[rest, at] = M[at, rest].addmm_(x[:, at].t(), x[:, rest]).t()
    return M


def _moved(x: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor | None:
    return None if x is None else ((x.double() - shift) / scale).float()


def output_error(difference: Tensor, moments: Tensor) -> Tensor:
    """``||X d^T||^2`` of each row ``d`` of a difference of weights, float64: what it changes of the output.

    Args:
        difference: ``(rows, width)``.
        moments: ``M = X^T X``; of what is above the diagonal, that beyond its tile is not read.

    Example:
        >>> output_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 1.0], [1.0, 2.0]])).tolist()
        [4.0]
    """
    M = moments.double()
    errors = M.new_zeros(len(difference))
    for part, error in zip(*(torch.split(t, ROWS_AT_ONCE) for t in (difference, errors)), strict=True):
        d = part.double()
        for start in range(0, d.shape[1], _TILE):  # d M d^T = sum of (d_i M_ii + 2 d_j M_ji) d_i, j beyond i
            column = M[start:, start : start + _TILE].clone()
            column[_TILE:] *= 2
            error += (d[:, start:] @ column).mul_(d[:, start : start + _TILE]).sum(1)
    return errors.clamp_(min=0.0)
