"""Ops on tensors, exact to the bit on every backend. Importing this package imports torch."""

from qscale.kernels.backends import Backend, backends, use_backend, use_isa
from qscale.kernels.fake_quantize import fake_quant
from qscale.kernels.hadamard import hadamard, rotate_fake_quant
from qscale.kernels.packing import QuantizedTensor, dequantize, quantize

__all__ = [
    "Backend",
    "QuantizedTensor",
    "backends",
    "dequantize",
    "fake_quant",
    "hadamard",
    "quantize",
    "rotate_fake_quant",
    "use_backend",
    "use_isa",
]
