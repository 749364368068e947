"""Grids of ``2**b`` levels without a zero, half a step from it: QuEST and StatsQ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.quantizers.gates import ScaledRounding


class CentredGrid:
    """``y = (clamp(round(x / step + z), 0, 2**b - 1) - z) * step`` with ``z = 2**(b-1) - 1/2``.

    That is ``step * (k + 1/2)`` for k from ``-2**(b-1)`` to ``2**(b-1) - 1``: the integers with a real zero
    point that ``fake_quant`` has, which serve it here with steps of the caller's.
    """

    def __init__(self, spec: QuantSpec) -> None:
        asymmetric = replace(spec, dialect="qscale", symmetric=False, zero_point="float")
        self.rounding = ScaledRounding(asymmetric, "clipped", zero_point=2.0 ** (spec.num_bits - 1) - 0.5)

    def __call__(self, x: Tensor, step: Tensor) -> Tensor:
        """``x`` rounded with one ``step`` for each group, ``(..., groups)``.

        The gradient passes where the rounded code is in range: ``|x| <= 2**(b-1) * step``, to a rounding.
        """
        return self.rounding(x, step)


class OpenRounding(torch.autograd.Function):
    """The gradient passes everywhere; nothing is saved."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, step: Tensor, grid: CentredGrid) -> Tensor:
        return grid.rounding.rounded(x, step)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None
