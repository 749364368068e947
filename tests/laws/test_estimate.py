"""Estimates under restrictions: draws, covariance and profiles against each other and the literature."""

from __future__ import annotations

import numpy as np
import pytest
from public_runs import epoch

from qscale.errors import LawError
from qscale.laws import forms
from qscale.laws.design import Design
from qscale.laws.estimate import Estimate, Restriction
from qscale.laws.objective import Objective

HUBER = Objective(loss="huber", width=1e-3)


def restriction(design, fix=(), tie=(), bounds=(), prior=()):
    return Restriction.make(design, fix=dict(fix), tie=dict(tie), bounds=dict(bounds), prior=dict(prior))


def synthetic(sd=0.003, rows=60, seed=0, clusters=None, cluster_sd=0.0):
    """Rows of a known law with noise in the logarithm."""
    rng = np.random.default_rng(seed)
    n, d = (
        np.exp(rng.uniform(np.log(1e7), np.log(1e10), rows)),
        np.exp(rng.uniform(np.log(1e9), np.log(1e12), rows)),
    )
    true = {"A": 400.0, "B": 1000.0, "E": 1.7, "alpha": 0.34, "beta": 0.33}
    form = forms.get("chinchilla")
    noise = sd * rng.standard_normal(rows)
    if clusters is not None:
        noise = noise + cluster_sd * rng.standard_normal(int(clusters.max()) + 1)[clusters]
    return Design.make(form, {"N": n, "D": d}, form.value(true, {"N": n, "D": d}) * np.exp(noise)), true


def test_estimate_of_the_epoch_rows_is_their_optimum_and_says_how_many_starts_found_it(shared):
    design = epoch(shared)
    found = Estimate.make(design, HUBER, restriction(design))
    assert found.value == pytest.approx(0.00101827401780, rel=1e-9)
    assert found.converged
    assert found.share_at_best > 0.5
    assert not found.at_bound.any()


def test_bootstrap_of_the_epoch_rows_has_the_published_standard_errors(shared):
    design = epoch(shared)
    found = Estimate.make(design, HUBER, restriction(design))
    sd = np.std(found.bootstrap("case", np.arange(240), 2000, seed=0), axis=0)
    published = {"alpha": 0.0154, "beta": 0.0206}
    for name, value in published.items():
        assert sd[design.names.index(name)] == pytest.approx(value, rel=0.05), name


@pytest.mark.parametrize(
    "objective", [Objective(), Objective(residual="raw"), Objective(loss="huber", width=0.01)], ids=str
)
def test_sandwich_and_bootstrap_agree(objective):
    design, _ = synthetic(sd=0.005, rows=400)
    found = Estimate.make(design, objective, restriction(design))
    by_draws = np.std(found.bootstrap("case", np.arange(400), 500, seed=0), axis=0)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance())), by_draws, rtol=0.2)


def test_least_squares_covariance_of_one_term_is_the_textbook_sandwich():
    rng = np.random.default_rng(0)
    form = forms.get("qat-unified")
    x = {
        "N": 10 ** rng.uniform(5, 8, 40),
        "D": 10 ** rng.uniform(8, 10, 40),
        "G": 2.0 ** rng.integers(4, 9, 40),
    }
    true = {"k": 0.2, "gN": 0.2, "gD": 0.1, "gG": 0.8}
    design = Design.make(form, x, form.value(true, x) * np.exp(0.05 * rng.standard_normal(40)))
    cluster = np.repeat(np.arange(10), 4)
    found = Estimate.make(design, Objective(), restriction(design))
    columns, r = design.problem.design[0], found.residuals
    bread = np.linalg.inv(columns.T @ columns)
    sums = np.stack([(columns[cluster == c] * r[cluster == c, None]).sum(axis=0) for c in range(10)])
    np.testing.assert_allclose(found.covariance(cluster), bread @ sums.T @ sums @ bread * 10 / 9, rtol=1e-6)


def test_ties_are_equal_fixed_values_stay_and_bounds_hold():
    design, true = synthetic()
    tied = Estimate.make(design, Objective(), restriction(design, tie={"beta": "alpha"}))
    raw = design.raw(tied.theta)
    assert raw["alpha"] == raw["beta"]
    free = Estimate.make(design, Objective(), restriction(design))
    assert tied.value >= free.value
    fixed = Estimate.make(design, Objective(), restriction(design, fix={"E": 1.5, "alpha": 0.3}))
    raw = design.raw(fixed.theta)
    assert (raw["alpha"], raw["E"]) == (0.3, pytest.approx(1.5))
    bound = Estimate.make(design, Objective(), restriction(design, bounds={"alpha": (0.1, 0.3)}))
    assert design.raw(bound.theta)["alpha"] == pytest.approx(0.3)
    assert bound.at_bound.sum() == 1
    close = Estimate.make(design, Objective(), restriction(design, prior={"alpha": (0.3, 1e-7)}))
    assert design.raw(close.theta)["alpha"] == pytest.approx(0.3, abs=1e-6)
    for name, value in true.items():
        assert design.raw(free.theta)[name] == pytest.approx(value, rel=0.5), name


@pytest.mark.parametrize("objective", [Objective(), HUBER], ids=str)
def test_profile_is_lowest_at_the_optimum_and_its_interval_is_near_that_of_the_sandwich(objective):
    design, _ = synthetic()
    found = Estimate.make(design, objective, restriction(design))
    for place, name in enumerate(design.names):
        profile = found.profile(place)
        assert profile.ratio.min() >= 0
        assert (np.diff(profile.fitted) > 0).all()
        low, high = profile.interval(0.9)
        assert low < found.phi[place] < high
        if objective.loss == "l2":
            half = 1.645 * np.sqrt(found.covariance()[place, place])
            assert (high - low) / 2 == pytest.approx(half, rel=0.4), name


def test_profile_of_a_constant_that_the_rows_do_not_need_is_open_below():
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(7, 10, 40), 10 ** rng.uniform(9, 12, 40)
    target = (400 * n**-0.34 + 1000 * d**-0.33) * np.exp(0.02 * rng.standard_normal(40))
    design = Design.make(forms.get("chinchilla"), {"N": n, "D": d}, target)
    found = Estimate.make(design, Objective(), restriction(design))
    low, high = found.profile(design.names.index("E")).interval(0.9)
    assert low == -np.inf
    assert np.isfinite(high)


def test_wild_and_cluster_draws_are_as_wide_as_the_effects_of_clusters():
    cluster = np.repeat(np.arange(15), 4)
    design, _ = synthetic(sd=0.001, clusters=cluster, cluster_sd=0.01)
    found = Estimate.make(design, Objective(), restriction(design))
    by_cluster = np.std(found.bootstrap("cluster", cluster, 300, seed=0), axis=0)
    by_wild = np.std(found.bootstrap("wild", cluster, 300, seed=0), axis=0)
    by_sandwich = np.sqrt(np.diag(found.covariance(cluster)))
    np.testing.assert_allclose(by_wild, by_sandwich, rtol=0.35)
    assert (by_cluster > 0.5 * by_sandwich).all()


def test_draws_are_the_same_for_one_seed_and_differ_for_two():
    design, _ = synthetic()
    found = Estimate.make(design, Objective(), restriction(design))
    first, again, other = (found.bootstrap("case", np.arange(60), 20, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fix": {"A": 1.0}}, "'A' is not an exponent or a constant"),
        ({"tie": {"beta": "gamma"}}, "'gamma' is not an exponent or a constant"),
        ({"tie": {"beta": "alpha", "alpha": "beta"}}, "is tied itself"),
        ({"bounds": {"alpha": (0.5, 0.5)}}, "is empty"),
        ({"prior": {"alpha": (0.5, 0.0)}}, "wanted more than 0"),
    ],
)
def test_restriction_that_cannot_be_is_refused(options, message):
    design, _ = synthetic(rows=20)
    with pytest.raises(LawError, match=message):
        restriction(design, **options)


def test_fewer_rows_than_parameters_are_refused():
    design, _ = synthetic(rows=4)
    with pytest.raises(LawError, match="4 rows cannot determine 5 parameters"):
        Estimate.make(design, Objective(), restriction(design))
