"""Runs to make next: the fall of the variance against a refit with the run, cost, refusals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError
from qscale.laws.suggest import suggest_runs

TARGET = {"N": 7e9, "D": 2e12, "G": 128}


@pytest.fixture
def law(make_rows):
    return laws.fit(make_rows(row_sd=0.02), bootstrap=2000)


def test_promised_spread_is_that_of_a_law_with_the_run(law, make_rows):
    run = {"N": 5e9, "D": 1e12, "G": 128}
    [found] = suggest_runs(law, 6 * run["N"] * run["D"] * 1.5, [run], noise=1e-6, **TARGET)
    # a run without noise fixes the prediction there: what is left is the spread of the ratio of the two
    at, there = (np.log(law.draws(**point)) for point in (TARGET, run))
    slope = np.cov(at, there)[0, 1] / np.var(there, ddof=1)
    assert found.sd == pytest.approx(np.std(at - slope * there, ddof=1), rel=1e-3)
    assert found.sd < 0.6 * np.std(at)


def test_runs_are_taken_until_the_budget_is_spent_and_the_spread_falls(law):
    runs = [{"N": n, "D": d, "G": g} for n in (1e8, 1e9) for d in (1e10, 1e11) for g in (32, 256)]
    budget = 6 * 1e9 * 1e11 * 3
    found = suggest_runs(law, budget, runs, noise=0.02, **TARGET)
    assert found
    assert sum(s.flops for s in found) <= budget
    spreads = [np.std(np.log(law.draws(**TARGET)), ddof=1), *(s.sd for s in found)]
    assert all(before > after for before, after in pairwise(spreads))
    assert suggest_runs(law, 1.0, runs, noise=0.02, **TARGET) == []


def test_noise_is_that_of_the_fit_unless_given(law):
    runs = [{"N": 1e9, "D": 1e11, "G": 64}]
    own = suggest_runs(law, 6e20, runs, **TARGET)[0].sd
    given = suggest_runs(law, 6e20, runs, noise=law.diagnostics["scatter_sd"], **TARGET)[0].sd
    assert own == given


def test_what_cannot_be_suggested_is_refused(law):
    with pytest.raises(LawError, match="has no interval"):
        suggest_runs(laws.load("chen2025/w4a4"), 1e20, [TARGET], noise=0.02, **TARGET)
    with pytest.raises(LawError, match="noise=0"):
        suggest_runs(law, 1e20, [TARGET], noise=0.0, **TARGET)
    with pytest.raises(LawError, match="no candidates"):
        suggest_runs(law, 1e20, [], noise=0.1, **TARGET)
