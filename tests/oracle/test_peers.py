"""Dialects against the libraries that are installed; the vectors of test_golden.py need none of them."""

from __future__ import annotations

import importlib.metadata
import warnings

import numpy as np
import pytest
import torch
from bits import assert_same_bits

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.kernels.dialects import bitsandbytes, casts, elements, find

DTYPES = [torch.float32, torch.bfloat16]


def library(name, version):
    """The module, or a skip: absent, or another version than the dialect names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(name, exc_type=ImportError)
    found = importlib.metadata.version(name)
    if found != version:
        pytest.skip(f"{name} {found} is here; the dialect is {version}")
    return module


def drawn(dtype, seed=0):
    """Groups of many magnitudes, with zeros and a group of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 256, generator=generator) * torch.logspace(-4, 4, 16).unsqueeze(-1)
    x[3, :64] = 0.0
    x[5, ::7] = -0.0
    return x.to(dtype)


@pytest.mark.parametrize("element", sorted({"e4m3fn", "e5m2", "e4m3", "e4m3fnuz", "e5m2fnuz"}))
def test_float8_cast_matches_ml_dtypes_on_every_bfloat16_exact(element):
    ml_dtypes = library("ml_dtypes", "0.6.0")
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).float()
    with np.errstate(all="ignore"):
        theirs = x.numpy().astype(getattr(ml_dtypes, f"float8_{element}")).view(np.uint8)
    mine = casts.ml_dtypes_cast(x, elements.ELEMENTS[element])
    assert_same_bits(mine[~x.isnan()], torch.from_numpy(theirs.copy())[~x.isnan()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_integers_match_torchao_exact(bits, dtype):
    library("torchao", "0.18.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.qat import IntxFakeQuantizeConfig
        from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

        config = IntxFakeQuantizeConfig(getattr(torch, f"int{bits}"), group_size=32)
        x = drawn(dtype)
        theirs = IntxFakeQuantizer(config)(x)
    assert_same_bits(fake_quant(x, f"int{bits}:g32@torchao"), theirs.detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "even"])
def test_mxfp8_matches_torchao_exact(rule, dtype):
    library("torchao", "0.18.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode

        x = drawn(dtype)
        mode = getattr(ScaleCalculationMode, rule.upper())
        theirs = MXTensor.to_mx(x, torch.float8_e4m3fn, 32, mode)
        y, scale = theirs.dequantize(dtype), theirs.scale
    mine = find(QuantSpec.parse(f"mxfp8_e4m3:{rule}@torchao"))(x)
    assert_same_bits(mine.y, y)
    assert_same_bits(mine.scale.view(torch.uint8), scale.view(torch.uint8).reshape(mine.scale.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nvfp4_matches_torchao_exact(dtype):
    library("torchao", "0.18.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

        x = drawn(dtype)
        theirs = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=per_tensor_amax_to_scale(x.abs().max()))
        y = theirs.dequantize(dtype)
    assert_same_bits(fake_quant(x, "nvfp4@torchao"), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_codebooks_match_bitsandbytes_exact(name, dtype):
    library("bitsandbytes", "0.50.2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bitsandbytes import functional

        x = drawn(dtype)
        codes, state = functional.quantize_4bit(x, blocksize=64, quant_type=name, compress_statistics=False)
        y = functional.dequantize_4bit(codes, state)
    table = {"nf4": bitsandbytes.NF4, "fp4": bitsandbytes.FP4}[name]
    mine = bitsandbytes.quantize_4bit(x, table, 64)
    assert_same_bits(mine.scale, state.absmax)
    assert_same_bits(mine.y, y)
