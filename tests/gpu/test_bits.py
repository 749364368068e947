"""Every op on the device against the CPU, to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from bits import assert_same_bits
from devices import DTYPES, SHAPES, assert_as_on_cpu, drawn, laid_out, needs_gpu, on_device
from golden_cases import cases

from qscale.errors import SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, call_for
from qscale.formats.calls import EMULATED
from qscale.kernels import dequantize, fake_quant, hadamard, quantize, rotate_fake_quant

pytestmark = needs_gpu

SPECS = (
    *(
        "int4:g32",
        "int4:g7",
        "int8:channel",
        "int4:tensor",
        "int4:b16",
        "int4:g64:asym",
        "int4:g128:asym:floatzero",
    ),
    *("int4:g32:full", "int4:g128:away", "int4:g128:stochastic", "fp8_e4m3:g128", "fp8_e5m2:channel"),
    *("fp4_e2m1:g32", "fp6_e3m2:g32", "mxfp8_e4m3", "mxfp4", "mxfp4:rceil", "mxfp4:even", "mxint8", "nvfp4"),
    *("nf4:g64", "fp4_bnb:g64", "int4:g16:scale_e4m3", "int4:g64:scale_fp16"),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", SPECS)
def test_values_when_on_the_device_then_bits_are_those_of_the_cpu_exact(text, dtype):
    for shape in SHAPES:
        for x in laid_out(drawn(shape, dtype)):
            assert_as_on_cpu(fake_quant, x, text)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", SPECS)
def test_values_when_the_input_is_special_then_bits_are_those_of_the_cpu_exact(text, dtype):
    for odd in (0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, torch.finfo(dtype).max):
        x = drawn((4, 256), dtype)
        x[1, 37] = odd
        x[2] = odd
        assert_as_on_cpu(fake_quant, x, text)


def dialect_specs() -> list[str]:
    """Every spec of a library's dialect that has compiled kernels, at a few granularities."""
    found = []
    for dialect in DIALECTS.values():
        for name in sorted(dialect.formats) if dialect.name != "qscale" else ():
            for span in [""] if FORMATS[name].block else [":g32", ":channel", ":tensor"]:
                try:
                    spec = QuantSpec.parse(f"{name}{span}@{dialect.name}")
                except SpecError:
                    continue
                call = call_for(spec)
                if call is not None and call.op != EMULATED:
                    found.append(str(spec))
    return found


def golden_inputs(dialect: str) -> list[torch.Tensor]:
    """What the dialect's library was recorded on, each tensor once."""
    peers = {dialect, {"te": "transformer_engine_ref", "ocp": "microxcaling"}.get(dialect, dialect)}
    return list(
        {
            (case.file, case.keys["inputs"]["x"]): case.inputs()["x"]
            for case in cases()
            if case.peer in peers and "x" in case.keys["inputs"]
        }.values()
    )


@pytest.mark.parametrize("text", dialect_specs())
def test_dialects_when_given_the_golden_inputs_then_bits_are_those_of_the_cpu_exact(text):
    inputs = golden_inputs(text.partition("@")[2])
    for x in [*inputs, drawn((8, 256), torch.float32), drawn((8, 256), torch.bfloat16)]:
        if x.dtype in DTYPES and x.dim() > 0:
            assert_as_on_cpu(fake_quant, x, text)


GIVEN = (
    "int4:g32",
    "int4:g128",
    "int8:channel",
    "int4:tensor",
    "int4:b16",
    "int4:g64:asym",
    "fp8_e4m3:channel",
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", ["clipped", "lsq", "trust"])
@pytest.mark.parametrize("text", GIVEN)
def test_gradients_when_scales_are_given_then_bits_are_those_of_the_cpu_exact(text, gradient, dtype):
    for shape in ((8, 4096), (32, 96), (16, 2048 + 64)):
        x = drawn(shape, dtype)
        upstream = drawn(shape, dtype, seed=1)
        scale = torch.full((), 0.13)
        given = [scale, torch.full((), 3.0)] if "asym" in text else [scale]
        found = []
        for device in ("cpu", "cuda"):
            leaves = [t.to(device).requires_grad_() for t in (x.clone(), *given)]
            named = dict(zip(("scale", "zero_point"), leaves[1:], strict=False))
            y = fake_quant(leaves[0], text, gradient=gradient, **named)
            y.backward(upstream.to(device))
            found.append([y.detach(), *(leaf.grad for leaf in leaves)])
        # One scale for all groups: its gradient is a sum over the groups, which torch adds up.
        exact = slice(0, 2)
        for cpu, cuda in zip(found[0][exact], found[1][exact], strict=True):
            assert_same_bits(cuda, cpu)
        for cpu, cuda in zip(found[0][2:], found[1][2:], strict=True):
            torch.testing.assert_close(cuda.cpu(), cpu)


@pytest.mark.parametrize("text", ["int4:g32", "int8:channel", "int4:g64:asym", "mxfp4", "nvfp4", "nf4:g64"])
def test_codes_when_packed_on_the_device_then_they_and_their_values_are_those_of_the_cpu_exact(text):
    x = drawn((16, 256), torch.bfloat16)
    on_cpu, on_cuda = quantize(x, text), quantize(x.cuda(), text)
    assert_same_bits(on_cuda.codes, on_cpu.codes)
    assert_same_bits(dequantize(on_cuda), dequantize(on_cpu))


SIZES = (2, 4, 16, 32, 128, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 12, 96, 768, 3584, 11008)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_rotations_when_on_the_device_then_bits_are_those_of_the_cpu_exact(n, dtype):
    signs = (torch.arange(n) % 3 != 1).float() * 2 - 1
    for rows in (1, 5):
        for x in laid_out(drawn((rows, 2 * n), dtype)):
            assert_as_on_cpu(hadamard, x, n)
            assert_as_on_cpu(hadamard, x, n, signs)
    x = drawn((5, n), dtype)
    backward = hadamard(x, n, signs, transpose=True)
    assert_same_bits(hadamard(x.cuda(), n, signs.cuda(), transpose=True), backward)


@pytest.mark.parametrize("n", [32, 128, 4096, 16384, 768])
@pytest.mark.parametrize("text", ["int4:g128", "mxfp4", "nvfp4", "int8:channel", "int4:g32:asym", "nf4:g64"])
def test_rotated_values_when_on_the_device_then_bits_are_those_of_the_cpu_exact(text, n):
    for dtype in DTYPES:
        assert_as_on_cpu(rotate_fake_quant, drawn((6, 2 * n), dtype), text, n)


def test_comparison_when_a_bit_differs_then_it_fails():
    x = drawn((2, 64), torch.float32)
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same_bits(on_device(fake_quant, x, "int4:g32"), fake_quant(x, "int8:g32"))
