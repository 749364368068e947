"""Joint fits with cell effects: constants, sizes of effects, and intervals as narrow as those of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError
from qscale.laws.effects import Effects

DELTA = {"gN": 0.22, "gD": 0.075, "gG": 0.78}


def pairs(rows):
    base = {(r["N"], r["D"]): r["loss"] for r in rows if r["method"] == "none"}
    return [
        {"N": r["N"], "D": r["D"], "G": r["G"], "delta": r["loss"] - base[r["N"], r["D"]]}
        for r in rows
        if r["method"] != "none"
    ]


def width(law, name):
    low, high = law.reference.intervals[name]
    return high - low


def test_joint_fit_with_effects_is_as_narrow_as_the_fit_of_pairs(make_joint_rows):
    rows = make_joint_rows(cell_sd=0.01, row_sd=0.0005)
    options = {"objective": "l2", "resample": "case", "bootstrap": 100}
    plain = laws.fit(rows, "joint-table", **options)
    joint = laws.fit(rows, "joint-table", cell_effects=True, **options)
    paired = laws.fit(pairs(rows), "qat-unified", **options)
    assert joint.usable
    for name in ("gN", "gD", "gG"):
        assert joint.parameters[name] == pytest.approx(DELTA[name], abs=0.15)
        assert joint.parameters[name] == pytest.approx(paired.parameters[name], abs=0.03)
        assert width(joint, name) < 0.4 * width(plain, name)
        assert width(joint, name) < 2 * width(paired, name)
    assert joint.diagnostics["cell_sd"] == pytest.approx(0.01, rel=0.4)
    assert joint.diagnostics["scatter_sd"] == pytest.approx(0.0005, rel=0.4)
    assert joint.run_sd == pytest.approx(np.hypot(joint.diagnostics["cell_sd"], 0.0005), rel=0.01)
    assert joint.fit["cell_effects"] is True


def test_no_effect_is_found_where_there_is_none(make_joint_rows):
    rows = make_joint_rows(cell_sd=0.0, row_sd=0.002)
    joint = laws.fit(rows, "joint-table", cell_effects=True, bootstrap=50)
    plain = laws.fit(rows, "joint-table", objective="l2", bootstrap=50)
    assert joint.diagnostics["cell_sd"] < 0.0015
    for name in ("A", "B", "E", "alpha", "beta"):
        assert joint.parameters[name] == pytest.approx(plain.parameters[name], rel=0.2)


def test_ratio_is_that_of_a_balanced_layout():
    # one way of analysis of variance: E[mean square between] = s^2 (1 + n t^2), within s^2
    rng = np.random.default_rng(1)
    cells, each, true = 60, 4, 3.0
    group = np.repeat(np.arange(cells), each)
    y = true * rng.standard_normal(cells)[group] + rng.standard_normal(cells * each)
    means = np.array([y[group == cell].mean() for cell in range(cells)])
    between = each * means.var(ddof=1)
    within = float(np.sum((y - means[group]) ** 2)) / (cells * (each - 1))
    wanted = np.sqrt((between / within - 1) / each)
    found = Effects(group=group).with_ratio(np.ones((len(y), 1)), y - y.mean(), np.ones(len(y)))
    assert found.ratio == pytest.approx(wanted, rel=1e-3)
    assert found.count == cells
    assert found.freedom == pytest.approx(cells * each * wanted**2 / (1 + each * wanted**2), rel=1e-3)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("chinchilla", {}),
        ("joint-table", {"objective": "huber:1e-3"}),
        ("joint-table", {"objective": "raw:l2"}),
    ],
)
def test_effects_elsewhere_are_refused(form, options, make_joint_rows):
    with pytest.raises(LawError, match="cell_effects go with a joint form"):
        laws.fit(make_joint_rows(0.01, 0.001), form, cell_effects=True, **options)


def test_a_joint_form_without_unquantized_rows_is_refused(make_joint_rows):
    rows = [row for row in make_joint_rows(0.01, 0.001) if row["method"] != "none"]
    with pytest.raises(LawError, match="rows of the level 'none'"):
        laws.fit(rows, "joint-table", cell_effects=True)
