"""GPTQ against the recursion of optimal brain quantization, one explicit inverse a column."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.drawn import draw, layer, statistics

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, use_backend
from qscale.ptq.feedback import error_feedback, inverse_factor
from qscale.ptq.methods.gptq import GPTQ
from qscale.ptq.scales import GroupScales
from qscale.ptq.statistics import Statistics, output_error


def _obq(weight, moments, spec, *, damping=0.01, order=None):
    """Columns in order; after each the inverse of what is left is taken anew. Scales of the first weights."""
    W, H = weight.double().clone(), moments.double().clone()
    H += damping * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    order = order or list(range(len(H)))
    length = QuantSpec.parse(spec).group_length(len(H))
    scales = GroupScales(weight, QuantSpec.parse(spec))
    groups = [scales.find(part) for part in weight.split(length, dim=1)]
    left, out = order.copy(), torch.empty_like(W)
    for j in order:
        inverse = torch.linalg.inv(H[left][:, left])
        q = scales.round(W[:, [j]], groups[j // length])[:, 0].double()
        error = (W[:, j] - q) / inverse[0, 0]
        W[:, left] -= torch.outer(error, inverse[0])
        out[:, j] = q
        left = left[1:]
    return out.float()


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize(
    "spec", ["int4:channel", "int3:g4", "int4:g5:asym", "fp4_e2m1:g6", "nf4:g4", "mxfp4"]
)
@pytest.mark.parametrize("act_order", [False, True])
def test_it_is_the_exact_recursion(spec, act_order, block):
    weight, x = draw(4, 12)
    found = statistics(x)
    step = GPTQ(static=True, act_order=act_order, block=block, guard=False)
    got = step.round(layer(weight, spec), weight, found).weight
    order = torch.argsort(found.moments.diagonal(), descending=True).tolist() if act_order else None
    wanted = _obq(weight, found.moments, spec, order=order)
    assert torch.equal(got, wanted)


def test_scales_of_later_blocks_follow_the_weights_and_are_stale_within_one():
    """By hand: two groups of 4 columns, in one block and in two."""
    weight, x = draw(3, 8)
    found, spec = statistics(x), QuantSpec.parse("int4:g4")
    scales = GroupScales(weight, spec)
    factor, _ = inverse_factor(found.moments, 0.01)
    first = GPTQ(static=True, guard=False).rounded(weight, found.moments, scales)[0][:, :4]
    updated = weight.double().clone()
    for i in range(4):
        error = (updated[:, i] - first[:, i]) / factor[i, i]
        updated[:, i:] -= torch.outer(error, factor[i, i:])
    for block, base in ((4, updated.float()), (8, weight)):
        got, _ = GPTQ(block=block, guard=False).rounded(weight, found.moments, scales)
        assert torch.equal(got[:, :4], first)
        step = scales.find(base[:, 4:]).scale
        codes = got[:, 4:] / step
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [
            "int2:g8",
            "int4:g7",
            "int4:channel",
            "int3:g16:asym",
            "int4:tensor",
            "int4:b4",
            "mxfp4",
            "nvfp4",
            "nf4:g9",
        ]
    ),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 60),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_it_is_never_worse_than_rounding_to_nearest(spec, rows, width, tokens, act_order, seed):
    weight, x = draw(rows, width, tokens, seed)
    if seed % 3 == 0:
        x[:, 0] = 0.0
    found, one = statistics(x), layer(weight, spec)
    got = GPTQ(act_order=act_order, block=16).round(one, weight, found).weight
    errors = [float(output_error(w - weight, found.moments).sum()) for w in (one.nearest(weight), got)]
    assert errors[1] <= errors[0] * (1 + 1e-9)
    again = GPTQ(act_order=act_order, block=16).round(one, weight, found).weight
    assert torch.equal(got, again)


def test_without_the_guard_it_is_better_where_it_matters():
    weight, x = draw(32, 64, tokens=512)
    found, one = statistics(x), layer(weight, "int4:g32")
    got = GPTQ(guard=False).round(one, weight, found).weight
    errors = [float(output_error(w - weight, found.moments).sum()) for w in (one.nearest(weight), got)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("spec", ["int4:g5", "int4:g8:asym", "nvfp4", "mxfp4", "int4:tensor", "int4:b4"])
def test_white_inputs_give_the_nearest_values_exact(spec):
    weight, _ = draw(6, 40)
    found = Statistics(width=40, needs=("moments",))
    found.add(torch.eye(40))
    got = GPTQ(guard=False).round(layer(weight, spec), weight, found).weight
    assert torch.equal(got, fake_quant(weight, spec))


def test_channels_without_inputs_become_zero():
    weight, x = draw(4, 16)
    x[:, [3, 8]] = 0.0
    got = GPTQ(guard=False).round(layer(weight), weight, statistics(x)).weight
    assert float(got[:, [3, 8]].abs().max()) == 0.0
    none = GPTQ(guard=False).round(layer(weight), weight, statistics(x * 0)).weight
    assert float(none.abs().max()) == 0.0


def test_a_matrix_without_a_factor_gets_more_damping_and_says_so():
    weight, x = draw(4, 16, tokens=3)  # of rank 3
    rounded = GPTQ(damping=0.0).round(layer(weight), weight, statistics(x))
    assert "damping raised from 0 to" in rounded.notes[0]
    assert bool(rounded.weight.isfinite().all())


def test_the_factor_is_a_root_of_the_inverse():
    _, x = draw(1, 10)
    M = statistics(x).moments
    U, damping = inverse_factor(M, 0.01)
    damped = M + 0.01 * M.diagonal().mean() * torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(U.t() @ U @ damped, torch.eye(10, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert damping == 0.01 and torch.equal(U, U.triu())


def _old_factor(damped):
    """Cholesky, inverse, Cholesky: the formula of the authors' code."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky((inverse + inverse.t()) / 2, upper=True)


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 300])
def test_the_factor_is_that_of_the_inverse_at_any_width(width):
    _, x = draw(1, width, 2 * width)
    M = statistics(x).moments
    before = M.clone()
    U, _ = inverse_factor(M, 0.01)
    damped = M + 0.01 * M.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    assert torch.equal(M, before) and torch.equal(U, U.triu())
    torch.testing.assert_close(U, _old_factor(damped), rtol=1e-10, atol=1e-10 * float(U.abs().max()))
    one = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(U @ damped @ U.t(), one, rtol=0, atol=1e-10)


def test_the_factor_of_a_known_matrix_exact():
    """``M = R R^T`` of small integers, whose inverse is one of integers too."""
    R = torch.eye(200, dtype=torch.float64) + torch.diag(torch.ones(199, dtype=torch.float64), 1)
    U, used = inverse_factor(R @ R.t(), 0.0)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(100)
    assert used == 0.0 and torch.equal(U, torch.outer(signs, signs).triu())


class _Columns:
    """Columns one by one, rounded by fake_quant."""

    def __init__(self, scales):
        self.scales = scales

    def begin(self, column, weight):
        if column % self.scales.length == 0:
            self.found = self.scales.find(weight[:, column : column + self.scales.length].float())

    def round(self, column, values):  # noqa: ARG002
        return self.scales.round(values[:, None], self.found)[:, 0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        *("int4:g16", "int3:g7:asym", "int8:channel:asym:floatzero", "int4:tensor", "int4:b16"),
        *("fp4_e2m1:g50", "fp8_e4m3:channel", "mxfp4", "mxfp6_e3m2:ceil", "nvfp4", "nf4:g64"),
        "int4:g16:scale_input",
    ],
)
def test_strips_have_the_bits_of_columns_one_by_one(spec, dtype, backend):
    weight, x = draw(9, 150)
    found = statistics(x)
    factor, _ = inverse_factor(found.moments, 0.01)
    scales = GroupScales(weight.to(dtype), QuantSpec.parse(spec))
    wanted = error_feedback(weight, factor, _Columns(scales), block=100).float()
    with use_backend(backend):
        got, _ = GPTQ(block=100).rounded(weight, found.moments, scales)
    assert torch.equal(got, wanted)
