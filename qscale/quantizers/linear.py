"""The quantized linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class QuantLinear(nn.Linear):
    """``y = Qx(x) Qw(W)^T + b``: weight and input pass through their quantizers before the product.

    Weight groups run along ``in_features``; input groups along the features of each token. Both are
    fake-quantized in the forward pass only; gradients follow the quantizers.
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
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        weight = self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        return functional.linear(x, weight, self.bias)
