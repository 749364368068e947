"""From a spec to an op, without torch."""

from __future__ import annotations

import pytest

from qscale.formats import FORMATS, QuantSpec, call_for, has_kernel
from qscale.formats.calls import served

CALLS = {
    "int4:g128": ("fake_quant_int", (-7, 7, 7, 128, 0)),
    "int4:channel@chen2025": ("fake_quant_int", (-8, 7, 8, -1, 0)),
    "int8:g32:away": ("fake_quant_int", (-127, 127, 127, 32, 1)),
    "fp8_e4m3:g128": ("fake_quant_float", (3, -6, 448.0, 128, 0, 0)),
    "fp_e3m4:token:away": ("fake_quant_float", (4, -2, 31.0, -1, 0, 1)),
    "mxfp4": ("fake_quant_float", (1, 0, 6.0, 32, 1, 0)),
    "mxint8:rceil": ("fake_quant_float", (7, 1, 127 / 64, 32, 3, 0)),
    "nvfp4": ("fake_quant_nvfp4", (16, 1, 0)),
    "nvfp4:onelevel": ("fake_quant_nvfp4", (16, 0, 0)),
    "nf4:g64": ("fake_quant_codebook", (0, 64)),
    "fp4_bnb:g64": ("fake_quant_codebook", (1, 64)),
}


@pytest.mark.parametrize("text", CALLS)
def test_call_for_when_a_spec_has_a_kernel_then_op_and_numbers_are(text):
    call = call_for(QuantSpec.parse(text))
    assert (call.op, call.arguments, call.whole_tensor) == (*CALLS[text], False)


def test_call_for_when_the_tensor_shares_a_scale_then_it_is_one_axis():
    assert call_for(QuantSpec.parse("fp8_e5m2:tensor")).whole_tensor


@pytest.mark.parametrize("name", FORMATS)
def test_has_kernel_when_the_dialect_is_the_default_then_every_format_has_one(name):
    assert has_kernel(QuantSpec.parse(name if FORMATS[name].block else f"{name}:g32"))


@pytest.mark.parametrize("text", ["int4:g32:asym", "fp8_e4m3:g32:stochastic", "mxfp4:stochastic"])
def test_has_kernel_when_an_option_is_not_served_then_it_has_none(text):
    assert not has_kernel(QuantSpec.parse(text))


def test_served_when_read_then_it_names_each_dialect_with_its_formats():
    assert served().startswith("qscale: int2, int3")
    assert "chen2025: int2, int3, int4, int5, int6, int7, int8" in served()
