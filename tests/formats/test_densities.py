"""Densities of magnitudes: against closed forms of their integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qscale.errors import SpecError
from qscale.formats.densities import density

X = np.concatenate([np.geomspace(1e-7, 8, 300), np.linspace(0, 8, 301)])


def angle_form(x, terms):
    """P(|t| < x) of Student's t with an odd number of degrees: 2/pi (angle + sine times a polynomial)."""
    angle = np.arctan(x / math.sqrt(2 * len(terms) + 1))
    sine, cosine = np.sin(angle), np.cos(angle)
    return 2 / math.pi * (angle + sine * sum(c * cosine ** (2 * i + 1) for i, c in enumerate(terms)))


BELOW = {
    ("gaussian", 0.0): [math.erf(x / math.sqrt(2)) for x in X],
    ("laplace", 0.0): -np.expm1(-X),
    ("student_t", 3.0): angle_form(X, (1,)),
    ("student_t", 5.0): angle_form(X, (1, 2 / 3)),
    ("student_t", 7.0): angle_form(X, (1, 2 / 3, 8 / 15)),
    ("student_t", 4.0): X * (X**2 + 6) / (X**2 + 4) ** 1.5,
}


@pytest.mark.parametrize(("name", "df"), BELOW)
def test_beyond_when_there_is_a_closed_form_then_that_is_it(name, df):
    of = density(name, df)
    np.testing.assert_allclose(1 - of.beyond(X), BELOW[name, df], rtol=0, atol=1e-13)


def test_beyond_when_far_out_then_small_chances_have_their_digits():
    of = density("laplace", 0.0)
    np.testing.assert_allclose(of.beyond(np.array([20.0, 30.0])), np.exp([-20.0, -30.0]), rtol=1e-6)
    of = density("gaussian", 0.0)
    wanted = [math.erfc(x / math.sqrt(2)) for x in (5.0, 7.0)]
    np.testing.assert_allclose(of.beyond(np.array([5.0, 7.0])), wanted, rtol=1e-6)
    assert of.beyond(np.array([of.end, 1e9])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "df"), [*BELOW, ("student_t", 30.5)])
def test_maxima_when_the_density_of_a_maximum_is_summed_then_it_is_one(name, df):
    of = density(name, df)
    for count in (1, 2, 32, 10**5):
        for times in (1.0, 2.0):
            maximum, weight = of.maxima(count, times)
            total = count * weight @ (of.pdf(maximum) * (1 - of.exceeded(maximum, count - 1)))
            (from_start,) = of.exceeded(np.array([of.least_maximum(count)]), count)
            assert total == pytest.approx(from_start, rel=2e-9)
            assert from_start == pytest.approx(1, abs=1e-5)
            assert maximum.max() < times * of.end


def test_exceeded_when_one_of_none_is_asked_for_then_there_is_no_chance():
    of = density("gaussian", 0.0)
    assert of.exceeded(np.array([0.0, 1.0]), 0).tolist() == [0.0, 0.0]
    assert of.exceeded(np.array([0.0]), 3).tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "df", "message"),
    [
        ("cauchy", 5.0, "unknown distribution 'cauchy'; known: gaussian, laplace, student_t"),
        ("student_t", 2.0, r"df=2.0: Student's t is covered from 3.0 degrees of freedom on"),
        ("student_t", math.nan, "df=nan"),
        ("student_t", math.inf, "df=inf"),
    ],
)
def test_density_when_there_is_none_then_it_says_which_there_are(name, df, message):
    with pytest.raises(SpecError, match=message):
        density(name, df)
