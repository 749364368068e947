"""Rounding with given scales, its gradients in a few passes of plain torch.

The op of the kernels has the same gradients, with sums in float64; this is several times faster on a CPU, as
it avoids masks of booleans too. Gradients of ``x`` have the op's bits; those of scales are float32 sums.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan, scale_shape
from qscale.kernels.ops import implementation

Gate = Literal["clipped", "lsq"]


class ScaledRounding:
    """``fake_quant`` with given scales and the gradient ``clipped`` or ``lsq``, planned once for a spec."""

    def __init__(self, spec: QuantSpec, gate: Gate, gradient_scale: float = 1.0) -> None:
        self.spec, self.text, self.gate, self.gradient_scale = spec, str(spec), gate, gradient_scale
        self.op, self.arguments, _, _ = plan(self.text)
        ends: tuple[int, ...] = self.arguments[:2] if self.op == "fake_quant_int" else (0, 0)
        self.low, self.high = ends
        # What is inside includes the ends, and the gradient that is used here does not.
        self.gate_ends = (_below(float(self.low)), -_below(-float(self.high)))

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """``x`` rounded with ``scale``, whose shape expands to ``(..., groups)``."""
        if self.op != "fake_quant_int" or x.shape[-1] % self.spec.group_length(x.shape[-1]) or not x.numel():
            return fake_quant(
                x, self.text, scale=scale, gradient=self.gate, gradient_scale=self.gradient_scale
            )
        return _Scaled.apply(x, scale, self)  # type: ignore[no-untyped-call,no-any-return]


class _Scaled(torch.autograd.Function):
    """Saves ``x`` and the scales; codes are computed again for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, plan: ScaledRounding) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.plan = plan
        wanted = scale_shape(x.shape, *plan.arguments[-4:-2])
        each = scale.float().expand(wanted).reshape(-1).contiguous()
        run = implementation(plan.op, "_given", on_reference("fake_quant", x))
        return run(x, each, None, *plan.arguments)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        plan: ScaledRounding = ctx.plan
        length = plan.spec.group_length(x.shape[-1])
        groups = (*x.shape[:-1], x.shape[-1] // length, length)
        divisor = scale.float().unsqueeze(-1)
        divisor = divisor.masked_fill(divisor == 0, 1.0)  # as in the forward pass: a group of zeros
        upstream = grad.float().reshape(groups)
        ratio = x.float().reshape(groups) / divisor
        code = ratio.round()
        place = code if plan.gate == "clipped" else ratio
        of_x = torch.ops.aten.hardtanh_backward(upstream, place, *plan.gate_ends)
        of_scale = None
        if ctx.needs_input_grad[1]:
            products = code.clamp_(plan.low, plan.high).mul_(upstream).addcmul_(of_x, ratio, value=-1.0)
            if scale.dim() == 1:  # one for all tokens: they are added up first
                of_scale = products.view(-1, *groups[-2:]).sum(0).sum(-1)
            else:
                of_scale = products.sum(-1)
            of_scale = (of_scale.sum_to_size(scale.shape) * plan.gradient_scale).to(scale.dtype)
        return of_x.view(x.shape).to(x.dtype), of_scale, None


def _below(value: float) -> float:
    """The float32 below a small number."""
    return float(torch.nextafter(torch.tensor(value), torch.tensor(-math.inf)))
