"""Public runs of others: what they published, or the facts measured, comes out of ``laws.fit``."""

from __future__ import annotations

import numpy as np
import pytest
from public_runs import gemstones_fits, quartet, quartet_pairs, quest

from qscale import laws
from qscale.laws.comparison import compare
from qscale.laws.estimate import Estimate, Restriction
from qscale.laws.objective import Objective


def eff(law, level):
    p = law.parameters
    return (p[f"A[{level}]"] / p["A[16]"]) ** (-1 / p["alpha"])


def test_quest_runs_give_the_published_table_and_flag_the_constant_at_zero(shared):
    law = laws.fit(quest(shared), "eff-table", objective="l2", bootstrap=50)
    assert 2 * law.diagnostics["objective_value"] == pytest.approx(1.476107e-3, abs=5e-10)
    published = {"1": 0.0205, "2": 0.1519, "3": 0.4332, "4": 0.6919, "8": 1.016}
    for level, value in published.items():
        assert eff(law, level) == pytest.approx(value, abs=6e-5 if value < 1 else 6e-4), level
    assert any(warning.startswith("E_at_zero") for warning in law.diagnostics["warnings"])


def test_additive_delta_beats_the_table_on_the_quest_subset(shared):
    rows = quest(shared)
    keep = [i for i, level in enumerate(rows["P"]) if level in ("1", "2", "3", "4", "8", "16")]
    rows = {name: [values[i] for i in keep] for name, values in rows.items()}
    assert len(keep) == 54
    without = rows | {"P": ["none" if level == "16" else level for level in rows["P"]]}
    table, additive = compare(rows, ["eff-table"]).scores[0], compare(without, ["additive-table"]).scores[0]
    assert (table.parameters, additive.parameters) == (10, 12)
    assert table.sse == pytest.approx(6.44e-4, abs=1e-6)
    assert additive.sse == pytest.approx(2.7908e-4, abs=1e-8)
    assert table.aicc == pytest.approx(-583.9, abs=0.05)
    assert additive.aicc == pytest.approx(-622.2, abs=0.05)
    assert additive.bic == pytest.approx(-605.5, abs=0.05)
    assert additive.left_out < table.left_out
    law = laws.fit(without, "additive-table", objective="l2", bootstrap=50)
    found = {name: law.parameters[name] for name in ("alpha", "beta", "E", "gD", "gN")}
    assert found == pytest.approx(
        {"alpha": 0.12331, "beta": 0.17074, "E": 1.14152, "gD": 0.14603, "gN": 0.19534}, abs=2e-4
    )
    assert "k[8]_at_zero" in [warning.split(":")[0] for warning in law.diagnostics["warnings"]]


@pytest.mark.long
def test_quartet_pairs_have_the_measured_exponents_and_the_joint_fit_is_many_times_wider(shared):
    pairs = quartet_pairs(shared)
    assert len(pairs) == 21
    paired = laws.fit(pairs, "qat-power", objective="l2", resample="case", level=0.95)
    assert paired.parameters["gD"] == pytest.approx(0.101, abs=6e-4)
    assert paired.parameters["gN"] == pytest.approx(0.175, abs=6e-4)
    assert paired.predict(N=1e8, D=1e10) == pytest.approx(0.0745, abs=6e-5)
    assert paired.diagnostics["mean_relative_error"] == pytest.approx(0.029, abs=6e-4)
    measured = {"gD": (0.085, 0.121), "gN": (0.147, 0.205)}
    for name, ends in measured.items():
        np.testing.assert_allclose(paired.reference.intervals[name], ends, atol=5e-3)
    np.testing.assert_allclose(paired.interval(0.95, N=1e8, D=1e10), (0.0732, 0.0761), atol=3e-4)

    joint = laws.fit(quartet(shared), "additive-table", objective="huber:1e-3", level=0.95)
    point = {"alpha": 0.135, "beta": 0.270, "E": 1.365, "gD": 0.086, "gN": 0.132}
    assert {name: joint.parameters[name] for name in point} == pytest.approx(point, abs=1e-3)
    np.testing.assert_allclose(joint.reference.intervals["gD"], (-0.015, 0.206), atol=0.02)
    np.testing.assert_allclose(joint.reference.intervals["gN"], (-0.186, 0.349), atol=0.06)
    for name in measured:
        low, high = joint.reference.intervals[name]
        narrow = paired.reference.intervals[name]
        assert (high - low) > 4 * (narrow[1] - narrow[0])

    # what pairs share is an effect of the cell: the joint fit then knows delta nearly as well as pairs do
    cells = laws.fit(quartet(shared), "additive-table", cell_effects=True, resample="case", bootstrap=100)
    assert cells.parameters["gD"] == pytest.approx(paired.parameters["gD"], abs=0.01)
    assert cells.parameters["gN"] == pytest.approx(paired.parameters["gN"], abs=0.01)
    for name in measured:
        low, high = cells.reference.intervals[name]
        narrow = paired.reference.intervals[name]
        assert (high - low) < 2 * (narrow[1] - narrow[0])


def test_gemstones_laws_without_a_constant_are_flagged(shared):
    # two published laws of three terms have E = 0
    seen = []
    for stem, design, width, published in gemstones_fits(shared):
        if published["irreducible_error"]["0"] > -100:
            continue
        restriction = Restriction.make(design, fix={}, tie={}, bounds={}, prior={})
        found = Estimate.make(design, Objective(loss="huber", width=width), restriction)
        share = design.problem.shares(found.theta)[-1].max()
        assert share < 1e-6, stem
        seen.append(stem)
    assert len(seen) == 2


def test_synthetic_rows_of_the_paper_s_design_give_its_constants_back(make_rows):
    law = laws.fit(make_rows(row_sd=0.02, seed=3))
    true = laws.load("chen2025/w4a4").parameters
    for name in ("gN", "gD", "gG"):
        low, high = law.reference.intervals[name]
        assert low < true[name] < high
        assert law.parameters[name] == pytest.approx(true[name], abs=0.05)
