"""Rounding with given scales, differentiated: one op each way, and the result made again where it is wanted."""

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
        return _Scaled.apply(x, scale, self)  # type: ignore[no-untyped-call,no-any-return]

    def each(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of every group, as the ops take them."""
        wanted = scale_shape(x.shape, *self.arguments[-4:-2])
        scales = scale.float().expand(wanted).reshape(-1).contiguous()
        zeros = None if self.zero_point is None else torch.full_like(scales, self.zero_point)
        return scales, zeros

    def rounded(self, x: Tensor, scale: Tensor) -> Tensor:
        """Without a gradient."""
        run = implementation(self.op, "_given", on_reference("fake_quant", x))
        return run(x, *self.each(x, scale), *self.arguments)  # type: ignore[no-any-return]


class _Scaled(torch.autograd.Function):
    """Saves ``x`` and the scales. Its node can make the result again: :func:`maker_of`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, plan: ScaledRounding) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.plan, ctx.made, ctx.again = plan, None, make_again
        return plan.rounded(x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.made = None  # all that took the result have had their turn
        x, scale = ctx.saved_tensors
        plan: ScaledRounding = ctx.plan
        run = implementation(plan.op, "_gradient", on_reference("fake_quant", x))
        of_x, sums, _ = run(grad, x, *plan.each(x, scale), plan.gate, 0.0, *plan.arguments)
        of_scale = None
        if ctx.needs_input_grad[1]:
            sums = sums.view(scale_shape(x.shape, *plan.arguments[-4:-2])).sum_to_size(scale.shape)
            of_scale = (sums * plan.gradient_scale).to(scale.dtype)
        return of_x, of_scale, None


def make_again(node: Any) -> Tensor:
    """The tensor that a node of :func:`maker_of` gave, the same bits; in the backward pass alone.

    Until the gradient of that tensor is complete, it is kept for the others that need it.
    """
    if node.made is None:
        x, scale = node.saved_tensors
        node.made = node.plan.rounded(x, scale)
    made: Tensor = node.made
    return made


def maker_of(y: Tensor) -> Any:
    """The node that gave ``y``, if it can do so again from what it has saved, or None.

    What needs ``y`` in backward may keep the node in its place, and so one tensor less.
    """
    return y.grad_fn if getattr(y.grad_fn, "again", None) is make_again else None
