"""From a spec to an op, without torch."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import specs

from qscale.formats import FORMATS, QuantSpec, call_for, has_kernel
from qscale.formats.calls import FAMILIES, served

# The element; then scale_kind, tensor_level, group_size, block_rows, rounding, seed.
CALLS = {
    "int4:g128": ("fake_quant_int", (-7, 7, 7, 0), (0, 0, 128, 1, 0, 0)),
    "int4:channel@chen2025": ("fake_quant_int", (-8, 7, 8, 0), (0, 0, -1, 1, 0, 0)),
    "int8:g32:away": ("fake_quant_int", (-127, 127, 127, 0), (0, 0, 32, 1, 1, 0)),
    "int4:g32:full": ("fake_quant_int", (-8, 7, 7.5, 0), (0, 0, 32, 1, 0, 0)),
    "int4:g32:asym": ("fake_quant_int", (0, 15, 7.5, 1), (0, 0, 32, 1, 0, 0)),
    "int2:token:asym:floatzero": ("fake_quant_int", (0, 3, 1.5, 2), (0, 0, -1, 1, 0, 0)),
    "int4:b64": ("fake_quant_int", (-7, 7, 7, 0), (0, 0, 64, 64, 0, 0)),
    "int4:g32:scale_fp16:stochastic": ("fake_quant_int", (-7, 7, 7, 0), (5, 0, 32, 1, 2, 0)),
    "int4:g32:scale_bf16": ("fake_quant_int", (-7, 7, 7, 0), (6, 0, 32, 1, 0, 0)),
    "int4:g32:scale_e4m3": ("fake_quant_int", (-7, 7, 7, 0), (7, 1, 32, 1, 0, 0)),
    "int4:g32:scale_e4m3:onelevel": ("fake_quant_int", (-7, 7, 7, 0), (7, 0, 32, 1, 0, 0)),
    "int4:g32:scale_input": ("fake_quant_int", (-7, 7, 7, 0), (8, 0, 32, 1, 0, 0)),
    "int4:g32:scale_e8m0": ("fake_quant_int", (-7, 7, 7, 0), (3, 0, 32, 1, 0, 0)),
    "fp8_e4m3:g128": ("fake_quant_float", (3, -6, 448.0), (0, 0, 128, 1, 0, 0)),
    "fp_e3m4:token:away": ("fake_quant_float", (4, -2, 31.0), (0, 0, -1, 1, 1, 0)),
    "fp8_e5m2:b128:scale_e8m0": ("fake_quant_float", (2, -14, 57344.0), (3, 0, 128, 128, 0, 0)),
    "mxfp4": ("fake_quant_float", (1, 0, 6.0), (1, 0, 32, 1, 0, 0)),
    "mxfp4:b32:ceil:stochastic": ("fake_quant_float", (1, 0, 6.0), (2, 0, 32, 32, 2, 0)),
    "mxint8:rceil": ("fake_quant_float", (7, 1, 127 / 64), (3, 0, 32, 1, 0, 0)),
    "mxint8:even": ("fake_quant_float", (7, 1, 127 / 64), (4, 0, 32, 1, 0, 0)),
    "nvfp4": ("fake_quant_float", (1, 0, 6.0), (7, 1, 16, 1, 0, 0)),
    "nvfp4:onelevel": ("fake_quant_float", (1, 0, 6.0), (7, 0, 16, 1, 0, 0)),
    "nvfp4:b16": ("fake_quant_float", (1, 0, 6.0), (7, 1, 16, 16, 0, 0)),
    "nf4:g64": ("fake_quant_codebook", (0,), (0, 0, 64, 1, 0, 0)),
    "fp4_bnb:g64": ("fake_quant_codebook", (1,), (0, 0, 64, 1, 0, 0)),
    "dint4:b8:scale_e4m3": ("fake_quant_codebook", (2,), (7, 1, 8, 8, 0, 0)),
}


@pytest.mark.parametrize("text", CALLS)
def test_call_for_when_a_spec_has_a_kernel_then_op_and_numbers_are(text):
    call = call_for(QuantSpec.parse(text))
    op, element, options = CALLS[text]
    assert (call.op, call.arguments) == (op, element + options)
    assert (call.whole_tensor, call.whole_groups) == (False, 1)


def test_call_for_when_the_tensor_shares_a_scale_then_it_is_one_axis():
    assert call_for(QuantSpec.parse("fp8_e5m2:tensor")).whole_tensor


@pytest.mark.parametrize("name", FORMATS)
def test_has_kernel_when_the_dialect_is_the_default_then_every_format_has_one(name):
    assert has_kernel(QuantSpec.parse(name if FORMATS[name].block else f"{name}:g32"))


@given(specs(dialects=["qscale", "chen2025"]))
def test_has_kernel_when_the_dialect_is_qscale_or_chen2025_then_every_spec_has_one(spec):
    call = call_for(spec)
    assert call.op in FAMILIES
    assert call.whole_tensor == (spec.strategy == "tensor")


@pytest.mark.parametrize("text", ["int4:g8@quest", "int4:channel@aten", "nf4:channel@bitsandbytes"])
def test_has_kernel_when_a_spec_is_not_served_then_it_has_none(text):
    assert not has_kernel(QuantSpec.parse(text))


def test_call_for_when_a_library_wants_whole_groups_then_the_call_says_so():
    assert call_for(QuantSpec.parse("int4:g32@torchao")).whole_groups == 32
    assert call_for(QuantSpec.parse("mxfp4@ocp")).whole_groups == 1


def test_served_when_read_then_it_names_each_dialect_with_its_formats():
    assert served().startswith("qscale: int2, int3")
    assert "chen2025: int2, int3, int4, int5, int6, int7, int8" in served()
