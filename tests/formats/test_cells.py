"""Cells of quantizers: their sums and integrals, against sums over every cell and a fine grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qscale.formats import values
from qscale.formats.cells import cells, error_at, regions
from qscale.formats.densities import density

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_regions_when_the_format_is_small_then_all_values_are_there_between_midpoints():
    borders = [0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, math.inf]
    wanted = zip(E2M1, borders[:-1], borders[1:], [1.0] * 8, strict=True)
    assert sorted(zip(*regions(np.array(E2M1)), strict=True)) == list(wanted)


@pytest.mark.parametrize("parts", [1, 2])
def test_regions_when_values_are_many_then_few_stand_for_them_in_sums_of_smooth_functions(parts):
    every = np.array(values("fp_e4m8")[len(values("fp_e4m8")) // 2 :])
    value, start, stop, weight = regions(every, parts=parts)
    assert len(value) < len(every) / 4
    assert weight.sum() == pytest.approx(len(every), rel=1e-12)
    few, all_of_them = np.exp(-((value / 200) ** 2)), np.exp(-((every / 200) ** 2))
    assert weight @ few == pytest.approx(all_of_them.sum(), rel=1e-12)
    widths = np.diff([0.0, *(every[1:] + every[:-1]) / 2, 512.0])
    assert weight @ (few * (np.minimum(stop, 512) - start)) == pytest.approx(all_of_them @ widths, rel=1e-12)


def test_regions_when_cells_may_be_cut_then_those_are_given_one_by_one():
    every = np.arange(129.0)
    value, _, _, weight = regions(every, whole_below=100.0)
    assert set(every[65:]) <= set(value)
    assert (weight[value > 64] == 1).all()
    assert weight.sum() == pytest.approx(129, rel=1e-12)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "student_t", "laplace"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 5.2), (0.0, 7.9), (4.1, 6.0), (5.6, 20.0)])
def test_integral_when_summed_on_a_fine_grid_then_it_is_that(stochastic, name, low, high):
    of = density(name, 5.0)
    scale = np.array([0.01, 0.3, 2.0])
    found = cells([E2M1], stochastic).integral(of, scale, high * scale, low * scale)
    y = low + (high - low) * (np.arange(400_000) + 0.5) / 400_000
    place = np.clip(np.searchsorted(E2M1, y), 1, 7)
    below, above = y - np.array(E2M1)[place - 1], np.array(E2M1)[place] - y
    between = below * above if stochastic else np.minimum(below, above) ** 2
    error = np.where(y > 6, (y - 6) ** 2, between)
    for s, one in zip(scale, found, strict=True):
        assert one == pytest.approx(s**3 * (error * of.pdf(s * y)).mean() * (high - low), rel=1e-8)


def test_cells_when_the_sides_differ_then_each_has_half():
    of, scale = density("gaussian", 5.0), np.array([0.7])
    sides = [(0.0, 1.0, 2.0), (0.0, 1.0, 2.0, 3.0)]
    both, up, down = (
        cells(chosen, False).integral(of, scale, 4 * scale)[0] for chosen in (sides, sides[:1], sides[1:])
    )
    assert both == pytest.approx((up + down) / 2, rel=1e-12)
    assert up > down


def test_integral_when_nothing_is_between_the_ends_then_it_is_zero():
    of, ends = density("gaussian", 5.0), np.array([0.0, 1.0])
    assert cells([E2M1], False).integral(of, np.ones(2), ends, ends).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("place", "nearest", "stochastic"),
    [(0.0, 0, 0), (0.25, 0.0625, 0.0625), (2.75, 0.0625, 0.1875), (6.0, 0, 0), (7.5, 2.25, 2.25)],
)
def test_error_at_a_place(place, nearest, stochastic):
    assert error_at(place, [E2M1], False) == nearest
    assert error_at(place, [E2M1], True) == stochastic


def test_error_at_when_one_side_ends_sooner_then_it_is_the_mean():
    assert error_at(8.0, [range(8), range(9)], False) == 0.5
