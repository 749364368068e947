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
    #: The spec, as text, of a weight that was rounded for good and has no quantizer any more.
    weight_spec: str | None = None

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
        by_hand = not torch.compiler.is_compiling() and torch.is_grad_enabled()
        if by_hand and torch.is_autocast_enabled(x.device.type):
            by_hand = False  # it rounds operands: backward would make others again
        if by_hand and quantizer is not None and quantizer.repeats:
            call = (x, self.weight, self.bias, quantizer.learned, maker_of(x), quantizer)
            return _Product.apply(*call)  # type: ignore[no-untyped-call,no-any-return]
        weight = self.weight if quantizer is None else quantizer(self.weight)
        if by_hand and (maker := maker_of(x)) is not None:
            return _Product.apply(x, weight, self.bias, None, maker, None)  # type: ignore[no-untyped-call,no-any-return]
        return functional.linear(x, weight, self.bias)

    def _kept(self, quantizer: nn.Module) -> Tensor:
        """The quantized weight of evaluation; a change of what it is made of makes it anew."""
        tensors = (self.weight, *quantizer.parameters())
        key = tuple((t.data_ptr(), t._version) for t in tensors)
        if self._folded is not None and self._folded[0] == key:
            return self._folded[1]
        made: Tensor = quantizer(self.weight)
        self._folded = (key, made) if self.keeps_folded else None
        return made

    @torch.no_grad()
    def fix(self, weight: Tensor, spec: str | None) -> None:
        """Take a weight that was rounded for good, in the quantizer's basis; the quantizer is gone then."""
        self.weight.copy_(weight)
        self.weight_quantizer, self.weight_spec = None, spec
        self._folded = None

    def train(self, mode: bool = True) -> QuantLinear:
        """As every module; the kept weight is let go."""
        self._folded = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}


class _Product(torch.autograd.Function):
    """``x Q(W)^T + b``, W quantized here or before. Of what can be made again nothing is saved."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        learned: Tensor | None,
        x_made_by: Any,
        quantizer: Any,
    ) -> Tensor:
        made, scales = weight, ()
        if quantizer is not None:
            made, scales = quantizer.rounded(quantizer.basis(weight))
        ctx.save_for_backward(x if x_made_by is None else None, weight, learned, *scales)
        ctx.x_made_by, ctx.quantizer = x_made_by, quantizer
        return functional.linear(x, made, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _, *scales = ctx.saved_tensors  # torch checks that the parameter has not changed
        quantizer = ctx.quantizer
        wants_x, wants_weight, wants_bias, wants_learned, *_ = ctx.needs_input_grad
        of_x = of_weight = of_bias = of_learned = None
        flat = grad.reshape(-1, grad.shape[-1])
        basis = weight if quantizer is None else quantizer.basis(weight)
        if wants_x:
            made = basis if quantizer is None else quantizer.again(basis, scales)
            of_x = (flat @ made).view(*grad.shape[:-1], made.shape[1])
        if wants_weight or wants_learned:
            of_weight = flat.t() @ made_again(x, ctx.x_made_by).reshape(flat.shape[0], -1)
            if quantizer is not None:
                of_weight, of_learned = quantizer.gradient(of_weight, basis, scales)
                of_weight = quantizer.from_basis(of_weight)
        if wants_bias:
            of_bias = flat.sum(0)
        return of_x, of_weight, of_bias, of_learned, None, None
