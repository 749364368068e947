"""The table of objectives and rules for outliers against published figures."""

from __future__ import annotations

import numpy as np
import pytest
from public_runs import epoch

from qscale.laws.robustness import sensitivity


def _rows(design):
    x = {name: np.exp(-design.problem.design[k, :, 3 + k]) for k, name in enumerate(("N", "D"))}
    return {name: x[name] * design.center[name] for name in x} | {"loss": design.problem.target}


def test_exponent_of_the_epoch_rows_moves_with_loss_and_outliers_as_published(shared):
    objectives = ["huber:1e-4", "huber:1e-3", "huber:1e-2", "l2"]
    all_rows = sensitivity(_rows(epoch(shared, 245)), "chinchilla", objectives=objectives)
    beta = {(row["objective"], row["outliers"]): row["beta"] for row in all_rows}
    expected = {"huber:1e-4": (0.451, 0.3654), "huber:1e-3": (0.453, 0.3672), "huber:1e-2": (0.476, 0.3815)}
    for objective, (every, without) in (expected | {"l2": (0.612, 0.4059)}).items():
        assert beta[objective, "none"] == pytest.approx(every, abs=1e-3)
        # two percent of 245 rows are the five that the literature leaves out
        assert beta[objective, "top 2%"] == pytest.approx(without, abs=1e-4)
    assert {row["rows"] for row in all_rows if row["outliers"] == "top 2%"} == {240}


def test_a_wrong_row_is_left_out_by_its_residual():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, 50), 10 ** rng.uniform(9, 12, 50)
    loss = (400 / n**0.34 + 1000 / d**0.33 + 1.7) * np.exp(1e-3 * rng.standard_normal(50))
    loss[7] *= 1.5
    found = {
        row["outliers"]: row
        for row in sensitivity({"N": n, "D": d, "loss": loss}, "chinchilla", objectives=["l2"])
    }
    assert found["5 sd"]["rows"] == 49
    assert abs(found["5 sd"]["alpha"] - 0.34) < abs(found["none"]["alpha"] - 0.34)
