"""Rounding with given scales, differentiated: one op each way."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qscale.formats import QuantSpec
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan, scale_shape
from qscale.kernels.ops import implementation
from qscale.kernels.reference import GATES
from qscale.quantizers.again import made_again, maker_of

Gate = Literal["clipped", "lsq"]


class ScaledRounding:
    """``fake_quant`` with given scales and the gradient ``clipped`` or ``lsq``, planned once for a spec.

    ``zero_point`` is that of all groups, for specs with ``asym``; it has no gradient.
    """

    def __init__(
        self,
        spec: QuantSpec,
        gate: Gate,
        gradient_scale: float = 1.0,
        zero_point: float | None = None,
    ) -> None:
        self.gate, self.gradient_scale, self.zero_point = GATES[gate], gradient_scale, zero_point
        self.op, self.arguments, _, _ = plan(str(spec))

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """``x`` rounded with ``scale``, whose shape expands to ``(..., groups)``."""
        made_by = None if torch.compiler.is_compiling() else maker_of(x)
        return _Scaled.apply(x, scale, self, made_by)  # type: ignore[no-untyped-call,no-any-return]

    def each(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of every group, as the ops take them."""
        wanted = scale_shape(x.shape, *self.arguments[-4:-2])
        scales = scale if scale.dtype == torch.float32 else scale.float()
        if scales.shape != wanted or not scales.is_contiguous():
            scales = scales.expand(wanted).contiguous()
        zeros = None if self.zero_point is None else torch.full_like(scales, self.zero_point)
        return scales, zeros

    def rounded(self, x: Tensor, scale: Tensor) -> Tensor:
        """Without a gradient."""
        run = implementation(self.op, "_given", on_reference("fake_quant", x))
        return run(x, *self.each(x, scale), *self.arguments)  # type: ignore[no-any-return]


class _Scaled(torch.autograd.Function):
    """Saves ``x``, if it cannot be made again, and the scales; can make the result again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, plan: ScaledRounding, made_by: Any) -> Tensor:
        ctx.save_for_backward(x if made_by is None else None, scale)
        ctx.plan, ctx.made_by, ctx.made, ctx.make_again = plan, made_by, None, _round_again
        return plan.rounded(x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.made = None
        saved, scale = ctx.saved_tensors
        x, plan = made_again(saved, ctx.made_by), ctx.plan
        run = implementation(plan.op, "_gradient", on_reference("fake_quant", x))
        of_x, sums, _ = run(grad, x, *plan.each(x, scale), plan.gate, 0.0, *plan.arguments)
        of_scale = None
        if ctx.needs_input_grad[1]:
            sums = sums.view(scale_shape(x.shape, *plan.arguments[-4:-2]))
            if sums.shape != scale.shape:
                sums = sums.sum_to_size(scale.shape)
            of_scale = sums.mul_(plan.gradient_scale).to(scale.dtype)
        return of_x, of_scale, None, None


def _round_again(node: Any) -> Tensor:
    if node.made is None:
        saved, scale = node.saved_tensors
        node.made = node.plan.rounded(made_again(saved, node.made_by), scale)
    made: Tensor = node.made
    return made
