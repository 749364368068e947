"""Sums of exponentials: optima of public fits, slopes there, what a batch must not change."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_runs import epoch, gemstones_fits

from qscale.laws import forms
from qscale.laws.design import Design
from qscale.laws.forms.form import Form, LogAxis, N, Parameter, Term, Variable
from qscale.laws.objective import Objective
from qscale.laws.posynomial import Penalty, Posynomial, minimize, optimize, starts

HUBER = Objective(loss="huber", width=1e-3)


def solved(design, objective, **options):
    begin = starts(design.problem, design.scales, objective)
    found = optimize(design.problem, begin, objective, **options)
    return found, {name: float(v) for name, v in design.raw(found.theta[found.best]).items()}


def test_epoch_rows_under_huber_have_the_optimum_that_the_authors_grid_came_close_to(shared):
    found, raw = solved(epoch(shared), HUBER)
    assert found.value[found.best] == pytest.approx(0.00101827401780, rel=1e-9)
    assert raw["A"] == pytest.approx(477.826, abs=5e-3)
    assert raw["B"] == pytest.approx(2143.417, abs=5e-2)
    assert raw["E"] == pytest.approx(1.8172181, abs=1e-6)
    assert raw["alpha"] == pytest.approx(0.3473105, abs=1e-6)
    assert raw["beta"] == pytest.approx(0.3671724, abs=1e-6)
    assert found.converged[found.best]
    assert found.share_at_best >= 0.5


def test_epoch_rows_under_absolute_deviations_have_the_published_constants(shared):
    found, raw = solved(epoch(shared), Objective(loss="lad"))
    assert found.value[found.best] == pytest.approx(1.1294947, abs=1e-7)
    expected = {"A": (482.00, 1e-2), "B": (2085.4, 0.1), "E": (1.81686, 1e-5), "alpha": (0.34781, 1e-5)}
    for name, (value, within) in (expected | {"beta": (0.36585, 1e-5)}).items():
        assert raw[name] == pytest.approx(value, abs=within), name


def test_reference_fits_are_met_or_beaten(shared):
    fits = json.loads((shared / "data" / "reference_fits.json").read_text())["fits"]
    assert len(fits) == 8
    for fit in fits:
        design = epoch(shared, fit["n"])
        found, _ = solved(design, Objective(loss="huber", width=fit["delta"]))
        assert found.value[found.best] <= fit["objective_value"] * (1 + 1e-9), (fit["name"], fit["delta"])


def test_bootstrap_of_the_epoch_rows_gives_the_published_intervals(shared):
    design = epoch(shared)
    found, _ = solved(design, HUBER)
    random = np.random.RandomState(42)  # the published recipe
    counts = [np.bincount(random.choice(240, 240), minlength=240) for _ in range(4000)]
    start = np.repeat(found.theta[found.best][None], 4000, axis=0)
    draws = minimize(design.problem, start, HUBER, weight=np.array(counts, dtype=np.float64))
    assert draws.converged.all()
    raw = design.raw(draws.theta)
    intervals = {
        "A": (286.09, 743.61, 5e-3),
        "B": (1042.37, 5810.36, 5e-2),
        "E": (1.7694, 1.8712, 5.1e-5),
        "alpha": (0.3168, 0.3733, 5.1e-5),
        "beta": (0.3313, 0.4154, 5.1e-5),
    }
    for name, (low, high, within) in intervals.items():
        np.testing.assert_allclose(np.percentile(raw[name], [2.5, 97.5]), [low, high], atol=within, rtol=0)
    assert np.std(raw["A"], ddof=1) == pytest.approx(124.49, abs=1e-2)
    assert np.std(raw["B"], ddof=1) == pytest.approx(1293.2, abs=0.1)


@pytest.mark.long
def test_gemstones_fits_are_met_or_beaten_on_all_25(shared):
    names = []
    for name, design, width, published in gemstones_fits(shared):
        found, _ = solved(design, Objective(loss="huber", width=width))
        # printed to ten decimals
        assert found.value[found.best] <= published["loss"]["0"] + 5.1e-11, name
        names.append(name)
    assert len(names) == 25


def _random_problem(seed, masked=False):
    rng = np.random.default_rng(seed)
    design = rng.standard_normal((3, 20, 4)) * 0.4
    design[:, :, 0] = [[1], [0], [1]]
    offset = rng.standard_normal((3, 20)) * 0.3
    if masked:
        offset[1, ::3] = -np.inf
    theta = rng.standard_normal(4) * 0.3
    problem = Posynomial(design=design, offset=offset, target=np.ones(20))
    return problem.with_target(problem.value(theta) * np.exp(0.05 * rng.standard_normal(20))), theta


OBJECTIVES = [
    Objective(),
    HUBER,
    Objective(loss="huber", width=0.05, over=3.0),
    Objective(loss="student", width=0.03),
    Objective(residual="raw"),
    Objective(residual="raw", loss="huber", width=0.03),
    Objective(residual="raw", loss="student", width=0.03, over=0.5),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all terms", "masked"])
def test_optimum_has_no_slope_in_any_direction(objective, masked):
    problem, theta = _random_problem(3, masked)
    found = minimize(problem, theta[None], objective)
    assert found.converged.all()

    def value(at):
        log = problem.log_value(at)
        r = log - np.log(problem.target) if objective.residual == "log" else np.exp(log) - problem.target
        return objective.losses(r).sum()

    here = value(found.theta[0])
    assert here == pytest.approx(found.value[0], rel=1e-12)
    for direction in np.eye(4):
        for step in (1e-5, -1e-5, 1e-2, -1e-2):
            assert value(found.theta[0] + step * direction) >= here * (1 - 1e-9)


@pytest.mark.parametrize("objective", [Objective(), HUBER, Objective(loss="lad")], ids=str)
def test_batch_gives_what_each_problem_gives_alone(objective):
    problem, theta = _random_problem(5)
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 3, (7, 20)).astype(np.float64)
    target = problem.target * np.exp(0.02 * rng.standard_normal((7, 20)))
    together = minimize(problem, np.repeat(theta[None], 7, axis=0), objective, weight=weight, target=target)
    for i in range(7):
        alone = minimize(problem, theta[None], objective, weight=weight[i : i + 1], target=target[i : i + 1])
        assert together.value[i] == pytest.approx(alone.value[0], rel=1e-6)


def test_least_squares_of_one_term_is_the_linear_fit():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(30), rng.standard_normal((30, 2))])
    y = x @ [0.3, -0.2, 0.5] + 0.1 * rng.standard_normal(30)
    weight = rng.uniform(0.5, 2, 30)
    problem = Posynomial(design=x[None], offset=np.zeros((1, 30)), target=np.exp(y))
    found = minimize(problem, np.zeros((1, 3)), Objective(), weight=weight)
    root = np.sqrt(weight)
    expected = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
    np.testing.assert_allclose(found.theta[0], expected, rtol=1e-9)
    # a prior is as many more rows
    prior = Penalty(mean=np.array([0.0, 0.4, 0.0]), sd=np.array([np.inf, 0.1, np.inf]))
    with_prior = minimize(problem, np.zeros((1, 3)), Objective(), weight=weight, penalty=prior)
    more_x, more_y = np.vstack([x * root[:, None], [[0, 10, 0]]]), np.append(y * root, 4.0)
    np.testing.assert_allclose(with_prior.theta[0], np.linalg.lstsq(more_x, more_y, rcond=None)[0], rtol=1e-9)


def test_bounds_and_held_parameters_are_kept_and_the_rest_is_at_its_optimum():
    problem, theta = _random_problem(3)
    free = minimize(problem, theta[None], Objective())
    high = np.full(4, np.inf)
    high[2] = free.theta[0, 2] - 0.1
    bound = minimize(problem, theta[None], Objective(), high=high)
    assert bound.theta[0, 2] == high[2]
    assert bound.value[0] > free.value[0]
    start = theta.copy()
    start[2] = high[2]
    held = minimize(problem, start[None], Objective(), held=np.array([False, False, True, False]))
    np.testing.assert_allclose(held.theta[0], bound.theta[0], rtol=1e-6)


def test_mapped_parameters_tie_and_hold():
    problem, _ = _random_problem(3)
    tie = np.array([[1.0, 0], [0, 1], [0, 1], [0, 0]])  # the third is the second, the last is held
    constant = np.array([0.0, 0, 0, 0.2])
    mapped = problem.mapped(tie, constant)
    phi = np.array([0.1, -0.3])
    np.testing.assert_allclose(mapped.log_value(phi), problem.log_value(tie @ phi + constant), rtol=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.5, 3.0), st.integers(0, 10**6))
def test_exact_chinchilla_rows_give_their_constants_back(alpha, beta, e, seed):
    rng = np.random.default_rng(seed)
    n, d = (
        np.exp(rng.uniform(np.log(1e7), np.log(1e10), 60)),
        np.exp(rng.uniform(np.log(1e8), np.log(1e12), 60)),
    )
    true = {"A": 0.7 * 3e8**alpha, "B": 0.6 * 1e10**beta, "E": e, "alpha": alpha, "beta": beta}
    form = forms.get("chinchilla")
    design = Design.make(form, {"N": n, "D": d}, form.value(true, {"N": n, "D": d}))
    np.testing.assert_allclose(design.raw(design.fitted(true))["A"], true["A"], rtol=1e-10)
    _, raw = solved(design, Objective())
    for name, value in true.items():
        assert raw[name] == pytest.approx(value, rel=1e-4), name


def test_design_with_log2_and_exp_axes_evaluates_as_its_form():
    variables = (
        N,
        replace(N, name="G", least=1.0),
        Variable(name="P", unit="bits", least=0, least_allowed=False),
    )
    form = Form(
        id="x",
        formula="x",
        target="delta",
        parameters=tuple(Parameter(name=name, meaning=name) for name in ("k", "gN", "gG", "c")),
        variables=variables,
        citation="-",
        terms=(
            Term(
                scale="k",
                axes=(
                    LogAxis(parameter="gN", variable="N", sign=-1),
                    LogAxis(parameter="gG", variable="G", sign=1, transform="log2"),
                    LogAxis(parameter="c", variable="P", sign=-1, transform="exp"),
                ),
            ),
        ),
    )
    rng = np.random.default_rng(0)
    x = {"N": rng.uniform(1e6, 1e9, 9), "G": rng.uniform(16, 256, 9), "P": rng.uniform(2, 8, 9)}
    raw = {"k": 40.0, "gN": 0.3, "gG": 0.7, "c": 0.6}
    target = form.value(raw, x)
    np.testing.assert_allclose(target, 40 * x["N"] ** -0.3 * np.log2(x["G"]) ** 0.7 * np.exp(-0.6 * x["P"]))
    design = Design.make(form, x, target)
    np.testing.assert_allclose(design.problem.value(design.fitted(raw)), target, rtol=1e-12)
