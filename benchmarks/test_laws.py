"""Time of fits, draws and profiles on one thread, beside the packages that are installed.

The rows are drawn from a Chinchilla law on the 240-row design of Hoffmann et al.: no public data are needed.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qscale import laws
from qscale.laws.estimate import Estimate
from qscale.laws.fit_sum import Wanted, estimate_of
from qscale.laws.objective import Objective
from qscale.laws.table import read_table

ROWS = 240
HUBER = Objective(loss="huber", width=1e-3)
FORM = laws.forms.get("chinchilla")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7.8, 10.2, ROWS), 10 ** rng.uniform(8.9, 11.5, ROWS)
    true = {"A": 478.0, "B": 2143.0, "E": 1.817, "alpha": 0.347, "beta": 0.367}
    noise = 0.005 * rng.standard_t(3, ROWS)
    return {"N": n, "D": d, "loss": FORM.value(true, {"N": n, "D": d}) * np.exp(noise)}


@pytest.fixture(scope="module")
def estimate(rows) -> Estimate:
    return estimate_of(read_table(rows, FORM), HUBER, Wanted())


def test_point_fit(benchmark, rows):
    data = read_table(rows, FORM)
    found = benchmark(estimate_of, data, HUBER, Wanted())
    assert found.converged


def test_bootstrap_of_4000(benchmark, estimate):
    draws = benchmark.pedantic(estimate.bootstrap, ("case", np.arange(ROWS), 4000, 0), rounds=5)
    assert draws.shape == (4000, 5)


def test_profile_of_one_parameter(benchmark, estimate):
    found = benchmark(estimate.profile, estimate.design.names.index("alpha"))
    assert found.ratio.min() == 0


def test_whole_law(benchmark, rows):
    law = benchmark.pedantic(laws.fit, (rows, "chinchilla"), {"resample": "case"}, rounds=5)
    assert law.usable


def test_import(benchmark):
    command = [sys.executable, "-c", "import qscale.laws"]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=5)


def test_scipy_least_squares_from_one_start(benchmark, estimate):
    """The quickest of the peers' engines, from a start near the optimum, with the same derivatives."""
    from scipy.optimize import least_squares

    problem = estimate.problem
    log = np.log(problem.target)

    def run():
        return least_squares(
            lambda theta: problem.log_value(theta) - log,
            estimate.phi + 0.1,
            jac=problem.log_gradient,
            loss="huber",
            f_scale=1e-3,
        )

    found = benchmark(run)
    assert found.cost >= estimate.value * (1 - 1e-6)
