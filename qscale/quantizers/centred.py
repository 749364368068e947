"""Grids of ``2**b`` levels without a zero, half a step from it: QuEST and StatsQ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qscale.formats import QuantSpec
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan
from qscale.kernels.ops import implementation

#: Above 1 by so little that only 1 itself lies between: the ends of a range are inside.
_INSIDE = 1 + 2.0**-23


class CentredGrid:
    """``y = (clamp(round(x / step + z), 0, 2**b - 1) - z) * step`` with ``z = 2**(b-1) - 1/2``.

    That is ``step * (k + 1/2)`` for k from ``-2**(b-1)`` to ``2**(b-1) - 1``: the integers with a real zero
    point that ``fake_quant`` has, which serve it here with steps of the caller's.
    """

    def __init__(self, spec: QuantSpec) -> None:
        asymmetric = replace(spec, dialect="qscale", symmetric=False, zero_point="float")
        self.op, self.arguments, _, _ = plan(str(asymmetric))
        self.zero = 2.0 ** (spec.num_bits - 1) - 0.5

    def __call__(self, x: Tensor, step: Tensor) -> Tensor:
        """``x`` rounded with one ``step`` for each group, ``(..., groups)``; no gradient."""
        run = implementation(self.op, "_given", on_reference("fake_quant", x))
        step = step.reshape(-1)
        return run(x, step, torch.full_like(step, self.zero), *self.arguments)  # type: ignore[no-any-return]


class OpenRounding(torch.autograd.Function):
    """The gradient passes everywhere; nothing is saved."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, step: Tensor, grid: CentredGrid) -> Tensor:
        return grid(x, step)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class TrustedRounding(torch.autograd.Function):
    """The gradient passes where ``|x|`` is at most its group's limit, to a rounding; both are saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, limit: Tensor, length: int, grid: CentredGrid) -> Tensor:
        ctx.save_for_backward(x, limit)
        ctx.length = length
        return grid(x, step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, limit = ctx.saved_tensors
        axis, length = x.shape[-1], ctx.length
        wide = x.float()
        if axis % length:
            ratio = wide / limit.repeat_interleave(length, -1)[..., :axis]
        else:
            ratio = (wide.unflatten(-1, (-1, length)) / limit.unsqueeze(-1)).view(x.shape)
        # One pass without a mask of booleans, which takes ten times as long. NaN, of zeros, passes.
        of_x = torch.ops.aten.hardtanh_backward(grad.float(), ratio, -_INSIDE, _INSIDE)
        return of_x.to(x.dtype), *[None] * 4
