"""hadamard against dense matrices in other arithmetic, and its bits across implementations."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import scipy.linalg
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qscale.errors import SpecError
from qscale.kernels import fake_quant, hadamard, rotate_fake_quant, use_backend
from qscale.kernels.hadamard_matrices import BASES, base_matrix, decompose, nearest_sizes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SYMMETRIC = (1, 36, 52, 76, 100, 124, 148)  # Paley II, and the trivial one
POWERS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192]
SIZES = [*POWERS, *BASES[1:], 24, 40, 96, 12 * 16, 12 * 64, 20 * 32, 28 * 128, 44 * 8, 36 * 512]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@lru_cache
def dense(n: int) -> np.ndarray:
    """H of order n by the Kronecker product that the docstring states; in float64 a product is quick."""
    base, inner = decompose(n)
    return np.kron(base_matrix(base), scipy.linalg.hadamard(inner, dtype=np.float64))


def rotated(x: Tensor, n: int, transpose: bool = False) -> Tensor:
    """The rotation by the dense matrix, in float64."""
    matrix = dense(n) if transpose else dense(n).T  # of rows, so from the right
    rows = x.double().numpy().reshape(-1, n)
    return torch.from_numpy(rows @ matrix / math.sqrt(n)).reshape(x.shape)


def signs_of(length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (length,), generator=generator).float() * 2 - 1


# The matrices.


@pytest.mark.parametrize("m", BASES)
def test_base_matrix_when_multiplied_by_its_transpose_then_gives_m_times_the_identity(m):
    matrix = base_matrix(m).astype(np.int64)
    assert np.array_equal(np.abs(matrix), np.ones((m, m)))
    assert np.array_equal(matrix @ matrix.T, m * np.eye(m, dtype=np.int64))


@pytest.mark.parametrize("m", BASES)
def test_base_matrix_when_it_is_of_the_second_kind_then_it_alone_is_symmetric(m):
    matrix = base_matrix(m)
    assert np.array_equal(matrix, matrix.T) == (m in SYMMETRIC)


def test_base_matrix_when_the_order_is_unknown_then_the_error_lists_those_that_are():
    with pytest.raises(ValueError, match=r"no base matrix of order 16; known: \(1, 12, 20, 28"):
        base_matrix(16)


def test_decompose_when_given_a_size_then_the_product_is_the_size_and_the_base_is_the_smallest():
    for size in range(-2, 2000):
        found = decompose(size)
        possible = [m for m in BASES if size > 0 and size % m == 0 and (size // m).bit_count() == 1]
        assert (found is None) == (possible == [])
        if found:
            assert found == (min(possible), size // min(possible))


def test_decompose_when_the_odd_part_is_at_most_43_then_every_multiple_of_4_is_there():
    for odd in range(1, 44, 2):
        assert all(decompose(odd << k) for k in range(2, 14))
        assert odd == 1 or decompose(odd) is decompose(2 * odd) is None
    assert not any(decompose(45 << k) for k in range(14))


def test_decompose_when_given_the_widths_of_known_models_then_all_are_there():
    widths = (768, 1664, 2816, 3584, 4096, 5632, 8192, 10752, 11008, 14336, 22016)
    assert all(decompose(width) for width in widths)


def test_nearest_sizes_when_given_a_size_then_none_lies_between():
    for size in (3, 5, 130, 11007, 13696):
        below, above = nearest_sizes(size)
        assert below < size < above
        assert [n for n in range(below, above + 1) if decompose(n)] == [below, above]
    assert nearest_sizes(0) == (1,)


# Values.


@pytest.mark.parametrize("n", [n for n in SIZES if n <= 1024])
def test_hadamard_when_given_the_identity_then_gives_the_dense_matrix(rotate, n):
    entry = torch.tensor(1.0 / math.sqrt(n), dtype=torch.float64).float()
    wanted = torch.tensor(dense(n).T, dtype=torch.float32) * entry
    assert_same_bits(rotate(torch.eye(n)), wanted)
    assert_same_bits(rotate(torch.eye(n), transpose=True), wanted.T.contiguous())


@dtypes
@pytest.mark.parametrize("n", [4, 16, 64, 256, 1024, 4096])
def test_hadamard_when_integers_stay_exact_then_equals_scipy_to_the_bit(rotate, n, dtype):
    x = torch.randint(-2, 3, (5, n), generator=torch.Generator().manual_seed(n))
    exact = torch.from_numpy(x.double().numpy() @ dense(n)) / math.sqrt(n)  # of integers, by a power of two
    assert_same_bits(rotate(x.to(dtype)), exact.to(dtype))


@dtypes
@pytest.mark.parametrize("transpose", [False, True], ids=["forward", "transpose"])
@pytest.mark.parametrize("n", [n for n in SIZES if n <= 4096])
def test_hadamard_when_compared_with_float64_then_the_norm_of_the_error_is_bounded(
    rotate, n, transpose, dtype
):
    x = torch.randn(3, 2 * n, generator=torch.Generator().manual_seed(n)).to(dtype)
    error = rotate(x, n, transpose=transpose).double() - rotated(x, n, transpose)
    base, inner = decompose(n)
    # A stage, a term of the base's sum and the scale each round by half an ulp of what is there, whose norm
    # is that of x; then the dtype rounds once, subnormal float16 by at most half a step of 2**-24.
    roundings = math.log2(inner) + base + 2
    bound = (roundings * 2.0**-24 + torch.finfo(dtype).eps / 2) * x.double().norm()
    bound += 2.0**-25 * math.sqrt(x.numel()) if dtype is torch.float16 else 0.0
    assert error.norm() <= bound


@pytest.mark.parametrize("n", [12, 20, 28, 36, 64, 768, 4096])
def test_hadamard_when_undone_by_the_transpose_then_gives_back_x(rotate, n):
    x, signs = torch.randn(4, 2 * n), signs_of(n)
    back = rotate(rotate(x, n, signs), n, signs, transpose=True)
    assert torch.allclose(back, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", ["block", "axis"])
@pytest.mark.parametrize("n", [1, 2, 12, 16, 48, 256, 1024, 1536])
def test_hadamard_when_given_signs_then_multiplies_by_them_first_or_last(rotate, n, length):
    x = torch.randn(5, 3 * n)
    signs = signs_of(n if length == "block" else 3 * n)
    whole = signs.repeat(3 * n // signs.numel())
    assert_same_bits(rotate(x, n, signs), rotate(x * whole, n))
    assert_same_bits(rotate(x, n, signs, transpose=True), rotate(x, n, transpose=True) * whole)


def test_hadamard_when_block_is_none_then_the_whole_axis_is_one_block(rotate):
    x = torch.randn(3, 96)
    assert_same_bits(rotate(x), rotate(x, 96))
    assert_same_bits(rotate(x, 12), rotate(x.reshape(3, 8, 12)).reshape(3, 96))


# Bits.


@st.composite
def calls(draw: st.DrawFn) -> tuple[Tensor, int | None, Tensor | None, bool]:
    dtype = draw(st.sampled_from(DTYPES))
    size = draw(st.sampled_from(SIZES))
    blocks = draw(st.integers(1, 1 + 400 // size))
    lead = draw(st.lists(st.integers(0, 4), max_size=2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0, 8, 60]))
    shape = [*lead, size * blocks]
    stride = draw(st.sampled_from(["contiguous", "every second", "transposed", "offset"]))
    if stride == "every second":
        shape[-1] *= 2
    elif stride == "offset":
        shape[-1] += 1
    powers = torch.randint(-spread, spread + 1, shape, generator=generator)
    x = torch.ldexp(torch.randn(shape, generator=generator), powers)
    if draw(st.booleans()) and x.numel():
        strange = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 2.0**-149, 3e38])
        x.view(-1)[:: draw(st.integers(2, 50))] = strange[draw(st.integers(0, 5))]
    x = x.to(dtype)
    if stride == "every second":
        x = x[..., ::2]
    elif stride == "offset":
        x = x[..., 1:]
    elif stride == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    length = draw(st.sampled_from([None, size, size * blocks]))
    signs = None if length is None else signs_of(length)
    return x, None if blocks == 1 else size, signs, draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(calls())
def test_hadamard_when_drawn_at_random_then_every_implementation_has_the_bits_of_the_reference(rotate, call):
    x, block, signs, transpose = call
    before = x.clone()
    with use_backend("reference"):
        wanted = hadamard(x, block, signs, transpose=transpose)
    got = rotate(x, block, signs, transpose=transpose)
    assert_same_bits(got, wanted)
    assert_same_bits(x, before)
    assert got.is_contiguous()


@dtypes
@pytest.mark.parametrize("n", SIZES)
def test_hadamard_when_there_are_many_blocks_then_each_has_the_bits_it_has_alone(rotate, n, dtype):
    x = torch.randn(67, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    assert_same_bits(rotate(x)[[0, 1, 40, 66]], torch.stack([rotate(x[i]) for i in (0, 1, 40, 66)]))


@dtypes
@pytest.mark.parametrize("n", [1, 2, 16, 256, 1024, 12, 768])
def test_hadamard_when_an_element_is_nan_then_its_block_is_and_no_other(rotate, n, dtype):
    x = torch.ones(3, n, dtype=dtype)
    x[1, n // 2] = math.nan
    y = rotate(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_hadamard_when_an_element_is_infinite_then_its_block_holds_no_finite_number(rotate):
    x = torch.ones(2, 256)
    x[0, 3] = math.inf
    y = rotate(x)
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 12), (2, 0, 64)], ids=str)
def test_hadamard_when_there_are_no_elements_then_gives_none(rotate, shape):
    assert rotate(torch.empty(shape)).shape == shape


def test_hadamard_when_there_is_no_dimension_then_the_element_is_a_block(rotate):
    x = torch.tensor(3.0)
    assert_same_bits(rotate(x), x)
    assert_same_bits(rotate(x, 1, torch.tensor([-1.0])), -x)


def test_hadamard_when_threads_share_the_blocks_then_the_bits_stay():
    x = torch.randn(300, 1024)
    alone = torch.cat([hadamard(row[None]) for row in x])
    assert_same_bits(hadamard(x), alone)


# rotate_fake_quant.


@dtypes
@pytest.mark.parametrize("spec", ["int4:g32", "int8:channel", "int4:tensor"])
def test_rotate_fake_quant_when_called_then_it_is_the_two_ops_in_turn(dtype, spec):
    x, signs = torch.randn(6, 256).to(dtype), signs_of(128)
    assert_same_bits(rotate_fake_quant(x, spec, 128, signs), fake_quant(hadamard(x, 128, signs), spec))


def test_rotate_fake_quant_when_differentiated_then_the_gradient_is_rotated_back():
    x, gradient, signs = torch.randn(6, 96, requires_grad=True), torch.randn(6, 96), signs_of(48)
    rotate_fake_quant(x, "int4:g32", 48, signs).backward(gradient)
    assert_same_bits(x.grad, hadamard(gradient, 48, signs, transpose=True))


# Errors.


@pytest.mark.parametrize(
    ("shape", "block", "message"),
    [
        (
            (2, 130),
            None,
            r"no transform of size 130; the nearest sizes are 128 and 132\. Supported are powers of two and",
        ),
        ((2, 128), 30, "no transform of size 30; the nearest sizes are 28 and 32"),
        ((2, 100), 64, "blocks of 64 do not divide the last axis of 100 elements"),
        ((2, 64), 0, "block=0; wanted at least 1, or None"),
        ((2, 64), -1, "block=-1; wanted at least 1, or None"),
        ((2, 64), -8, "block=-8; wanted at least 1, or None"),
    ],
)
def test_hadamard_when_the_size_cannot_be_then_the_error_says_which_can(shape, block, message):
    with pytest.raises(SpecError, match=message):
        hadamard(torch.ones(shape), block)


def test_hadamard_when_signs_do_not_fit_then_the_error_says_what_does():
    x = torch.ones(2, 64)
    with pytest.raises(
        SpecError, match=r"signs has shape \[8\]; wanted one dimension of 16 \(the block\) or 64"
    ):
        hadamard(x, 16, torch.ones(8))
    with pytest.raises(SpecError, match=r"signs has shape \[1, 64\]; wanted one dimension of 64$"):
        hadamard(x, None, torch.ones(1, 64))
    with pytest.raises(SpecError, match="signs has no gradient"):
        hadamard(x, None, torch.ones(64, requires_grad=True))


@pytest.mark.parametrize("value", [0.0, 2.0, -0.5, math.nan])
def test_hadamard_when_a_sign_is_another_number_then_it_raises(rotate, value):
    signs = torch.ones(64)
    signs[5] = value
    with pytest.raises(RuntimeError, match="signs holds a value other than 1 and -1"):
        rotate(torch.ones(2, 64), None, signs)
