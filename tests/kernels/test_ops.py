"""The ops as torch sees them: gradients, opcheck, torch.compile, errors."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits

from qscale.errors import BackendError, SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, use_backend

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPS = torch.ops.qscale
ARGUMENTS = (-7, 7, 7, 32)
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}


def compiles(test):
    """torch 2.13's own tracing triggers the first of these, its inductor the second."""
    quiet = (
        "ignore:.*Function'> should not be inst:DeprecationWarning",
        "ignore:.*torch.jit:DeprecationWarning",
    )
    return pytest.mark.filterwarnings(*quiet)(test)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("spec", ["int2:g32", "int4:g32@chen2025", "int8:tensor"])
def test_gradient_when_backward_runs_then_it_is_passed_unchanged(backend, spec):
    x = torch.randn(3, 100, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(3, 100).to(torch.bfloat16)
    with use_backend(backend):
        fake_quant(x, spec).backward(gradient)
    assert_same_bits(x.grad, gradient)


def test_gradient_when_the_op_is_called_directly_then_it_is_passed_unchanged():
    x = torch.randn(3, 100, requires_grad=True)
    OPS.fake_quant_int(x, *ARGUMENTS).sum().backward()
    assert_same_bits(x.grad, torch.ones(3, 100))


def test_forward_when_gradients_are_recorded_then_nothing_is_saved():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        fake_quant(torch.randn(3, 100, requires_grad=True), "int4:g32")
    assert saved == []


def test_forward_when_gradients_are_off_then_the_result_has_none():
    x = torch.randn(3, 100, requires_grad=True)
    with torch.no_grad():
        assert not fake_quant(x, "int4:g32").requires_grad
    with torch.inference_mode():
        assert_same_bits(fake_quant(x.detach(), "int4:g32"), fake_quant(x, "int4:g32"))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 100), (3, 2, 5), (), (0, 7)], ids=str)
@pytest.mark.parametrize("name", ["fake_quant_int", "fake_quant_int_forward", "fake_quant_int_reference"])
def test_opcheck_when_given_an_op_then_all_four_checks_pass(name, shape, dtype, requires_grad):
    x = torch.randn(shape, dtype=dtype, requires_grad=requires_grad)
    result = torch.library.opcheck(getattr(OPS, name).default, (x, *ARGUMENTS))
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


def test_opcheck_when_given_the_out_variant_then_all_four_checks_pass():
    x = torch.randn(4, 100)
    arguments = (x, *ARGUMENTS, torch.empty_like(x))
    result = torch.library.opcheck(OPS.fake_quant_int_out.default, arguments)
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


def test_out_variant_when_called_then_it_writes_what_the_op_returns():
    x = torch.randn(4, 100)[:, ::2]
    out = torch.empty(4, 50)
    OPS.fake_quant_int_out(x, *ARGUMENTS, out)
    assert_same_bits(out, OPS.fake_quant_int(x, *ARGUMENTS))


@compiles
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("spec", ["int4:g32", QuantSpec.parse("int8:tensor@chen2025")], ids=str)
def test_compile_when_the_whole_graph_is_traced_then_bits_and_gradients_are_those_of_eager(backend, spec):
    torch.compiler.reset()
    with use_backend(backend):
        compiled = torch.compile(lambda x: fake_quant(x * 2, spec) + 1, fullgraph=True)
        x = torch.randn(6, 80, dtype=torch.bfloat16, requires_grad=True)
        gradient = torch.randn(6, 80).to(torch.bfloat16)
        got = compiled(x)
        got.backward(gradient)
        assert_same_bits(got, fake_quant(x * 2, spec) + 1)
    assert_same_bits(x.grad, gradient * 2)


def test_compile_when_a_new_spec_is_seen_elsewhere_then_nothing_is_compiled_again():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda x: fake_quant(x, "int4:g32"), fullgraph=True, backend=counter)
    compiled(torch.randn(2, 64))
    fake_quant(torch.randn(2, 64), "int5:g31")
    compiled(torch.randn(2, 64))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "spec", ["int4:g32:asym", "int4:g32:stochastic", "fp8_e4m3:g32", "mxfp4", "int4:g8@torchao"]
)
def test_fake_quant_when_a_format_has_no_kernel_then_the_error_lists_those_that_have(spec):
    with pytest.raises(SpecError) as caught:
        fake_quant(torch.ones(4), spec)
    message = str(caught.value)
    assert spec in message
    assert "int2, int3, int4, int5, int6, int7, int8" in message
    assert "qscale, chen2025" in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.float8_e4m3fn], ids=str)
def test_fake_quant_when_the_dtype_has_no_kernel_then_every_backend_says_why(dtype):
    with pytest.raises(BackendError) as caught:
        fake_quant(torch.ones(2, 3).to(dtype), "int4:g2")
    message = str(caught.value)
    assert f"input: {dtype} [2, 3] on cpu".replace("torch.", "") in message
    for backend in ("cpu", "reference"):
        assert f"{backend}: needs float32, bfloat16 or float16" in message


BAD = {
    "qmin": ((1, 7, 7, 32), "qmin=1, qmax=7"),
    "qmax": ((-7, 2**21, 7, 32), "qmax=2097152"),
    "denominator": ((-7, 7, 0, 32), "denominator=0"),
    "group_size zero": ((-7, 7, 7, 0), "group_size=0"),
    "group_size negative": ((-7, 7, 7, -2), "group_size=-2"),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("name", BAD)
def test_op_when_an_argument_is_out_of_range_then_the_error_names_it(name, device):
    from qscale.kernels import reference

    arguments, message = BAD[name]
    op = OPS.fake_quant_int if device == "cpu" else reference.fake_quant_int
    with pytest.raises(RuntimeError, match=message):
        op(torch.ones(4), *arguments)


def test_op_when_the_dtype_is_wrong_then_the_error_names_it():
    with pytest.raises(RuntimeError, match="x has dtype Double; wanted Float, BFloat16 or Half"):
        OPS.fake_quant_int(torch.ones(4, dtype=torch.float64), *ARGUMENTS)


UNFIT = {"short": torch.empty(5), "half": torch.empty(4).half(), "strided": torch.empty(8)[::2]}


@pytest.mark.parametrize("name", UNFIT)
def test_out_variant_when_out_does_not_fit_then_the_error_says_what_was_wanted(name):
    with pytest.raises(RuntimeError, match="wanted a contiguous tensor of x's shape and dtype Float"):
        OPS.fake_quant_int_out(torch.ones(4), *ARGUMENTS, UNFIT[name])


def test_fake_quant_when_the_device_is_meta_then_shape_and_dtype_are_inferred():
    y = fake_quant(torch.empty(3, 5, dtype=torch.float16, device="meta"), "int4:g2")
    assert (y.shape, y.dtype, y.device.type) == ((3, 5), torch.float16, "meta")
