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


@pytest.fixture(scope="module")
def peer_rows(rows):
    """The rows as simple-scaling-laws takes them: one evaluation of each run."""
    polars = pytest.importorskip("polars")
    return polars.DataFrame(
        {
            "training_run_id": [f"run-{i}" for i in range(ROWS)],
            "train_set_id": ["train"] * ROWS,
            "test_set_id": ["test"] * ROWS,
            "optimizer_seed": [0] * ROWS,
            "model_size__n_params": rows["N"],
            "dataset_size__n_tokens": rows["D"],
            "test_loss__cross_entropy": rows["loss"],
        }
    )


@pytest.mark.parametrize("draws", [2, 200, 4000])
def test_simple_scaling_laws(benchmark, peer_rows, draws):
    """Its least squares of raw losses with a bootstrap; two draws are nearly the point fit alone."""
    peer = pytest.importorskip("simple_scaling_laws")
    options = {"law": "separable-power", "n_draws": draws, "seed": 0}
    found = benchmark.pedantic(peer.fit, (peer_rows,), options, rounds=1 if draws > 1000 else 3)
    assert found.params("test_loss__cross_entropy")["E"] > 0


def test_chinchilla_from_32_starts(benchmark, rows, tmp_path):
    """Its L-BFGS from a grid of starts on one process; it proposes a grid of 3,125."""
    peer = pytest.importorskip("chinchilla")

    def ends(low, high):
        return np.linspace(low, high, 2)

    grid = {"E": ends(1.0, 2.5), "A": ends(100.0, 1000.0), "B": ends(500.0, 4000.0)}
    grid |= {"alpha": ends(0.2, 0.5), "beta": ends(0.2, 0.5)}
    found = peer.Chinchilla(
        str(tmp_path),
        param_grid={name: values.tolist() for name, values in grid.items()},
        seed_ranges={"C": (1e19, 1e20), "N_to_D": (10, 100)},
        loss_fn=lambda true, fitted: float(np.sum(np.abs(np.log(true / np.maximum(fitted, 1e-9))))),
        log_level=40,
    )
    for n, d, loss in zip(rows["N"], rows["D"], rows["loss"], strict=True):
        found.database.append(C=6 * n * d, N=n, D=d, loss=loss)
    benchmark.pedantic(found.fit, kwargs={"parallel": False}, rounds=1)
    assert found.params["E"] > 0
