"""GPTQ: rounding column by column, the error of each fed into the columns that are still to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qscale.ptq.feedback import error_feedback, inverse_factor
from qscale.ptq.layers import Layer, Rounded, bits_of
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.scales import Found, GroupScales, scales_for
from qscale.ptq.statistics import ROWS_AT_ONCE, Need, Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQ(Step):
    """Second-order rounding with error feedback (Frantar et al. 2022, arXiv:2210.17323).

    With ``M = X^T X`` of the calibration inputs: a channel that was always 0 has its weights set to 0 and its
    ``M_jj`` to 1; ``damping`` times the mean of the diagonal is added to it; then columns are rounded left to
    right by :func:`qscale.ptq.feedback.error_feedback`. The scale of a group is found where it starts, from
    the weights as they are after the earlier blocks of ``block`` columns, without the feedback from within
    the block, as in the authors' code: of groups shorter than a block the scales are a little stale.

    With ``act_order`` columns go by falling ``M_jj``. Groups stay contiguous in storage, so all scales are
    then found on the weights before the first column (``static``). A second scale of the whole tensor
    (NVFP4) is always that of the weights before.

    Rounding to nearest may by chance leave a smaller error ``tr(d M d^T)``. With ``guard`` a row then keeps
    the nearest values (all rows together where squares share scales): an addition of ours, off with
    ``guard=false``. How many rows did is in the notes.

    Unlike the authors' code, products and feedback are float64, and the format is that of the spec: any
    integer, float, MX, NVFP4 or codebook of dialect qscale or chen2025. Their symmetric int4 is
    ``int4:full``, their asymmetric one ``int4:asym``. ``search`` is their shrinking of ranges.
    """

    name: ClassVar[str] = "gptq"
    kind: ClassVar[Kind] = "round"
    needs: ClassVar[tuple[Need, ...]] = ("moments",)

    act_order: bool = parameter(False, "order by falling second moment")
    static: bool = parameter(False, "scales found before the first column")
    damping: float = parameter(0.01, "the part of the mean second moment added", low=0.0, high=1e6)
    block: int = parameter(128, "columns updated together", low=1, high=2**31)
    search: bool = parameter(False, "shrinking of ranges by a search")
    guard: bool = parameter(True, "rows keep the nearest values where these are better")

    def check(self, layer: Layer) -> None:
        assert layer.quantizer is not None
        scales_for(layer.quantizer, layer.weight[:1], self.name, search=self.search)

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:
        """Round a weight; its damping, if raised, and the rows that kept the nearest values are noted."""
        assert layer.quantizer is not None and statistics.moments is not None
        scales = scales_for(layer.quantizer, weight.to(layer.dtype), self.name, search=self.search)
        moments = statistics.moments
        rounded, used = self.rounded(weight, moments, scales, layer.name)
        notes = [] if used == self.damping else [f"damping raised from {self.damping:g} to {used:g}"]
        if self.guard:
            rounded, kept = better_rows(rounded, scales.round_all(weight), weight, moments, scales)
            if kept:
                notes.append(f"{kept} of {len(weight)} rows kept the nearest values, which are better")
        return Rounded(weight=rounded, bits=bits_of(layer.spec, weight.shape), notes=tuple(notes))

    def rounded(
        self, weight: Tensor, moments: Tensor, scales: GroupScales, name: str = ""
    ) -> tuple[Tensor, float]:
        """The weight in float32, and the damping that was needed."""
        W, M = weight, moments.double()
        if bool((M.diagonal() == 0).any()):
            W, M = W.clone(), M.clone()
            W[:, clear_dead(M)] = 0.0
        if not self.act_order:
            factor, damping = inverse_factor(M, self.damping, name)
            strips = _Strips(W, scales, list(range(len(M))), static=self.static)
            return error_feedback(W, factor, strips, block=self.block).contiguous(), damping
        order = torch.argsort(M.diagonal(), descending=True, stable=True)
        factor, damping = inverse_factor(M[order][:, order], self.damping, name)
        strips = _Strips(W, scales, order.tolist(), static=True)
        found = error_feedback(W[:, order], factor, strips, block=self.block)
        return found[:, order.argsort()].contiguous(), damping


def clear_dead(moments: Tensor) -> Tensor:
    """Which channels were always 0; their ``M_jj`` becomes 1, in place."""
    dead = moments.diagonal() == 0
    moments.diagonal()[dead] = 1.0
    return dead


class _Strips:
    """Each column under the scale of its group."""

    def __init__(self, weight: Tensor, scales: GroupScales, order: list[int], *, static: bool) -> None:
        self.scales, self.order = scales, order
        self.static: list[Found] | None = None
        if static:
            self.static = [scales.find(part) for part in torch.split(weight.float(), scales.length, dim=1)]
        self.found: Found | None = None

    def strip(self, first: int, values: Tensor, factor: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        found = [self._of(column, weight) for column in range(first, first + len(values))]
        return self.scales.round_with_feedback(values, factor, found)

    def _of(self, column: int, weight: Tensor) -> Found:
        length = self.scales.length
        if self.static is not None:
            return self.static[self.order[column] // length]
        if column % length == 0 or self.found is None:
            self.found = self.scales.find(weight[:, column : column + length].float())
        return self.found


def better_rows(
    rounded: Tensor, nearest: Tensor, weight: Tensor, moments: Tensor, scales: GroupScales
) -> tuple[Tensor, int]:
    """Rows of ``nearest`` in place of those that leave a larger output error, and how many."""
    # Of a symmetric M: a M a^T - b M b^T = (a - b) M (a + b)^T, one product for two.
    M, parts_of_rows = moments.double(), []
    for parts in zip(*(torch.split(w, ROWS_AT_ONCE) for w in (rounded, nearest, weight)), strict=True):
        a, b, w = (part.double() for part in parts)
        parts_of_rows.append(((a - b) @ M).mul_(a.add_(b).sub_(w, alpha=2)).sum(1))
    more = torch.cat(parts_of_rows)
    if scales.spec.strategy == "block":  # rows share scales: all or none
        more = more.sum().expand(len(weight))
    worse = more > 0
    return torch.where(worse[:, None], nearest, rounded), int(worse.sum())
