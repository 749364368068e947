"""Fits of forms that are no sums of terms: constants of exact rows back, draws, hold-outs, files."""

from __future__ import annotations

import numpy as np
import pytest

from qscale import laws
from qscale.laws import forms

TRUE = {"k": 0.4, "gN": 0.2, "gD": 0.12, "gG": 0.7, "x0": 200.0}


def saturating(sd=0.0, rows=60, seed=0):
    """Rows of a law whose growth in D ends."""
    rng = np.random.default_rng(seed)
    x = {
        "N": 10 ** rng.uniform(7, 9, rows),
        "D": 10 ** rng.uniform(8.5, 11.5, rows),
        "G": 2.0 ** rng.integers(4, 10, rows),
    }
    noise = np.exp(sd * rng.standard_normal(rows))
    return x | {"delta": forms.get("qat-saturating").value(TRUE, x) * noise}


def test_exact_rows_give_their_constants_back():
    law = laws.fit(saturating(), "qat-saturating", objective="l2", resample="case", bootstrap=50)
    assert law.status == "converged"
    for name, value in TRUE.items():
        assert law.parameters[name] == pytest.approx(value, rel=1e-4), name
    assert law.diagnostics["max_relative_error"] < 1e-6


#: Objectives that take long to fit: a few starts of many steps.
SLOW = [pytest.param(name, marks=pytest.mark.long) for name in ("huber:0.01", "lad", "student:0.01")]


@pytest.mark.parametrize("objective", ["l2", "raw:l2", *SLOW])
def test_noisy_rows_give_predictions_near_the_truth_with_an_interval(objective):
    rows = saturating(sd=0.01, rows=40)
    law = laws.fit(rows, "qat-saturating", objective=objective, resample="case", bootstrap=50)
    point = {"N": 1e8, "D": 1e10, "G": 64}
    true = float(forms.get("qat-saturating").value(TRUE, point))
    assert law.predict(**point) == pytest.approx(true, rel=0.02)
    low, high = law.interval(**point)
    assert low < high < 1.1 * low


def test_flattening_is_found_where_it_is_and_held_out_better_than_by_a_pure_power():
    rows = saturating(sd=0.01, rows=90)
    saturated = laws.fit(rows, "qat-saturating", objective="l2", resample="case", bootstrap=50)
    power = laws.fit(rows, "qat-unified", objective="l2", resample="case", bootstrap=50)
    assert saturated.holdout["leave_one_out"] < power.holdout["leave_one_out"]
    assert any("along D/N" in warning for warning in power.diagnostics["warnings"])


def test_law_without_terms_survives_its_file(tmp_path):
    law = laws.fit(saturating(sd=0.01), "qat-saturating", objective="l2", resample="case", bootstrap=50)
    law.to_json(tmp_path / "law.json")
    again = laws.load(tmp_path / "law.json")
    assert again == law
    assert again.interval(N=1e8, D=1e10, G=64) == law.interval(N=1e8, D=1e10, G=64)


def test_held_constants_stay_and_few_rows_are_told():
    fixed = laws.fit(saturating(sd=0.01), "qat-saturating", fix={"x0": 200.0, "gG": 0.7}, bootstrap=50)
    assert fixed.parameters["x0"] == 200.0
    few = {name: values[:4] for name, values in saturating().items()}
    assert laws.fit(few, "qat-saturating").status == "not_identified: 4 rows cannot determine 5 parameters"


@pytest.mark.parametrize("objective", ["huber:0.005", *SLOW[1:]])
def test_objective_is_least_at_the_fit(objective):
    rows = saturating(sd=0.01, rows=30)
    law = laws.fit(rows, "qat-saturating", objective=objective, resample="case", bootstrap=50)
    form, loss = forms.get("qat-saturating"), laws.Objective.parse(objective)

    def value(params):
        return float(
            loss.losses(np.log(form.value(params, {k: rows[k] for k in "NDG"}) / rows["delta"])).sum()
        )

    least = value(law.parameters)
    assert law.diagnostics["objective_value"] == pytest.approx(least, rel=1e-9)
    for name in TRUE:
        for factor in (0.99, 0.999, 1.001, 1.01):
            moved = law.parameters | {name: law.parameters[name] * factor}
            assert value(moved) >= least * (1 - 1e-7), (name, factor)


def test_rows_weigh_by_their_standard_errors():
    rows = saturating(sd=0.01)
    wrong = np.arange(60) % 4 == 0
    rows["delta"] = np.where(wrong, 3 * rows["delta"], rows["delta"])
    se = np.where(wrong, 1e3, 0.01) * rows["delta"]
    weighed = laws.fit(rows | {"delta_se": se}, "qat-saturating", objective="l2", bootstrap=50)
    even = laws.fit(rows, "qat-saturating", objective="l2", bootstrap=50)
    assert weighed.parameters["gN"] == pytest.approx(TRUE["gN"], abs=0.02)
    point = {"N": 1e8, "D": 1e10, "G": 64}
    true = float(forms.get("qat-saturating").value(TRUE, point))
    assert weighed.predict(**point) == pytest.approx(true, rel=0.03)
    assert even.predict(**point) > 1.2 * true
    assert weighed.fit["weights"].startswith("inverse variance")
