"""The implementations of tests/kernels, for comparisons with libraries."""

from kernels.conftest import implementation, quantize

__all__ = ["implementation", "quantize"]
