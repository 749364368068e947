"""Modules that fake-quantize tensors, built on the kernels."""

from qscale.quantizers.linear import QuantLinear
from qscale.quantizers.scales import QUANTIZERS, Absmax, make_quantizer

__all__ = ["QUANTIZERS", "Absmax", "QuantLinear", "make_quantizer"]
