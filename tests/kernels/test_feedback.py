"""Columns rounded with error feedback: the bits of a loop of fake_quant, on every backend."""

from __future__ import annotations

import pytest
import torch
from bits import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qscale.errors import BackendError, SpecError
from qscale.kernels import fake_quant, use_backend, use_isa
from qscale.kernels.backends import backends
from qscale.kernels.fake_quantize import round_with_feedback

INTS = ["int4:channel", "int2:channel:full", "int8:channel:asym", "int3:channel:asym:floatzero"]
INTS += ["int4:channel:away", "int4:g32@chen2025"]
FLOATS = [
    "fp4_e2m1:channel",
    "fp8_e4m3:channel:away",
    "fp6_e3m2:channel",
    "mxfp4",
    "mxint8",
    "nvfp4:onelevel",
]
CODEBOOKS = ["nf4:channel", "dint4:channel", "fp4_bnb:g16"]
ISAS = ["plain", "avx2", "avx512"]
HAS_CPU = any(backend.name == "cpu" and backend.available for backend in backends())


def by_hand(
    x: Tensor, factor: Tensor, spec: str, scale: Tensor, zero: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One number at a time in Python's own float64, but for the rounding."""
    y, errors = torch.empty(x.shape), torch.empty_like(x)
    for i, r in torch.cartesian_prod(torch.arange(len(x)), torch.arange(x.shape[1])).tolist():
        value = float(x[i, r])
        for j in range(i):
            value = value - float(errors[j, r]) * float(factor[j, i])
        point = None if zero is None else zero[i, r].view(1)
        found = fake_quant(torch.tensor([value]), spec, scale=scale[i, r].view(1), zero_point=point)
        y[i, r] = found[0]
        errors[i, r] = (value - float(found[0])) / float(factor[i, i])
    return y, errors


def drawn(columns: int, rows: int, spec: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(columns, rows, generator=generator).double() * 1.7
    factor = torch.randn(columns, columns, generator=generator).double() / 3 + 2 * torch.eye(columns).double()
    scale = torch.rand(columns, rows, generator=generator) * 0.5
    scale[0, 0] = 0.0
    zero = torch.randn(columns, rows, generator=generator) * 4 if "asym" in spec else None
    return x, factor, scale, zero


@pytest.mark.parametrize("spec", INTS + FLOATS + CODEBOOKS)
def test_feedback_when_columns_are_rounded_then_it_is_the_loop_by_hand_exact(spec):
    x, factor, scale, zero = drawn(4, 5, spec)
    for backend in ("auto", "reference"):
        with use_backend(backend):
            got = round_with_feedback(x, factor, spec, scale=scale, zero_point=zero)
        for one, wanted in zip(got, by_hand(x, factor, spec, scale, zero), strict=True):
            assert one.dtype == wanted.dtype
            assert torch.equal(one, wanted)


@pytest.mark.skipif(not HAS_CPU, reason="no compiled kernels")
@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(INTS + FLOATS + CODEBOOKS),
    st.integers(0, 40),
    st.integers(0, 150),
    st.sampled_from(ISAS),
    st.integers(0, 2**31),
)
def test_feedback_when_compiled_then_it_has_the_bits_of_the_reference(spec, columns, rows, isa, seed):
    if not columns * rows:
        x, factor, scale, zero = torch.empty(columns, rows).double(), torch.eye(columns).double(), None, None
        scale = torch.empty(columns, rows)
        zero = scale if "asym" in spec else None
    else:
        x, factor, scale, zero = drawn(columns, rows, spec, seed)
        x[seed % columns, seed % rows] = (torch.nan, torch.inf, -1e300, -0.0)[seed % 4]
    with use_backend("reference"):
        wanted = round_with_feedback(x, factor, spec, scale=scale, zero_point=zero)
    try:
        with use_isa(isa):
            got = round_with_feedback(x, factor, spec, scale=scale, zero_point=zero)
    except BackendError:  # not of this machine
        return
    assert_same_bits(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=0, equal_nan=True)


def test_feedback_when_strides_are_any_then_the_inputs_stay_and_bits_are_the_same():
    x, factor, scale, _ = drawn(6, 9, "int4:channel")
    before = x.clone()
    wanted = round_with_feedback(x, factor, "int4:channel", scale=scale)
    got = round_with_feedback(
        x.t().contiguous().t(), factor.t().contiguous().t(), "int4:channel", scale=scale.t().contiguous().t()
    )
    assert torch.equal(x, before)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


def test_feedback_when_what_is_below_the_diagonal_changes_then_nothing_does():
    x, factor, scale, _ = drawn(6, 9, "mxfp4")
    got, same = (round_with_feedback(x, f, "mxfp4", scale=scale) for f in (factor, factor.triu()))
    assert torch.equal(got[0], same[0]) and torch.equal(got[1], same[1])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 3)}, "x has dtype"),
        ({"x": torch.ones(3).double()}, "dimensions; wanted"),
        ({"factor": torch.ones(3, 3).double()}, "factor has dtype"),
        ({"factor": torch.ones(2, 2)}, "factor has dtype"),
    ],
)
def test_feedback_when_tensors_do_not_fit_then_it_says_what_is_wanted(change, message, backend):
    given = {"x": torch.ones(2, 3).double(), "factor": torch.eye(2).double()} | change
    with use_backend(backend), pytest.raises(RuntimeError, match=message):
        round_with_feedback(given["x"], given["factor"], "int4:channel", scale=torch.ones(given["x"].shape))


def test_feedback_when_the_spec_does_not_go_with_it_then_it_raises():
    x, factor = torch.ones(2, 3).double(), torch.eye(2).double()
    with pytest.raises(SpecError, match="a zero point is given"):
        round_with_feedback(x, factor, "int4:channel", scale=torch.ones(2, 3), zero_point=torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="rounding=2"):
        round_with_feedback(x, factor, "int4:channel:stochastic", scale=torch.ones(2, 3))
