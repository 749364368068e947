"""The implementations of tests/kernels, for comparisons with libraries."""

from kernels.conftest import quantize

__all__ = ["quantize"]
