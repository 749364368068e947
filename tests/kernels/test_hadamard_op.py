"""The rotation as torch sees it: gradients, opcheck, torch.compile, the out variant, errors of the op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bits import assert_same_bits

from qscale.errors import BackendError
from qscale.kernels import hadamard, rotate_fake_quant, use_backend
from qscale.kernels.hadamard_matrices import BASES, base_matrix, decompose

OPS = torch.ops.qscale
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}
SIGNS = torch.tensor([1.0, -1.0, -1.0]).repeat(32)
backends = pytest.mark.parametrize("backend", ["auto", "reference"])


def compiles(test):
    """torch 2.13's own tracing triggers the first of these, its inductor the second."""
    quiet = (
        "ignore:.*Function'> should not be inst:DeprecationWarning",
        "ignore:.*torch.jit:DeprecationWarning",
    )
    return pytest.mark.filterwarnings(*quiet)(test)


def jacobian(n: int, signs: torch.Tensor) -> np.ndarray:
    """What hadamard multiplies a row by, in float64."""
    base, inner = decompose(n)
    sylvester = np.ones((1, 1))
    while len(sylvester) < inner:
        sylvester = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), sylvester)
    return np.kron(base_matrix(base), sylvester) * signs.numpy() / np.sqrt(n)


@backends
@pytest.mark.parametrize("transpose", [False, True], ids=["forward", "transpose"])
@pytest.mark.parametrize("n", [2, 16, 24, 80, 112, 384, 512, *BASES])
def test_gradient_when_every_unit_vector_is_sent_back_then_it_is_the_transposed_jacobian(
    n, transpose, backend
):
    # gradcheck needs float64, which no backend takes; the map is linear, so its whole Jacobian is compared.
    signs = (torch.arange(n) % 3 != 1).float() * 2 - 1
    x = torch.randn(n, n, requires_grad=True)
    with use_backend(backend):
        hadamard(x, None, signs, transpose=transpose).backward(torch.eye(n))
    wanted = jacobian(n, signs)
    assert np.abs(x.grad.numpy() - (wanted.T if transpose else wanted)).max() <= 2.0**-24


@backends
def test_gradient_when_taken_twice_then_it_is_the_rotation_again(backend):
    x, v = torch.randn(4, 96, requires_grad=True), torch.randn(4, 96, requires_grad=True)
    with use_backend(backend):
        (first,) = torch.autograd.grad(hadamard(x, 48, SIGNS), x, v, create_graph=True)
        assert_same_bits(first, hadamard(v, 48, SIGNS, transpose=True))
        (second,) = torch.autograd.grad(first, v, torch.ones(4, 96))
        assert_same_bits(second, hadamard(torch.ones(4, 96), 48, SIGNS))


def test_gradient_when_the_op_is_called_directly_then_it_is_the_transpose():
    x, g = torch.randn(4, 96, requires_grad=True), torch.randn(4, 96)
    OPS.hadamard(x, 48, SIGNS, False).backward(g)
    assert_same_bits(x.grad, hadamard(g, 48, SIGNS, transpose=True))


@backends
def test_forward_when_gradients_are_recorded_then_only_the_signs_are_saved(backend):
    saved = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        use_backend(backend),
    ):
        hadamard(torch.randn(300, 96, requires_grad=True), 48)
        assert saved == []
        hadamard(torch.randn(300, 96, requires_grad=True), 48, SIGNS)
    assert [t.numel() for t in saved] == [96]


def test_forward_when_gradients_are_off_then_the_result_has_none():
    x = torch.randn(3, 64, requires_grad=True)
    with torch.no_grad():
        assert not hadamard(x).requires_grad


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "block", "signs"),
    [((4, 96), 48, SIGNS), ((3, 2, 128), -1, None), ((), 1, None), ((0, 96), 12, SIGNS)],
    ids=["signs of the axis", "whole axis", "no dimension", "empty"],
)
@pytest.mark.parametrize("name", ["hadamard", "hadamard_forward", "hadamard_reference"])
def test_opcheck_when_given_an_op_then_all_four_checks_pass(name, shape, block, signs, dtype, requires_grad):
    x = torch.randn(shape, dtype=dtype, requires_grad=requires_grad)
    result = torch.library.opcheck(getattr(OPS, name).default, (x, block, signs, False))
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


def test_opcheck_when_given_the_out_variant_then_all_four_checks_pass():
    x = torch.randn(4, 96)
    result = torch.library.opcheck(OPS.hadamard_out.default, (x, 48, SIGNS, True, torch.empty_like(x)))
    assert result == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("block", [-1, 12, 48])
def test_out_variant_when_called_then_it_writes_what_the_op_returns(block):
    x = torch.randn(4, 192)[:, ::2]
    out = torch.empty(4, 96)
    OPS.hadamard_out(x, block, SIGNS, False, out)
    assert_same_bits(out, OPS.hadamard(x, block, SIGNS, False))


@compiles
@backends
@pytest.mark.parametrize("block", [None, 12])
def test_compile_when_the_whole_graph_is_traced_then_bits_and_gradients_are_those_of_eager(block, backend):
    torch.compiler.reset()

    def work(x, signs):
        return rotate_fake_quant(x * 2, "int4:g32", block, signs) + hadamard(x, block, transpose=True)

    with use_backend(backend):
        x = torch.randn(6, 96, dtype=torch.bfloat16, requires_grad=True)
        gradient = torch.randn(6, 96).to(torch.bfloat16)
        signs = SIGNS if block is None else SIGNS[:12]
        got = torch.compile(work, fullgraph=True)(x, signs)
        (got_gradient,) = torch.autograd.grad(got, x, gradient)
        wanted = work(x, signs)
        assert_same_bits(got, wanted)
        (wanted_gradient,) = torch.autograd.grad(wanted, x, gradient)
    assert torch.allclose(got_gradient, wanted_gradient, rtol=2**-7, atol=0.05)  # inductor sums in float32


@compiles
def test_compile_when_sizes_are_symbolic_then_each_has_the_bits_of_eager():
    torch.compiler.reset()
    compiled = torch.compile(hadamard, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, columns in ((3, 96), (5, 48), (2, 128)):
        x, signs = torch.randn(rows, columns), SIGNS.repeat(2)[:columns]
        assert_same_bits(compiled(x, None, signs), hadamard(x, None, signs))


@compiles
def test_compile_when_the_size_cannot_be_then_the_error_names_the_nearest():
    torch.compiler.reset()
    with pytest.raises(Exception, match="nearest sizes are 128 and 132"):
        torch.compile(hadamard, fullgraph=True, backend="eager")(torch.ones(2, 130))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32], ids=str)
def test_hadamard_when_the_dtype_has_no_kernel_then_every_backend_says_why(dtype):
    with pytest.raises(BackendError, match="hadamard: backend 'auto' cannot run this call") as caught:
        hadamard(torch.ones(2, 4).to(dtype))
    for backend in ("cpu", "reference"):
        assert f"{backend}: needs float32, bfloat16 or float16" in str(caught.value)


def test_hadamard_when_the_device_is_meta_then_shape_and_dtype_are_inferred():
    y = hadamard(torch.empty(3, 12, dtype=torch.float16, device="meta"))
    assert (y.shape, y.dtype, y.device.type) == ((3, 12), torch.float16, "meta")


BAD = {
    "size": ((-1, None), "blocks of 130 on a last axis of 130"),
    "block": ((64, None), "blocks of 64 on a last axis of 130"),
    "zero": ((0, None), "block=0; wanted at least 1"),
    "negative": ((-2, None), "block=-2; wanted at least 1"),
    "length": ((2, torch.ones(3)), "wanted float32, one dimension, length 2 or 130"),
    "dimensions": ((2, torch.ones(1, 2)), "wanted float32, one dimension, length 2 or 130"),
    "dtype of signs": ((2, torch.ones(2).double()), "wanted float32, one dimension, length 2 or 130"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("op", ["hadamard", "hadamard_reference"])
def test_op_when_an_argument_is_out_of_range_then_the_error_names_it(op, name):
    (block, signs), message = BAD[name]
    with pytest.raises(RuntimeError, match=message):
        getattr(OPS, op)(torch.ones(3, 130), block, signs, False)


def test_op_when_the_dtype_is_wrong_then_the_error_names_it():
    with pytest.raises(RuntimeError, match="x has dtype Double; wanted Float, BFloat16 or Half"):
        OPS.hadamard(torch.ones(4, dtype=torch.float64), -1, None, False)


UNFIT = {"short": torch.empty(8), "half": torch.empty(4).half(), "strided": torch.empty(8)[::2]}


@pytest.mark.parametrize("name", UNFIT)
def test_out_variant_when_out_does_not_fit_then_the_error_says_what_was_wanted(name):
    with pytest.raises(RuntimeError, match="wanted a contiguous tensor of x's shape and dtype Float"):
        OPS.hadamard_out(torch.ones(4), -1, None, False, UNFIT[name])


@pytest.mark.parametrize("matrix", [torch.ones(3), torch.ones(2, 3), torch.ones(2, 2).double()], ids=str)
def test_keep_matrix_when_it_is_no_square_of_floats_then_it_raises(matrix):
    with pytest.raises(RuntimeError, match="wanted a square contiguous Float matrix"):
        OPS.keep_hadamard_matrix(matrix)
