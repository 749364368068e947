"""Dialect ``torchao`` against the library: integers, float8, MX by every rule, and NVFP4."""

from __future__ import annotations

import pytest
import torch
from oracle.installed import assert_follows, dtypes, library

from qscale.kernels.dialects import Quantized

VERSION = "0.18.0"
MX = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp4": torch.float4_e2m1fn_x2,
}
#: What the library takes for MX and NVFP4.
no_float16 = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def torchao(module: str):
    return library("torchao", VERSION, f"torchao.{module}")


@dtypes
@pytest.mark.parametrize("span", ["g32", "g128", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_integers_exact_when_torchao_is_installed_then_equal_its_fake_quantizer(bits, span, dtype):
    qat = torchao("quantization.qat")
    fake_quantizer = torchao("quantization.qat.fake_quantizer").IntxFakeQuantizer
    groups = {"granularity": "per_channel"} if span == "channel" else {"group_size": int(span[1:])}
    module = fake_quantizer(qat.IntxFakeQuantizeConfig(getattr(torch, f"int{bits}"), **groups))

    def theirs(x):
        y = module(x)
        return Quantized(y=y, scale=module.scale)

    assert_follows(f"int{bits}:{span}@torchao", dtype, theirs, besides=("scale",))


@dtypes
@pytest.mark.parametrize("bits", [4, 8])
def test_asymmetric_tokens_exact_when_torchao_is_installed_then_equal_its_fake_quantizer(bits, dtype):
    qat = torchao("quantization.qat")
    fake_quantizer = torchao("quantization.qat.fake_quantizer").IntxFakeQuantizer
    config = qat.IntxFakeQuantizeConfig(getattr(torch, f"int{bits}"), "per_token", is_symmetric=False)
    assert_follows(f"int{bits}:token:asym@torchao", dtype, fake_quantizer(config))


@dtypes
@pytest.mark.parametrize("option", ["asym", "noclip"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_affine_integers_exact_when_torchao_is_installed_then_equal_its_primitives(bits, option, dtype):
    primitives = torchao("quantization.quant_primitives")
    kinds = primitives.MappingType
    mapping = kinds.ASYMMETRIC if option == "asym" else kinds.SYMMETRIC_NO_CLIPPING_ERR
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def theirs(x):
        block = (1, 32)
        scale, zero = primitives.choose_qparams_affine(x, mapping, block, torch.int8, low, high)
        codes = primitives.quantize_affine(x, block, scale, zero, torch.int8, low, high)
        y = primitives.dequantize_affine(codes, block, scale, zero, torch.int8, low, high, output_dtype=dtype)
        return Quantized(y=y, scale=scale, codes=codes)

    # A code of NaN is what the CPU makes of the cast.
    spec = f"int{bits}:g32:{option}@torchao"
    assert_follows(spec, dtype, theirs, besides=("codes", "scale"), leave_out=("not finite",))


@dtypes
@pytest.mark.parametrize("span", ["g128", "g32", "token", "tensor"])
@pytest.mark.parametrize("element", ["e4m3fn", "e5m2"])
def test_float8_exact_when_torchao_is_installed_then_equals_it(element, span, dtype):
    primitives = torchao("quantization.quant_primitives")
    float8 = getattr(torch, f"float8_{element}")

    def theirs(x):
        block = {"token": (1, x.shape[1]), "tensor": tuple(x.shape)}.get(span) or (1, int(span[1:]))
        scale = primitives._choose_scale_float8(x, block, float8)
        codes = primitives._quantize_affine_float8(x, scale, float8)
        return Quantized(y=primitives._dequantize_affine_float8(codes, scale, dtype), scale=scale)

    assert_follows(f"fp8_{element[:4]}:{span}@torchao", dtype, theirs, besides=("scale",))


@no_float16
@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "even"])
@pytest.mark.parametrize("name", MX)
def test_mx_exact_when_torchao_is_installed_then_equals_it_by_every_rule(name, rule, dtype):
    tensors = torchao("prototype.mx_formats.mx_tensor")
    mode = getattr(tensors.ScaleCalculationMode, rule.upper())

    def theirs(x):
        found = tensors.MXTensor.to_mx(x, MX[name], 32, mode)
        return Quantized(y=found.dequantize(dtype), scale=found.scale)

    assert_follows(f"{name}:{rule}@torchao", dtype, theirs, besides=("scale",))


@no_float16
@pytest.mark.parametrize("levels", ["", ":onelevel"])
def test_nvfp4_exact_when_torchao_is_installed_then_equals_it(levels, dtype):
    tensors = torchao("prototype.mx_formats.nvfp4_tensor")

    def theirs(x):
        outer = None if levels else tensors.per_tensor_amax_to_scale(x.abs().max())
        return tensors.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=outer).dequantize(dtype)

    assert_follows(f"nvfp4{levels}@torchao", dtype, theirs)
