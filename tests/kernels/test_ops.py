"""The ops as torch sees them: gradients, opcheck, torch.compile, errors."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits

from qscale.errors import BackendError, SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec, call_for
from qscale.kernels import dialects, fake_quant, reference, use_backend
from qscale.kernels.ops import OPS as TABLE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPS = torch.ops.qscale
ARGUMENTS = (-7, 7, 7, 32, 0)
#: A call of each op: the arguments after the tensor.
CALLS = {
    "fake_quant_int": ARGUMENTS,
    "fake_quant_float": (3, -6, 448.0, 32, 0, 0),
    "fake_quant_nvfp4": (16, 1, 0),
    "fake_quant_codebook": (0, 64),
}
SPECS = ["int2:g32", "int4:g32@chen2025", "int8:tensor", "fp8_e4m3:g32", "mxfp4", "nvfp4", "nf4:g64"]
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}


def compiles(test):
    """torch 2.13's own tracing triggers the first of these, its inductor the second."""
    quiet = (
        "ignore:.*Function'> should not be inst:DeprecationWarning",
        "ignore:.*torch.jit:DeprecationWarning",
    )
    return pytest.mark.filterwarnings(*quiet)(test)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("spec", SPECS)
def test_gradient_when_backward_runs_then_it_is_passed_unchanged(backend, spec):
    x = torch.randn(3, 100, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(3, 100).to(torch.bfloat16)
    with use_backend(backend):
        fake_quant(x, spec).backward(gradient)
    assert_same_bits(x.grad, gradient)


@pytest.mark.parametrize("name", CALLS)
def test_gradient_when_the_op_is_called_directly_then_it_is_passed_unchanged(name):
    x = torch.randn(3, 100, requires_grad=True)
    getattr(OPS, name)(x, *CALLS[name]).sum().backward()
    assert_same_bits(x.grad, torch.ones(3, 100))


@pytest.mark.parametrize("spec", SPECS)
def test_forward_when_gradients_are_recorded_then_nothing_is_saved(spec):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        fake_quant(torch.randn(3, 100, requires_grad=True), spec)
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


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("suffix", ["", "_forward", "_reference"])
@pytest.mark.parametrize("name", CALLS)
def test_opcheck_when_given_each_op_of_the_table_then_all_four_checks_pass(name, suffix, requires_grad):
    x = torch.randn(3, 50, requires_grad=requires_grad)
    result = torch.library.opcheck(getattr(OPS, name + suffix).default, (x, *CALLS[name]))
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


def test_opcheck_when_the_table_of_ops_grows_then_so_does_this_file():
    assert [op.name for op in TABLE] == [*CALLS, "fake_quant_emulated"]


@pytest.mark.parametrize("name", CALLS)
def test_opcheck_when_given_the_out_variant_then_all_four_checks_pass(name):
    x = torch.randn(4, 100)
    arguments = (x, *CALLS[name], torch.empty_like(x))
    result = torch.library.opcheck(getattr(OPS, f"{name}_out").default, arguments)
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_out_variant_when_called_then_it_writes_what_the_op_returns(name, backend):
    x = torch.randn(4, 100)[:, ::2]
    out = torch.empty(4, 50)
    getattr(OPS, f"{name}_out")(x, *CALLS[name], out)
    suffix = "_reference" if backend == "reference" else ""
    assert_same_bits(out, getattr(OPS, name + suffix)(x, *CALLS[name]))


@compiles
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "spec",
    ["int4:g32", QuantSpec.parse("int8:tensor@chen2025"), "fp8_e4m3:g32", "mxfp4", "nvfp4", "nf4:g64"],
    ids=str,
)
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


@pytest.mark.parametrize("spec", ["int4:g32:asym", "int4:g32:stochastic", "mxfp4:stochastic", "int4:g8@aten"])
def test_fake_quant_when_a_spec_has_no_kernel_then_the_error_lists_those_that_have(spec):
    with pytest.raises(SpecError) as caught:
        fake_quant(torch.ones(4), spec)
    message = str(caught.value)
    assert spec in message
    assert "qscale: int2, int3, int4, int5, int6, int7, int8, fp8_e4m3" in message
    assert "chen2025: int2" in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.float8_e4m3fn], ids=str)
def test_fake_quant_when_the_dtype_has_no_kernel_then_every_backend_says_why(dtype):
    with pytest.raises(BackendError) as caught:
        fake_quant(torch.ones(2, 3).to(dtype), "int4:g2")
    message = str(caught.value)
    assert f"input: {dtype} [2, 3] on cpu".replace("torch.", "") in message
    for backend in ("cpu", "reference"):
        assert f"{backend}: needs float32, bfloat16 or float16" in message


BAD = {
    "qmin": ("fake_quant_int", (1, 7, 7, 32, 0), "qmin=1, qmax=7"),
    "qmax": ("fake_quant_int", (-7, 2**21, 7, 32, 0), "qmax=2097152"),
    "denominator": ("fake_quant_int", (-7, 7, 0, 32, 0), "denominator=0"),
    "group_size zero": ("fake_quant_int", (-7, 7, 7, 0, 0), "group_size=0"),
    "group_size negative": ("fake_quant_int", (-7, 7, 7, -2, 0), "group_size=-2"),
    "rounding": ("fake_quant_int", (-7, 7, 7, 32, 2), "rounding=2"),
    "mantissa_bits": ("fake_quant_float", (11, -6, 448.0, 32, 0, 0), "mantissa_bits=11"),
    "min_exponent": ("fake_quant_float", (3, 2, 448.0, 32, 0, 0), "min_exponent=2"),
    "largest between values": ("fake_quant_float", (3, -6, 449.0, 32, 0, 0), "largest=449"),
    "largest infinite": ("fake_quant_float", (3, -6, float("inf"), 32, 0, 0), "largest=inf"),
    "largest negative": ("fake_quant_float", (3, -6, -448.0, 32, 0, 0), "largest=-448"),
    "largest too fine": ("fake_quant_float", (1, 0, 6.0 + 2.0**-40, 32, 0, 0), "largest=6.0*"),
    "scale_rule": ("fake_quant_float", (3, -6, 448.0, 32, 5, 0), "scale_rule=5"),
    "float group_size": ("fake_quant_float", (3, -6, 448.0, 0, 0, 0), "fake_quant_float: group_size=0"),
    "tensor_level": ("fake_quant_nvfp4", (16, 2, 0), "tensor_level=2"),
    "nvfp4 rounding": ("fake_quant_nvfp4", (16, 1, -1), "rounding=-1"),
    "codebook": ("fake_quant_codebook", (2, 32), "codebook=2"),
    "codebook group_size": ("fake_quant_codebook", (0, -3), "group_size=-3"),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("case", BAD)
def test_op_when_an_argument_is_out_of_range_then_the_error_names_it(case, device):
    name, arguments, message = BAD[case]
    op = getattr(OPS, name) if device == "cpu" else getattr(reference, name)
    with pytest.raises(RuntimeError, match=message):
        op(torch.ones(4), *arguments)


@pytest.mark.parametrize("name", CALLS)
def test_op_when_the_dtype_is_wrong_then_the_error_names_it(name):
    with pytest.raises(RuntimeError, match=f"{name}: x has dtype Double; wanted Float, BFloat16 or Half"):
        getattr(OPS, name)(torch.ones(4, dtype=torch.float64), *CALLS[name])


UNFIT = {"short": torch.empty(5), "half": torch.empty(4).half(), "strided": torch.empty(8)[::2]}


@pytest.mark.parametrize("name", UNFIT)
def test_out_variant_when_out_does_not_fit_then_the_error_says_what_was_wanted(name):
    with pytest.raises(RuntimeError, match="wanted a contiguous tensor of x's shape and dtype Float"):
        OPS.fake_quant_int_out(torch.ones(4), *ARGUMENTS, UNFIT[name])


def test_fake_quant_when_the_device_is_meta_then_shape_and_dtype_are_inferred():
    y = fake_quant(torch.empty(3, 5, dtype=torch.float16, device="meta"), "int4:g2")
    assert (y.shape, y.dtype, y.device.type) == ((3, 5), torch.float16, "meta")


EMULATED = "int4:g32@torchao"


def emulated(x: torch.Tensor, spec: str = EMULATED) -> torch.Tensor:
    return dialects.find(QuantSpec.parse(spec))(x).y


def test_dialect_when_it_is_emulated_then_it_runs_and_the_gradient_passes_straight_through():
    x = torch.randn(3, 64, requires_grad=True)
    y = fake_quant(x, EMULATED)
    y.sum().backward()
    assert_same_bits(y, emulated(x))
    assert_same_bits(x.grad, torch.ones_like(x))
    assert fake_quant(torch.ones(32, 2).t(), EMULATED).is_contiguous()


@compiles
def test_dialect_when_the_graph_is_compiled_then_its_bits_stay():
    torch.compiler.reset()
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    assert_same_bits(torch.compile(lambda t: fake_quant(t, EMULATED), fullgraph=True)(x), emulated(x))


def test_dialect_when_opcheck_runs_then_all_four_checks_pass():
    x = torch.randn(3, 64, requires_grad=True)
    assert torch.library.opcheck(OPS.fake_quant_emulated.default, (x, EMULATED)) == dict.fromkeys(
        CHECKS, "SUCCESS"
    )


def test_dialect_when_the_compiled_backend_is_named_then_it_refuses():
    with use_backend("cpu"), pytest.raises(BackendError, match="cpu: has no kernel for this dialect"):
        fake_quant(torch.ones(32), EMULATED)
    with use_backend("reference"):
        assert_same_bits(fake_quant(torch.ones(32), EMULATED), emulated(torch.ones(32)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_when_a_dialect_is_emulated_then_every_spec_has_an_implementation_and_no_other(dialect):
    for name in DIALECTS[dialect].formats:
        spans = [""] if FORMATS[name].block else [":g32", ":channel", ":token", ":tensor"]
        for spec in (QuantSpec.parse(f"{name}{span}@{dialect}") for span in spans):
            call = call_for(spec)
            planned = call is not None and call.op == "fake_quant_emulated"
            assert planned == (dialects.find(spec) is not None), spec
