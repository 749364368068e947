"""Dialect ``compressed_tensors`` against the library: integers, float8, MX and NVFP4."""

from __future__ import annotations

import pytest
import torch
from oracle.installed import assert_follows, dtypes, library

from qscale.kernels.dialects import Quantized

VERSION = "0.20.0"


def compressed(module: str):
    return library("compressed-tensors", VERSION, f"compressed_tensors.{module}")


def fake_quantize(x, **arguments):
    helpers = compressed("quantization.utils.helpers")
    forward = compressed("quantization.lifecycle.forward")
    args = compressed("quantization").QuantizationArgs(
        symmetric=arguments.pop("symmetric", True), **arguments
    )
    outer = helpers.generate_gparam(*torch.aminmax(x)) if args.strategy == "tensor_group" else None
    if args.strategy == "channel":
        scale, zero = helpers.calculate_qparams(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), args)
    else:
        scale, zero = helpers.compute_dynamic_scales_and_zp(x, args, torch.nn.Module(), global_scale=outer)
    return Quantized(y=forward.fake_quantize(x, scale, zero, args, global_scale=outer), scale=scale)


@dtypes
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("span", ["g32", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_exact_when_compressed_tensors_is_installed_then_equal_it(bits, span, symmetric, dtype):
    compressed("quantization")
    groups = {"strategy": "channel"} if span == "channel" else {"strategy": "group", "group_size": 32}
    spec = f"int{bits}:{span}{'' if symmetric else ':asym'}@compressed_tensors"
    assert_follows(
        spec,
        dtype,
        lambda x: fake_quantize(x, num_bits=bits, type="int", symmetric=symmetric, **groups),
        besides=("scale",),
    )


@dtypes
@pytest.mark.parametrize("span", ["g32", "channel"])
def test_float8_exact_when_compressed_tensors_is_installed_then_equals_it(span, dtype):
    compressed("quantization")
    groups = {"strategy": "channel"} if span == "channel" else {"strategy": "group", "group_size": 32}
    assert_follows(
        f"fp8_e4m3:{span}@compressed_tensors",
        dtype,
        lambda x: fake_quantize(x, num_bits=8, type="float", **groups),
        besides=("scale",),
    )


@dtypes
@pytest.mark.parametrize(("name", "bits"), [("mxfp4", 4), ("mxfp6_e2m3", 6), ("mxfp8_e4m3", 8)])
def test_mx_exact_when_compressed_tensors_is_installed_then_equals_it(name, bits, dtype):
    compressed("quantization")
    options = {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
    # The library masks the bits of a NaN, and which those are depends on torch and the CPU.
    assert_follows(
        f"{name}@compressed_tensors",
        dtype,
        lambda x: fake_quantize(x, num_bits=bits, type="float", **options),
        leave_out=("not finite",),
    )


@dtypes
def test_nvfp4_exact_when_compressed_tensors_is_installed_then_equals_it(dtype):
    compressed("quantization")
    options = {"strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn}
    assert_follows(
        "nvfp4@compressed_tensors", dtype, lambda x: fake_quantize(x, num_bits=4, type="float", **options)
    )
