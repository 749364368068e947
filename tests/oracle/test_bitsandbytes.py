"""Dialect ``bitsandbytes`` against the library on a CPU: NF4 and its own FP4."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits
from oracle.installed import assert_follows, dtypes, library

from qscale.kernels import fake_quant
from qscale.kernels.dialects import Quantized

VERSION = "0.50.2"


def functions():
    return library("bitsandbytes", VERSION, "bitsandbytes.functional")


def quantize_4bit(x, name, block):
    library_ = functions()
    codes, state = library_.quantize_4bit(x, blocksize=block, quant_type=name, compress_statistics=False)
    return Quantized(y=library_.dequantize_4bit(codes, state), scale=state.absmax)


@dtypes
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_codebook_exact_when_bitsandbytes_is_installed_then_equals_it(name, block, dtype):
    functions()
    spec = f"{name.replace('fp4', 'fp4_bnb')}:g{block}@bitsandbytes"
    # What depends on the CPU: the code of a NaN, and whether the cast to bfloat16 keeps subnormal values.
    leave_out = ("not finite", "tiny") if dtype == torch.bfloat16 else ("not finite",)
    assert_follows(
        spec, dtype, lambda x: quantize_4bit(x, name, block), besides=("scale",), leave_out=leave_out
    )


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_codebook_exact_when_the_last_block_is_short_then_equals_bitsandbytes(name):
    functions()
    x = torch.randn(1, 200, generator=torch.Generator().manual_seed(1))
    spec = f"{name.replace('fp4', 'fp4_bnb')}:g64@bitsandbytes"
    assert_same_bits(fake_quant(x, spec), quantize_4bit(x, name, 64).y)
