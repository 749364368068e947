"""Bytes against published and hand-counted sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qscale.errors import ConfigError
from qscale.planning import bits_per_weight, model_bytes, weight_bytes

LLAMA2_7B = [shape for _ in range(32) for shape in (*[(4096, 4096)] * 4, *[(11008, 4096)] * 2, (4096, 11008))]
OTHER = 262_144_000  # embedding and head


@pytest.mark.parametrize(
    ("spec", "options", "bits"),
    [
        ("mxfp4", {}, 4.25),
        ("mxfp8_e4m3", {}, 8.25),
        ("nvfp4", {}, 4.5),
        ("int4:g128", {}, 4.125),
        ("int4:g32", {}, 4.5),
        ("int4:g128:asym", {}, 4.15625),
        ("int4:g128", {"zero_bits": 4}, 4.15625),
        ("int2:g64:asym", {}, 2.28125),
        ("int4:g128:asym", {"zero_bits": 16}, 4.25),
        ("int2:g64:asym", {"zero_bits": 16}, 2.5),
        ("int8:channel", {"in_features": 4096}, 8 + 16 / 4096),
        ("int4:g128", {"in_features": 200}, 4 + 2 * 16 / 200),
        ("fp8_e4m3:tensor", {}, 8),
        ("int4:g64:scale_e4m3", {}, 4 + 8 / 64),
        ("int4:g64:scale_e8m0", {}, 4 + 8 / 64),
        *((f"int4:g64:scale_{name}", {}, 4 + 16 / 64) for name in ("input", "fp16", "bf16")),
        ("dint4:g64:scale_e4m3:onelevel", {}, 4 + 8 / 64),
        ("int4:g64:asym:floatzero", {}, 4 + (16 + 16) / 64),
        ("int4:g64:asym:scale_e4m3", {}, 4 + (8 + 4) / 64),
        ("int4:g64:asym:floatzero", {"zero_bits": 8, "scale_bits": 8}, 4 + 16 / 64),
        ("int4:g64:full:stochastic", {}, 4.25),
        ("int4:b128", {}, 4 + 16 / 128**2),
        ("mxfp4:b32", {}, 4 + 8 / 32**2),
        ("int8:b128:asym", {"in_features": 200}, 8 + 2 * (16 + 8) / (200 * 128)),
        ("nvfp4:b16:onelevel", {"in_features": 24}, 4 + 2 * 8 / (24 * 16)),
    ],
)
def test_bits_per_weight_exact(spec, options, bits):
    assert bits_per_weight(spec, **options) == bits


def test_llama2_7b_has_the_weights_that_are_counted():
    assert sum(a * b for a, b in LLAMA2_7B) == 6_476_005_376


@pytest.mark.parametrize(
    ("spec", "zero_bits", "gib", "printed"),
    [
        ("int4:g128:asym", None, 3.62, 3.7),
        ("int2:g64:asym", None, 2.21, 2.3),
        ("int4:g128:asym", 16, 3.69, 3.7),
        ("int2:g64:asym", 16, 2.37, 2.3),
    ],
)
def test_llama2_7b_bytes_agree_with_the_derived_and_the_printed_size(spec, zero_bits, gib, printed):
    total = model_bytes(spec, LLAMA2_7B, full_precision=OTHER, zero_bits=zero_bits).total
    assert round(total / 2**30, 2) == gib
    assert total / 2**30 == pytest.approx(printed, rel=0.07)


def test_llama2_7b_w4g128_to_the_byte():
    found = model_bytes("int4:g128:asym", LLAMA2_7B, full_precision=OTHER)
    groups = 6_476_005_376 // 128
    assert found.elements == 6_476_005_376 // 2
    assert (found.scales, found.zero_points, found.full_precision) == (2 * groups, groups // 2, 2 * OTHER)
    assert found.total == 6_476_005_376 * 415625 // 100000 // 8 + 2 * OTHER


def test_nvfp4_counts_one_float32_a_tensor():
    assert weight_bytes("nvfp4", (64, 64)).total == 64 * 64 * 45 // 80 + 4
    assert weight_bytes("nvfp4:onelevel", (64, 64)).total == 64 * 64 * 45 // 80


# Of 10 * 48 weights: bytes of the scales, and of the zero points.
@pytest.mark.parametrize(
    ("spec", "scales", "zero_points"),
    [
        ("int4:g32:scale_e4m3", 10 * 2 + 4, 0),
        ("int4:g32:scale_e4m3:onelevel", 10 * 2, 0),
        ("int4:tensor:scale_e4m3", 1 + 4, 0),
        ("fp8_e4m3:channel:scale_e8m0", 10, 0),
        ("nf4:g32:scale_bf16", 10 * 2 * 2, 0),
        ("int4:g32:asym", 10 * 2 * 2, 10),
        ("int4:g32:asym:floatzero", 10 * 2 * 2, 10 * 2 * 2),
        ("int4:b32:asym", 2 * 2, 1),
        ("int2:b4:asym:floatzero:scale_e4m3", 3 * 12 + 4, 2 * 3 * 12),
        ("mxfp4:b32", 2, 0),
        ("nvfp4:b16", 3 + 4, 0),
        ("int4:b1000", 2, 0),
    ],
)
def test_scales_and_zero_points_to_the_byte(spec, scales, zero_points):
    found = weight_bytes(spec, (10, 48))
    assert (found.scales, found.zero_points) == (scales, zero_points)


def test_ragged_last_group_and_tensor_scale():
    assert weight_bytes("int4:g32", (10, 48)).scales == 10 * 2 * 2
    assert weight_bytes("int8:tensor", (10, 48)).scales == 2
    assert weight_bytes(None, (10, 48)).total == 960


@given(out=st.integers(1, 300), k=st.integers(1, 300), g=st.integers(1, 400), bits=st.integers(2, 8))
def test_bytes_and_bits_agree_within_rounding(out, k, g, bits):
    exact = bits_per_weight(f"int{bits}:g{g}", in_features=k) * out * k / 8
    total = weight_bytes(f"int{bits}:g{g}", (out, k)).total
    assert exact - 1e-6 <= total <= exact + 2


@given(out=st.integers(1, 60), k=st.integers(1, 60), edge=st.integers(1, 70))
def test_squares_are_counted_as_they_are_laid_out(out, k, edge):
    squares = {(row // edge, column // edge) for row in range(out) for column in range(k)}
    found = weight_bytes(f"int4:b{edge}:asym", (out, k))
    assert (found.scales, found.zero_points) == (2 * len(squares), (len(squares) + 1) // 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bits_per_weight("int4:channel"), "depend on in_features; give it"),
        (lambda: bits_per_weight("int4:g32", in_features=0), "in_features=0"),
        (lambda: bits_per_weight("int4:g32", scale_bits=-1), "scale_bits=-1"),
        (lambda: weight_bytes("int4:g32", (0, 4)), r"shape \(0, 4\)"),
        (lambda: model_bytes("int4:g32", [], full_precision=-1), "full_precision=-1"),
    ],
)
def test_bad_sizes_are_errors(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
