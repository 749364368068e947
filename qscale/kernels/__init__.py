"""Ops on tensors, exact to the bit on every backend. Importing this package imports torch."""

from qscale.kernels.backends import Backend, backends, use_backend, use_isa
from qscale.kernels.hadamard import hadamard, rotate_fake_quant
from qscale.kernels.ops import fake_quant

__all__ = [
    "Backend",
    "backends",
    "fake_quant",
    "hadamard",
    "rotate_fake_quant",
    "use_backend",
    "use_isa",
]
