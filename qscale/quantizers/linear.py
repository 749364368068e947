"""The quantized linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qscale.quantizers.again import made_again, maker_of


class QuantLinear(nn.Linear):
    """``y = Qx(x) Qw(W)^T + b``: weight and input pass through their quantizers before the product.

    Weight groups run along ``in_features``; input groups along the features of each token. Both are
    fake-quantized in the forward pass only; gradients follow the quantizers. The quantized weight is not kept
    for backward but computed again there, except where it is random; nor is the quantized input where its
    quantizer keeps the plain one, as those with a range or a learned scale do.

    In evaluation without gradients the quantized (and rotated) weight is kept from call to call, until the
    weight or a parameter of its quantizer changes or training goes on. A write through ``weight.data``, which
    torch does not count as a change, is seen after the next ``train()`` or ``eval()``.
    """

    #: Whether evaluation keeps the quantized weight; not where weights are gathered for one pass at a time.
    keeps_folded = True
    weight_quantizer: nn.Module | None
    input_quantizer: nn.Module | None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, weight_quantizer: nn.Module | None, input_quantizer: nn.Module | None
    ) -> QuantLinear:
        """Quantize an existing layer; its parameters are shared, not copied, and keep their names."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer, layer.input_quantizer = weight_quantizer, input_quantizer
        layer.training = linear.training
        layer._folded = None
        return layer

    _folded: tuple[tuple[Any, ...], Tensor] | None

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        quantizer = self.weight_quantizer
        if quantizer is not None and not (torch.is_grad_enabled() or self.training):
            return functional.linear(x, self._kept(quantizer), self.bias)
        weight = self.weight if quantizer is None else quantizer(self.weight)
        if torch.compiler.is_compiling() or not (weight.requires_grad or x.requires_grad):
            return functional.linear(x, weight, self.bias)
        if torch.is_autocast_enabled(
            x.device.type
        ):  # which rounds operands: backward would make others again
            return functional.linear(x, weight, self.bias)
        made_by = maker_of(x), maker_of(weight)
        again = quantizer if made_by[1] is None and getattr(quantizer, "repeats", False) else None
        if made_by == (None, None) and again is None:
            return functional.linear(x, weight, self.bias)
        call = (x, weight, self.bias, *made_by, again, self.weight)
        return _Product.apply(*call)  # type: ignore[no-untyped-call,no-any-return]

    def _kept(self, quantizer: nn.Module) -> Tensor:
        """The quantized weight of evaluation; a change of what it is made of makes it anew."""
        tensors = (self.weight, *quantizer.parameters())
        key = tuple((t.data_ptr(), t._version) for t in tensors)
        if self._folded is not None and self._folded[0] == key:
            return self._folded[1]
        made: Tensor = quantizer(self.weight)
        self._folded = (key, made) if self.keeps_folded else None
        return made

    def train(self, mode: bool = True) -> QuantLinear:
        """As every module; the kept weight is let go."""
        self._folded = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}


class _Product(torch.autograd.Function):
    """``x W^T + b``. An operand that can be made again is not saved: by its node, W also by ``quantizer``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x_made_by: Any,
        weight_made_by: Any,
        quantizer: nn.Module | None,
        plain: Tensor,
    ) -> Tensor:
        ctx.made_by, ctx.quantizer = (x_made_by, weight_made_by), quantizer
        ctx.state = _versions(quantizer)
        kept = weight if quantizer is None else plain  # torch checks that it does not change
        ctx.save_for_backward(x if x_made_by is None else None, kept if weight_made_by is None else None)
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (x_made_by, weight_made_by) = ctx.saved_tensors, ctx.made_by
        if _versions(ctx.quantizer) != ctx.state:
            raise RuntimeError("a parameter of a weight quantizer was changed in place before backward")
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        flat = grad.reshape(-1, grad.shape[-1])
        if wants_x:
            made = made_again(weight, weight_made_by) if ctx.quantizer is None else ctx.quantizer(weight)
            of_x = (flat @ made).view(*grad.shape[:-1], made.shape[1])
        if wants_weight:
            of_weight = flat.t() @ made_again(x, x_made_by).reshape(flat.shape[0], -1)
        if wants_bias:
            of_bias = flat.sum(0)
        return of_x, of_weight, of_bias, *[None] * 4


def _versions(quantizer: nn.Module | None) -> list[int]:
    return [] if quantizer is None else [p._version for p in quantizer.parameters()]
