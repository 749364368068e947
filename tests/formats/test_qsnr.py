"""Signal-to-noise ratios: the closed forms of Chen et al. 2025 (arXiv:2510.25602), and how near they come."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qscale.errors import SpecError
from qscale.formats import mean_square_crest, qsnr_db, qsnr_float, qsnr_int, relmse

GROUPS = (16, 32, 64, 128, 256, 1024)


def error(decibels):
    return 10 ** (-decibels / 10)


def crossing(difference, low, high):
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if difference(low) * difference(middle) > 0 else (low, middle)
    return (low + high) / 2


# Crest factors where both are alike. The paper's integers have steps of maximum / 2**(b-1), and its figures
# come out with scales 1.5 times as large as unrounded ones for powers of two and 1.05 for E4M3. The 7.55
# for 7.542 is what constants in dB of two decimals come to.
CROSSINGS = [
    (8, "mxfp8_e4m3", 1.5, None, 7.55, 0.01),
    (6, "mxfp6_e2m3", 1.5, None, 1.96, 0.005),
    (4, "mxfp4", 1.5, None, 2.04, 0.005),
    (4, "nvfp4", 1.05, 16, 2.39, 0.005),
]


@pytest.mark.parametrize(("bits", "name", "rho", "group", "wanted", "within"), CROSSINGS)
def test_qsnr_when_crests_are_those_of_the_paper_then_integers_and_floats_are_alike(
    bits, name, rho, group, wanted, within
):
    def difference(crest):
        common = {"rho": rho, "group_size": group}
        return qsnr_int(bits, crest, denominator=2 ** (bits - 1), **common) - qsnr_float(
            name, crest, **common
        )

    assert crossing(difference, 1.5, 3.9 if group else 12) == pytest.approx(wanted, abs=within)
    assert difference(1.5) > 0


@pytest.mark.parametrize(("bits", "decibels"), [(3, 2.50), (4, 1.16), (8, 0.07)])
def test_qsnr_int_when_the_denominator_is_that_of_the_paper_then_it_is_too_much_by_what_was_stated(
    bits, decibels
):
    paper = qsnr_int(bits, 3.0, denominator=2 ** (bits - 1))
    assert paper == pytest.approx(4.78 + 6.02 * bits - 20 * math.log10(3), abs=0.01)
    assert paper - qsnr_int(bits, 3.0) == pytest.approx(decibels, abs=0.005)


def test_qsnr_int_when_the_largest_has_no_error_then_it_is_more():
    gain = qsnr_int(4, 2.0, group_size=16) - qsnr_int(4, 2.0)
    assert gain == pytest.approx(10 * math.log10(16 / 15), rel=1e-9)
    assert qsnr_int(4, 2.0, rho=2) == pytest.approx(qsnr_int(4, 4.0), rel=1e-12)
    assert qsnr_int(4, 1.0, group_size=1) == math.inf


def test_qsnr_float_when_the_range_is_wide_then_it_depends_on_the_mantissa_alone():
    for bits in (1, 3, 5):
        even, smooth = (
            qsnr_float(f"fp_e6m{bits}", 4.0, significands=name) for name in ("uniform", "log_uniform")
        )
        assert even == pytest.approx(13.80 + 6.02 * bits, abs=0.01)
        assert smooth == pytest.approx(13.46 + 6.02 * bits, abs=0.01)
    assert error(qsnr_float("fp8_e4m3", 3.5)) == pytest.approx(6.510e-4, rel=1e-3)
    assert error(qsnr_float("fp8_e4m3", 3.5, significands="log_uniform")) == pytest.approx(7.044e-4, rel=1e-3)
    assert relmse("fp8_e4m3:g1024") == pytest.approx(6.978e-4, rel=1e-4)


def test_qsnr_float_when_numbers_are_subnormal_alone_then_it_is_that_of_integers():
    # 2047 even steps up to the largest, and a scale so large that no value is a normal number
    assert qsnr_float("fp_e1m10", 1.0, rho=100.0) == pytest.approx(
        qsnr_int(8, 1.0, rho=100.0, denominator=(2**11 - 1) * 1.0), rel=1e-9
    )


@pytest.mark.parametrize(
    ("name", "even", "smooth"),
    [
        ("fp4_e2m1", (0.91, 0.97), (0.98, 1.03)),
        ("fp6_e2m3", (0.93, 0.97), (0.99, 1.05)),
        ("fp8_e4m3", (0.92, 0.94), (0.99, 1.02)),
    ],
)
def test_qsnr_float_when_compared_with_the_exact_error_then_it_is_as_near_as_stated(name, even, smooth):
    for group in GROUPS:
        crest = math.sqrt(mean_square_crest("gaussian", group))
        exact = relmse(f"{name}:g{group}")
        for significands, (low, high) in (("uniform", even), ("log_uniform", smooth)):
            estimate = error(qsnr_float(name, crest, group_size=group, significands=significands))
            assert low <= round(estimate / exact, 2) <= high


def test_qsnr_int_when_compared_with_the_exact_error_then_it_is_as_near_as_stated():
    for bits, within in ((3, 0.0022), (4, 0.00041), (8, 2e-6)):
        crests = [math.sqrt(mean_square_crest("gaussian", group)) for group in GROUPS]
        estimates = [error(qsnr_int(bits, c, group_size=g)) for c, g in zip(crests, GROUPS, strict=True)]
        exact = [relmse(f"int{bits}:g{group}") for group in GROUPS]
        np.testing.assert_allclose(estimates, exact, rtol=within)


def test_qsnr_db():
    assert qsnr_db(1) == 0
    assert qsnr_db(relmse("int4:g1")) == math.inf
    for wrong in (-1e-9, math.nan):
        with pytest.raises(SpecError, match="a mean squared error is 0 or more"):
            qsnr_db(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qsnr_int(9, 3.0), "num_bits=9: integers have 2 to 8 bits"),
        (lambda: qsnr_int(4, 0.9), r"crest=0\.9: no group's largest magnitude is below its root mean square"),
        (lambda: qsnr_int(4, math.nan), "crest=nan"),
        (lambda: qsnr_int(4, 3.0, rho=0), "rho=0: a ratio of scales is above 0"),
        (lambda: qsnr_int(4, 5.0, group_size=16), r"crest=5\.0: that of 16 elements is at most the root of"),
        (lambda: qsnr_int(4, 3.0, denominator=0), "denominator=0: wanted a number above 0"),
        (lambda: qsnr_float("int4", 3.0), "'int4' is no floating-point format with exponents"),
        (lambda: qsnr_float("nf4", 3.0), "'nf4' is no floating-point format"),
        (lambda: qsnr_float("fp_e0m3", 3.0), "'fp_e0m3' is no floating-point format with exponents"),
        (
            lambda: qsnr_float("fp4_e2m1", 3.0, significands="even"),
            "significands='even'; known: uniform, log_",
        ),
    ],
)
def test_qsnr_when_an_argument_is_wrong_then_the_error_says_which(call, message):
    with pytest.raises(SpecError, match=message):
        call()
