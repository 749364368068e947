"""The quantized linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qscale.quantizers.gates import make_again, maker_of


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
        if not torch.is_grad_enabled():
            return functional.linear(x, self._weight(), self.bias)
        made_by = None if torch.compiler.is_compiling() else maker_of(x)
        repeats = getattr(quantizer, "repeats", False)
        if torch.compiler.is_compiling() or (made_by is None and not repeats):
            return functional.linear(x, self._weight(), self.bias)
        if quantizer is None or not repeats:
            return _Product.apply(x, self._weight(), self.bias, made_by, None)  # type: ignore[no-untyped-call,no-any-return]
        call = (x, self.weight, self.bias, made_by, quantizer, *quantizer.parameters())
        return _Product.apply(*call)  # type: ignore[no-untyped-call,no-any-return]

    def _weight(self) -> Tensor:
        """As the product takes it."""
        if self.weight_quantizer is None:
            return self.weight
        if self.training or torch.is_grad_enabled():
            return self.weight_quantizer(self.weight)  # type: ignore[no-any-return]
        return self._kept(self.weight_quantizer)

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
    """``x Q(W)^T + b``, of whose quantized operands backward makes again what can be made again.

    Saved are ``W``, the parameters of ``Q``, and ``x`` where no ``made_by`` is there to make it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        made_by: Any,
        quantizer: nn.Module | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.made_by, ctx.quantizer = made_by, quantizer
        quantized = weight if quantizer is None else quantizer(weight)  # may set its parameters
        ctx.save_for_backward(x if made_by is None else None, weight, *parameters)
        return functional.linear(x, quantized, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors  # torch checks that they have not changed
        wants_x, wants_weight, wants_bias, _, _, *wants_parameters = ctx.needs_input_grad
        leaves = [weight.detach().requires_grad_(wants_weight), *parameters]
        wanted = [wants_weight, *wants_parameters]
        quantized = weight
        if ctx.quantizer is not None:
            with torch.set_grad_enabled(any(wanted)):
                quantized = ctx.quantizer(leaves[0])
        of_x = of_bias = None
        flat = grad.reshape(-1, grad.shape[-1])
        if wants_x:
            of_x = (flat @ quantized.detach()).view(*grad.shape[:-1], weight.shape[1])
        of_leaves: list[Tensor | None] = [None] * len(leaves)
        if any(wanted):
            x = make_again(ctx.made_by) if x is None else x
            of_leaves[0] = flat.t() @ x.reshape(flat.shape[0], -1)
            if ctx.quantizer is not None:
                asked = [leaf for leaf, wants in zip(leaves, wanted, strict=True) if wants]
                found = iter(torch.autograd.grad(quantized, asked, of_leaves[0]))
                of_leaves = [next(found) if wants else None for wants in wanted]
        if wants_bias:
            of_bias = flat.sum(0)
        return of_x, of_leaves[0], of_bias, None, None, *of_leaves[1:]
