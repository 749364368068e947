"""What stores keys and values, against plain computations in float64 and known constants."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from qscale.errors import ConfigError, SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, hadamard
from qscale.models.attention import Recent
from qscale.ptq.cache.coder import Coder, InHadamard, Looking, drawn_rotation
from qscale.ptq.cache.fake_quantized import PerChannel, PerToken
from qscale.ptq.cache.rotated_table import GaussianTable, SeenTable
from qscale.ptq.cache.sketch import sketch_factor, sketch_matrix, sketched
from qscale.ptq.cache.sketched import Sketched
from qscale.ptq.cache.tables import k_means, lloyd_max, lloyd_max_error, nearest


def keys(batch=3, heads=2, tokens=40, size=16, seed=0):
    """Correlated channels, two of them large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, heads, tokens, size, generator=generator)
    x = x @ torch.randn(heads, size, size, generator=generator)
    x[..., 3] *= 8
    x[:, 1, :, -1] *= 6
    return x


def fixed(coder, x):
    coder.look(x)
    coder.fix()
    return coder


def error(x, y):
    return float((x.double() - y.double()).square().sum() / x.double().square().sum())


# Tables


@pytest.mark.parametrize(("bits", "wanted"), [(1, 0.36338), (2, 0.117482), (3, 0.034548), (4, 0.009501)])
def test_the_table_of_the_normal_distribution_has_its_known_error(bits, wanted):
    assert lloyd_max_error(lloyd_max(bits)) == pytest.approx(wanted, abs=6e-7 if bits > 1 else 6e-6)


@pytest.mark.parametrize("bits", [0, 1, 3, 7])
def test_levels_are_the_means_of_their_cells_by_quadrature(bits):
    levels = lloyd_max(bits)
    ends = [-9.0, *((a + b) / 2 for a, b in itertools.pairwise(levels)), 9.0]

    def density(t):
        return math.exp(-t * t / 2)

    assert len(levels) == 2**bits and list(levels) == sorted(levels)
    for level, low, high in zip(levels, ends, ends[1:], strict=False):
        mass = integrate.quad(density, low, high)[0]
        mean = integrate.quad(lambda t: t * density(t), low, high)[0] / mass
        assert level == pytest.approx(mean, abs=1e-6)


@given(st.integers(0, 4), st.integers(1, 300), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_k_means_ends_no_worse_than_its_quantiles_and_stands_still(bits, count, seed):
    x = torch.randn(count, generator=torch.Generator().manual_seed(seed)).double() ** 3
    table = k_means(x, bits)
    begin = x.sort().values[((np.arange(2**bits) + 0.5) / 2**bits * count).astype(int).clip(max=count - 1)]
    lost = [float((nearest(x, t) - x).square().sum()) for t in (begin.sort().values, table)]
    assert lost[1] <= lost[0] * (1 + 1e-12) + 1e-20 * count and torch.equal(table, table.sort().values)
    cells = (x[:, None] - table).abs().argmin(1)
    for level in range(2**bits):
        if bool((cells == level).any()) and (table == table[level]).sum() == 1:
            assert float(table[level]) == pytest.approx(float(x[cells == level].mean()), abs=1e-6)


def test_k_means_of_as_many_numbers_as_values_loses_nothing():
    x = torch.tensor([3.0, -1.0, 0.5, 7.0]).repeat(5)
    assert torch.equal(nearest(x.double(), k_means(x, 2)), x.double())


# Sketches


def test_a_chunk_of_directions_is_orthogonal_and_the_next_another():
    S = sketch_matrix("a", 8, 20)
    eye = torch.eye(8, dtype=torch.float64)
    for chunk in (S[:, :8], S[:, 8:16]):
        torch.testing.assert_close(chunk @ chunk.t(), 8 * eye, rtol=0, atol=1e-12)
    assert S.shape == (8, 20) and not torch.allclose(S[:, :8], S[:, 8:16])
    assert torch.equal(S, sketch_matrix("a", 8, 20)) and not torch.equal(S, sketch_matrix("b", 8, 20))


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_the_factor_is_one_over_the_mean_projection_by_quadrature(size):
    """The density of one coordinate of a point of the sphere is ``(1 - t^2)^((n - 3) / 2)``, t = cos a."""

    def weight(a):
        return math.sin(a) ** (size - 2)

    mean = integrate.quad(lambda a: abs(math.cos(a)) * weight(a), 0, math.pi)[0]
    mean *= math.sqrt(size) / integrate.quad(weight, 0, math.pi)[0]
    assert sketch_factor(size) == pytest.approx(1 / mean, rel=1e-7)
    assert sketch_factor(size, orthogonal=False) == math.sqrt(math.pi / 2)


def test_scores_of_decoded_keys_are_those_of_the_estimator():
    """``sqrt(pi / 2) / m |k| <S^T q, sign(S^T k)>``, number by number."""
    rng = np.random.RandomState(0)
    q, k, S = rng.randn(6), rng.randn(6), rng.randn(6, 10)
    wanted = 0.0
    for column in S.T:
        wanted += float(column @ q) * (1 if float(column @ k) >= 0 else -1)
    wanted *= math.sqrt(math.pi / 2) / 10 * math.sqrt(float(k @ k))
    decoded = sketched(torch.tensor(k), torch.tensor(S), math.sqrt(math.pi / 2))
    assert float(decoded @ torch.tensor(q)) == pytest.approx(wanted, rel=1e-12)


def _estimates(size, columns, orthogonal, factor, draws=1500):
    generator = torch.Generator().manual_seed(1)
    k = torch.randn(size, generator=generator).double()
    q = (k + torch.randn(size, generator=generator)).double()
    found = [
        float(q @ sketched(k, sketch_matrix(f"{i}", size, columns, orthogonal=orthogonal), factor))
        for i in range(draws)
    ]
    return float(q @ k), np.mean(found), np.std(found) / math.sqrt(draws)


@pytest.mark.parametrize(("columns", "orthogonal"), [(8, True), (12, True), (8, False)])
def test_scores_have_no_bias(columns, orthogonal):
    exact, mean, se = _estimates(8, columns, orthogonal, sketch_factor(8, orthogonal=orthogonal))
    assert abs(mean - exact) < 4 * se and se < 0.03 * exact


def test_the_test_of_bias_finds_the_constant_that_is_not_that_of_orthogonal_chunks():
    exact, mean, se = _estimates(8, 8, True, math.sqrt(math.pi / 2))
    assert mean - exact > 4 * se
    assert mean / exact == pytest.approx(math.sqrt(math.pi / 2) / sketch_factor(8), abs=4 * se / exact)


def test_large_channels_are_sketched_apart_by_hand():
    x = keys()
    coder = fixed(Sketched("a", 2, 16, bits=2, outliers=2, outlier_bits=5), x)
    norms = x.double().square().sum((0, 2))
    made = coder(x)
    for head in range(2):
        large = sorted(torch.argsort(norms[head], descending=True)[:2].tolist())
        assert 3 in large
        one = x[1, head, 7].double()
        order = torch.argsort(norms[head], descending=True, stable=True)
        rest = order[2:]
        norm = math.sqrt(float(one @ one) - float(one[order[:2]] @ one[order[:2]]))  # |k|^2 - |k_out|^2
        S = sketch_matrix("a.rest", 14, 28)
        signs = torch.where(one[rest] @ S >= 0, 1.0, -1.0).double()
        wanted = sketch_factor(14) / 28 * norm * (S @ signs)
        torch.testing.assert_close(made[1, head, 7][rest].double(), wanted, rtol=1e-4, atol=1e-4)
    assert coder.bits == (2 * 14 + 5 * 2 + 32) / 16 and coder.table_bits == 32
    assert error(x, made) < error(x, fixed(Sketched("a", 2, 16, bits=2), x)(x))


# Rotations and tables


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_error_of_turboquant_is_that_of_the_table_and_within_its_bound(bits):
    x = torch.randn(1, 1, 2000, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 3, 128)
    lost = error_of_each(x, GaussianTable("a", 1, 128, bits=bits, sketch=False)(x))
    assert lost == pytest.approx(lloyd_max_error(lloyd_max(bits)), rel=0.1)
    assert lost <= math.sqrt(3) * math.pi / 2 * 4**-bits


def error_of_each(x, y):
    """The mean over vectors of ``|x - y|^2 / |x|^2``."""
    x, y = x.double(), y.double()
    return float(((x - y).square().sum(-1) / x.square().sum(-1)).mean())


@pytest.mark.parametrize("bits", [1, 3])
def test_inner_products_of_turboquant_have_no_bias_and_those_of_the_table_have_one(bits):
    generator = torch.Generator().manual_seed(2)
    k = torch.randn(16, generator=generator)
    q = k + torch.randn(16, generator=generator)
    exact = float(q.double() @ k.double())
    for sketch in (True, False):
        found = [
            float(q @ GaussianTable(f"{i}", 1, 16, bits=bits, sketch=sketch)(k.view(1, 1, 1, 16)).flatten())
            for i in range(500)
        ]
        mean, se = np.mean(found), np.std(found) / math.sqrt(len(found))
        assert bool(abs(mean - exact) < 4 * se) is sketch
        assert sketch or mean < exact  # means of cells lie nearer to 0


def test_turboquant_by_hand():
    x, size = keys(size=8), 8
    coder = GaussianTable("a", 2, size, bits=3, sketch=True)
    one = x[0, 1, 3].double()
    R, S = drawn_rotation("a.basis", size), sketch_matrix("a.sketch", size, size)
    norm = one.norm() / math.sqrt(size)
    z = one / norm @ R
    levels = torch.tensor(lloyd_max(2), dtype=torch.float64)
    near = torch.stack([levels[(v - levels).abs().argmin()] for v in z])
    left = z - near
    near = near + sketch_factor(size) / size * left.norm() * (S @ torch.sign(left @ S))
    torch.testing.assert_close(coder(x)[0, 1, 3].double(), near @ R.t() * norm, rtol=1e-4, atol=1e-4)
    assert coder.bits == 3 + 32 / 8 and coder.table_bits == 0


@pytest.mark.parametrize("turned", [True, False])
def test_turboesm_by_hand(turned):
    x = keys(size=8)
    coder = fixed(SeenTable("a", 2, 8, bits=3, turned=turned, residual=True), x)
    rows = x.transpose(0, 1).reshape(2, -1, 8).double().numpy()
    scaled = rows / np.sqrt((rows**2).mean(-1, keepdims=True))
    if turned:
        bases = [np.linalg.svd(part, full_matrices=False)[2].T for part in rows]
        for head, basis in enumerate(bases):
            found = coder.basis[head].double().numpy()
            np.testing.assert_allclose(np.abs((found * basis).sum(0)), 1.0, atol=1e-5)
        scaled = np.stack([part @ coder.basis[h].double().numpy() for h, part in enumerate(scaled)])
    table = k_means(torch.from_numpy(scaled), 3).numpy()
    np.testing.assert_allclose(coder.table.numpy(), table, atol=1e-4)
    near = table[np.abs(scaled[..., None] - table).argmin(-1)]
    left = scaled - near
    made = near + np.where(left >= 0, 1, -1) * np.abs(left).mean(-1, keepdims=True)
    if turned:
        made = np.stack([part @ coder.basis[h].double().numpy().T for h, part in enumerate(made)])
    made *= np.sqrt((rows**2).mean(-1, keepdims=True))
    got = coder(x).transpose(0, 1).reshape(2, -1, 8).double().numpy()
    assert np.abs(got - made).max() < 1e-3 * np.abs(made).max()
    assert coder.bits == 4 + 32 / 8
    assert coder.table_bits == 16 * (8 + (2 * 64 if turned else 0))


@given(st.integers(0, 4), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_bit_for_the_rest_never_makes_it_worse(bits, turned, seed):
    x = keys(tokens=9, size=4, seed=seed)
    lost = [
        error_of_each(x, fixed(SeenTable("a", 2, 4, bits=bits, turned=turned, residual=r), x)(x))
        for r in (False, True)
    ]
    assert lost[1] <= lost[0] + 1e-9


def test_vectors_of_zeros_and_halves_stay_finite():
    x = keys(size=8)
    x[0, 0, 0] = 0.0
    coders = [
        fixed(SeenTable("a", 2, 8, bits=2, turned=True, residual=True), x),
        GaussianTable("a", 2, 8, bits=2, sketch=True),
        Sketched("a", 2, 8, bits=2),
        PerToken("a", 2, 8, QuantSpec.parse("int4:token")),
    ]
    for coder in coders:
        made = coder(x)
        assert float(made[0, 0, 0].abs().max()) == 0.0 and bool(made.isfinite().all())
        assert coder(x.bfloat16()).dtype == torch.bfloat16


# Formats


@pytest.mark.parametrize("spec", ["int4:g8", "int3:g6:asym", "mxfp4", "nf4:g16"])
def test_keys_by_channel_share_scales_of_tokens(spec):
    x = keys()
    made = PerChannel("a", 2, 16, QuantSpec.parse(spec))(x)
    for channel in (0, 3):
        assert torch.equal(made[1, 1, :, channel], fake_quant(x[1, 1, :, channel].contiguous(), spec))


def test_scales_of_channels_for_good_by_hand():
    x, later = keys(), 2 * keys(seed=1)
    symmetric = fixed(PerChannel("a", 2, 16, QuantSpec.parse("int4:channel")), x)
    scale = x.abs().amax((0, 2)) / 7
    codes = (later / scale[:, None]).round().clamp(-7, 7)
    torch.testing.assert_close(symmetric(later), codes * scale[:, None])
    asym = fixed(PerChannel("a", 2, 16, QuantSpec.parse("int4:token:asym")), x)
    low, high = x.amin((0, 2)).clamp(max=0), x.amax((0, 2)).clamp(min=0)
    scale = ((high - low) / 15)[:, None]
    zero = (-low[:, None] / scale).round()
    codes = ((later / scale).round() + zero).clamp(0, 15)
    torch.testing.assert_close(asym(later), (codes - zero) * scale, rtol=1e-5, atol=1e-5)
    assert (symmetric.bits, symmetric.table_bits) == (4, 2 * 16 * 16)
    assert (asym.bits, asym.table_bits) == (4, 2 * 16 * 20)


def test_small_channels_beside_large_ones_are_better_by_channel():
    x, spec = keys(), QuantSpec.parse("int4:token")
    lost = []
    for kind in (PerToken, PerChannel):
        made = fixed(kind("a", 2, 16, spec), x)(x)
        lost.append(error_of_each(x.transpose(-1, -2), made.transpose(-1, -2)))
    assert lost[1] < 0.5 * lost[0]


def test_a_rotated_coder_works_in_the_rotated_basis():
    x, spec = keys(), QuantSpec.parse("int4:token")
    coder = InHadamard(fixed(PerToken("a", 2, 16, spec), x), 16)
    wanted = hadamard(fake_quant(hadamard(x), spec), transpose=True)
    assert torch.equal(coder(x), wanted)
    by_channel = InHadamard(PerChannel("a", 2, 16, QuantSpec.parse("int8:channel")), 16)
    by_channel.look(x)
    by_channel.fix()
    torch.testing.assert_close(by_channel.coder.scale[..., 0], hadamard(x).abs().amax((0, 2)) / 127)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [("int4:token", 4 + 16 / 64), ("int4:g32:asym", 4 + 20 / 32), ("mxfp4", 4.25), ("int2:token", 2.25)],
)
def test_bits_by_token_count_scales_and_zero_points(spec, wanted):
    assert PerToken("a", 2, 64, QuantSpec.parse(spec)).bits == wanted


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int4:tensor", "yet to come"),
        ("int4:b16", "yet to come"),
        ("nvfp4", "yet to come"),
        ("int4:g8:stochastic", "rounded to nearest"),
    ],
)
def test_scales_that_a_cache_cannot_have_are_refused(spec, message):
    for kind in (PerToken, PerChannel):
        with pytest.raises(SpecError, match=message):
            kind("layer 3", 2, 16, QuantSpec.parse(spec))


def test_what_is_not_finite_names_its_attention():
    looking = Looking("layer 3.key", lambda heads, size: Coder("x", heads, size))
    with pytest.raises(ConfigError, match=r"layer 3\.key: calibration found numbers that are not finite"):
        looking(torch.full((1, 1, 2, 4), torch.nan))


@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 20))
def test_recent_tokens_are_those_of_a_cache_that_grows(tokens, group, count):
    """Token by token: whole groups leave full precision when they are complete and old enough."""
    full = Recent(tokens=tokens, group=group).full(count)
    for query in range(count):
        held = query + 1
        stored = max(0, held - tokens) // group * group
        assert full[query, :held].tolist() == [key >= stored for key in range(held)]
