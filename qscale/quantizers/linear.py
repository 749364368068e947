"""The quantized linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class QuantLinear(nn.Linear):
    """``y = Qx(x) Qw(W)^T + b``: weight and input pass through their quantizers before the product.

    Weight groups run along ``in_features``; input groups along the features of each token. Both are
    fake-quantized in the forward pass only; gradients follow the quantizers. The quantized weight is not kept
    for backward but computed again there, except where it is random.

    In evaluation without gradients the quantized (and rotated) weight is kept from call to call, until the
    weight or a parameter of its quantizer changes or training goes on. A write through ``weight.data``, which
    torch does not count as a change, is seen after the next ``train()`` or ``eval()``.
    """

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
        if quantizer is None:
            return functional.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            weight = quantizer(self.weight) if self.training else self._kept(quantizer)
            return functional.linear(x, weight, self.bias)
        weight = quantizer(self.weight)
        if not (weight.requires_grad or x.requires_grad) or torch.compiler.is_compiling():
            return functional.linear(x, weight, self.bias)
        # Autocast rounds the operands of a product: they are not those that backward would make again.
        if not getattr(quantizer, "repeats", False) or torch.is_autocast_enabled(x.device.type):
            return functional.linear(x, weight, self.bias)
        again = (quantizer, self.weight)
        return _Product.apply(x, weight, self.bias, again)  # type: ignore[no-untyped-call,no-any-return]

    def _kept(self, quantizer: nn.Module) -> Tensor:
        """The quantized weight of evaluation; a change of what it is made of makes it anew."""
        tensors = (self.weight, *quantizer.parameters())
        key = tuple((t.data_ptr(), t._version) for t in tensors)
        if self._folded is None or self._folded[0] != key:
            self._folded = (key, quantizer(self.weight))
        return self._folded[1]

    def train(self, mode: bool = True) -> QuantLinear:
        """As every module; the kept weight is let go."""
        self._folded = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}


class _Product(torch.autograd.Function):
    """``x W^T + b`` with a W that backward makes again: of the quantized tensors only ``x`` is saved."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, again: tuple[nn.Module, Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x, again[1])  # torch checks that the plain weight did not change
        ctx.quantizer = again[0]
        ctx.state = [p._version for p in again[0].parameters()]
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, plain = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        if [p._version for p in ctx.quantizer.parameters()] != ctx.state:
            raise RuntimeError("a parameter of a weight quantizer was changed in place before backward")
        of_x = of_weight = of_bias = None
        flat = grad.reshape(-1, grad.shape[-1])
        if wants_x:
            of_x = (flat @ ctx.quantizer(plain)).view(x.shape)
        if wants_weight:
            of_weight = flat.t() @ x.reshape(flat.shape[0], -1)
        if wants_bias:
            of_bias = flat.sum(0)
        return of_x, of_weight, of_bias, None
