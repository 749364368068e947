"""Fits: known constants come back, a second solver agrees, symmetries hold, doubt is said."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qscale import laws
from qscale.errors import FitError, LawError

TRUE = {"k": 0.1582, "gN": 0.2186, "gD": 0.0745, "gG": 0.7779}  # chen2025/w4a4, as in conftest

#: A cooldown pilot of W4A4 on three sizes: N, D, G, delta, seed.
PILOT = """
20600 .82e6 16 .036 0; 20600 .82e6 16 .032 1; 20600 .82e6 32 .045 0; 20600 .82e6 32 .040 1
20600 3.28e6 16 .047 0; 20600 3.28e6 16 .051 1; 20600 3.28e6 32 .068 0; 20600 3.28e6 32 .068 1
20600 9.83e6 16 .064 0; 20600 9.83e6 16 .061 1; 20600 9.83e6 32 .083 0; 20600 9.83e6 32 .084 1
55500 1.23e6 16 .029 0; 55500 1.23e6 48 .048 0; 55500 4.92e6 16 .036 0; 55500 4.92e6 48 .058 0
160000 3.28e6 16 .029 0; 160000 3.28e6 32 .039 0; 160000 3.28e6 64 .053 0; 160000 9.83e6 16 .036 0
160000 9.83e6 32 .050 0; 160000 9.83e6 64 .068 0
"""


def pilot():
    lines = PILOT.strip().replace("\n", ";").split(";")
    return [
        dict(zip(("N", "D", "G", "delta", "seed"), map(float, line.split()), strict=True)) for line in lines
    ]


def test_noise_free_rows_give_the_constants_back(make_rows):
    law = laws.fit(make_rows())
    assert law.status == "converged"
    for name, value in TRUE.items():
        assert law.parameters[name] == pytest.approx(value, rel=1e-9)
    assert law.diagnostics["mean_relative_error"] < 1e-12


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noisy_rows_give_the_constants_within_their_intervals(make_rows, seed):
    law = laws.fit(make_rows(0.02, 0.02, seeds=(0, 1), seed=seed), level=0.99)
    for name in ("gN", "gD", "gG"):
        low, high = law.reference.intervals[name]
        assert low < TRUE[name] < high
    low, high = law.interval(level=0.99, N=595e6, D=100e9, G=128)
    assert low < 0.0572793 < high


def test_equal_weights_agree_with_numpy_lstsq(make_rows):
    rows = make_rows(row_sd=0.05)
    n, d, g, delta = (np.array([row[k] for row in rows]) for k in ("N", "D", "G", "delta"))
    design = np.column_stack([np.ones(len(n)), -np.log(n), np.log(d), np.log(np.log2(g))])
    ln_k, *exponents = np.linalg.lstsq(design, np.log(delta), rcond=None)[0]
    law = laws.fit(rows)
    assert law.parameters["k"] == pytest.approx(np.exp(ln_k), rel=1e-8)
    np.testing.assert_allclose([law.parameters[k] for k in ("gN", "gD", "gG")], exponents, rtol=1e-8)


def test_weights_agree_with_scipy_curve_fit(make_rows):
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(5)
    rows = make_rows(row_sd=0.05, seeds=(0, 1))
    rows = [row | {"delta_se": row["delta"] * rng.uniform(0.01, 0.2)} for row in rows]
    law = laws.fit(rows)
    n, d, g, delta, se = (np.array([row[k] for row in rows]) for k in ("N", "D", "G", "delta", "delta_se"))
    sd = np.sqrt((se / law.predict(N=n, D=d, G=g)) ** 2 + law.diagnostics["seed_sd"] ** 2)
    x = np.stack([np.log(n / 1e8), np.log(d / 1e10), np.log(np.log2(g))])
    found, _ = curve_fit(lambda x, a, b, c, e: a - b * x[0] + c * x[1] + e * x[2], x, np.log(delta), sigma=sd)
    np.testing.assert_allclose([law.parameters[k] for k in ("gN", "gD", "gG")], found[1:], rtol=1e-6)


def test_pilot_gives_its_known_constants():
    law = laws.fit(pilot())
    found = [law.parameters[name] for name in ("gN", "gD", "gG")]
    np.testing.assert_allclose(found, [0.248, 0.248, 1.41], atol=0.006)
    assert law.diagnostics["mean_relative_error"] == pytest.approx(0.046, abs=0.001)
    assert law.holdout["leave_one_out"] == pytest.approx(0.056, abs=0.002)  # its rows are rounded to .001
    assert (law.diagnostics["seed_cells"], law.diagnostics["seed_degrees_of_freedom"]) == (6, 6)
    assert "few_ladders: 4 ladders" in law.diagnostics["warnings"][0]


def test_public_quartet_pairs_give_their_exponents(shared):
    """Known from a fit of the same pairs by other code: delta0(100M, 10B), gD, gN; one G, so gG is held."""
    with (shared / "data" / "quartet1_runs.csv").open() as stream:
        runs = {(r["fwd_quant"], r["bwd_quant"], int(r["N_nonemb"]), int(r["D_tokens"])): float(r["loss"])
                for r in csv.DictReader(stream)}  # fmt: skip
    rows = [{"N": n, "D": d, "G": 32, "delta": loss - runs["BF16", "BF16", n, d], "mode": "scratch"}
            for (forward, backward, n, d), loss in runs.items()
            if (forward, backward) == ("QuEST", "BF16") and ("BF16", "BF16", n, d) in runs]  # fmt: skip
    assert len(rows) == 21
    law = laws.fit(rows, fix={"gG": 1.0})
    assert law.predict(N=1e8, D=1e10, G=32) == pytest.approx(0.0745, abs=0.0008)
    assert law.parameters["gD"] == pytest.approx(0.101, abs=0.006)
    assert law.parameters["gN"] == pytest.approx(0.175, abs=0.008)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.floats(1e-3, 1e3))
def test_scaling_delta_scales_k_alone(make_rows, factor):
    rows = make_rows(0.02, 0.02, seed=4, se=0.001)
    law = laws.fit(rows, bootstrap=50)
    scaled = [row | {"delta": factor * row["delta"], "delta_se": factor * row["delta_se"]} for row in rows]
    other = laws.fit(scaled, bootstrap=50)
    assert other.parameters["k"] == pytest.approx(factor * law.parameters["k"], rel=1e-6)
    for name in ("gN", "gD", "gG"):
        assert other.parameters[name] == pytest.approx(law.parameters[name], rel=1e-7)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(16)))
def test_order_of_rows_changes_nothing_exact(make_rows, order):
    rows = make_rows(0.02, 0.02, seed=4)[::4]
    assert laws.fit([rows[i] for i in order], bootstrap=50).dumps() == laws.fit(rows, bootstrap=50).dumps()


def test_seed_noise_is_pooled_from_replicates_and_keeps_the_evaluation_noise(make_rows):
    """Seeds share their evaluation sequences, so a standard error is not what shows between them."""
    rows = make_rows(row_sd=0.05, seeds=tuple(range(12)))
    law = laws.fit(rows)
    assert law.diagnostics["seed_sd"] == pytest.approx(0.05, rel=0.12)
    noisy = [row | {"delta_se": 0.04 * row["delta"]} for row in rows]
    again = laws.fit(noisy)
    assert again.diagnostics["seed_sd"] == law.diagnostics["seed_sd"]
    assert 0.4 < again.diagnostics["chi2_per_dof"] < 0.8, "conservative: both noises are counted"
    assert law.diagnostics["scatter_sd"] is None
    assert "noise     seed s.d. " in law.summary()
    assert f"% (64 cells with several seeds), chi2/dof {law.diagnostics['chi2_per_dof']:.4g}" in law.summary()


def test_scatter_without_replicates_is_the_seed_noise(make_rows):
    law = laws.fit(make_rows(row_sd=0.05))
    assert law.diagnostics["scatter_sd"] == pytest.approx(0.05, rel=0.3)
    assert law.diagnostics["chi2_per_dof"] is None and law.diagnostics["seed_sd"] is None
    scatter = f"{100 * law.diagnostics['scatter_sd']:.2g}%"
    assert f"scatter {scatter} (no seeds repeated: an estimate from the residuals)" in law.summary()
    assert "chi2" not in law.summary() and "seed s.d." not in law.summary()


def test_lack_of_fit_is_warned_of(make_rows):
    rows = make_rows(row_sd=0.005, seeds=(0, 1))
    bent = [row | {"delta": row["delta"] * (1.15 if row["D"] == 20e9 else 1)} for row in rows]
    assert not [w for w in laws.fit(rows).diagnostics["warnings"] if w.startswith("lack_of_fit")]
    assert [w for w in laws.fit(bent).diagnostics["warnings"] if w.startswith("lack_of_fit")]


def test_a_few_negative_deltas_are_fitted_in_nats(make_rows):
    rows = make_rows(row_sd=0.03, se=0.02, seed=6)
    rows[5] = rows[5] | {"delta": -0.004}
    rows[9] = rows[9] | {"delta": 0.0}
    law = laws.fit(rows)
    assert law.status == "converged"
    assert any(w.startswith("non_positive_rows: ") for w in law.diagnostics["warnings"])
    low, high = law.interval(level=0.99, N=145e6, D=20e9, G=64)
    assert low < TRUE["k"] * 20e9 ** TRUE["gD"] * 6 ** TRUE["gG"] / 145e6 ** TRUE["gN"] < high


def test_fit_in_nats_agrees_with_the_log_fit_where_both_apply(make_rows):
    """With tiny noise and one row just below zero noise-weighted away, both solvers find the same law."""
    rows = make_rows(row_sd=0.001, se=1e-4)
    odd = [*rows, rows[0] | {"delta": -0.001, "delta_se": 10.0}]
    law, other = laws.fit(rows), laws.fit(odd)
    for name in ("gN", "gD", "gG"):
        assert other.parameters[name] == pytest.approx(law.parameters[name], abs=0.002)


def test_mostly_negative_deltas_are_an_error_that_names_rows(make_rows):
    rows = [row | {"delta": -row["delta"]} if i % 3 else row for i, row in enumerate(make_rows())]
    with pytest.raises(FitError, match=r"not positive in 42 of 64 rows \(rows 2, 3, 5, 6, 8 and 37 more\)"):
        laws.fit(rows)


@pytest.mark.parametrize(
    ("keep", "status", "unknown"),
    [
        (lambda r: r["G"] == 64, "G has one value (64)", {"gG", "k"}),
        (lambda r: r["N"] == 145e6, "N has one value (1.45e+08)", {"gN", "k"}),
        (
            lambda r: r["N"] == 145e6 and r["D"] == 10e9,
            "N has one value (1.45e+08); D has one",
            {"gN", "gD", "k"},
        ),
    ],
    ids=["one G", "one N", "one N and D"],
)
def test_one_level_is_not_identified(make_rows, keep, status, unknown):
    law = laws.fit([row for row in make_rows(row_sd=0.02, seeds=(0, 1)) if keep(row)])
    assert law.status.startswith(f"not_identified: {status}")
    assert {name for name, value in law.parameters.items() if value is None} == unknown
    assert law.draws_table is None
    assert "gN" not in law.summary().splitlines()[-3] and "delta0" not in law.summary()
    with pytest.raises(LawError, match="cannot be evaluated: not_identified"):
        law.predict(N=1e9, D=1e11, G=64)


def test_tokens_in_proportion_to_size_are_not_identified(make_rows):
    rows = [row | {"D": 20 * row["N"]} for row in make_rows(row_sd=0.02)]
    law = laws.fit(rows)
    assert law.status == "not_identified: N and D vary together in every row and cannot be told apart"
    assert law.parameters["gG"] is not None


def test_almost_proportional_tokens_are_not_identified_by_their_interval(make_rows):
    rng = np.random.default_rng(0)
    rows = [
        row | {"D": 20 * row["N"] * np.exp(0.02 * rng.standard_normal())} for row in make_rows(row_sd=0.05)
    ]
    assert "may be anything from" in laws.fit(rows).status


def test_as_many_rows_as_parameters_are_not_identified(make_rows):
    rows = [make_rows()[i] for i in (0, 6, 33, 63)]  # one more than the three exponents
    assert laws.fit(rows).status == "not_identified: 4 rows for 4 parameters leave nothing to judge them by"


def test_fixed_exponent_is_held_and_serves_for_a_missing_axis(make_rows):
    rows = [row for row in make_rows(row_sd=0.01) if row["G"] == 64]
    law = laws.fit(rows, fix={"gG": TRUE["gG"]})
    assert law.status == "converged"
    assert law.parameters["gG"] == TRUE["gG"]
    assert law.fixed == {"gG": TRUE["gG"]}
    assert law.predict(N=145e6, D=20e9, G=128) == pytest.approx(0.069177, rel=0.03)
    assert "(fixed)" in law.summary()


def test_hold_out_of_the_largest_size_predicts_it(make_rows):
    law = laws.fit(make_rows(row_sd=0.01))
    assert 0 < law.holdout["largest_N"] < 0.03
    rows = {"leave_one_out": 64, "largest_N": 16, "largest_D": 16, "largest_G": 16}
    assert law.holdout["rows"] == rows and set(law.holdout) == {*rows, "rows"}
    assert "% (16 rows), largest D" in law.summary() and "% (64 rows)\n" in law.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "chinchilla"}, "no column 'loss' in the observations"),
        ({"tie": {"gD": "gN"}}, "go with an objective"),
        ({"form": "qat"}, "unknown law form 'qat'"),
        ({"fix": {"gP": 1.0}}, "fix: 'gP' is not an exponent of 'qat-unified'; these are: gN, gD, gG"),
        ({"fix": {"gG": float("nan")}}, "fix: gG=nan"),
        ({"fix": {"gG": 1e3}}, r"fix: gG=1000; an exponent is held between \+-100"),
        ({"fix": "gG"}, "fix='gG': give exponents and their values"),
        ({"bootstrap": 3}, "bootstrap=3: a law keeps 50 to 10000"),
        ({"bootstrap": 100.5}, "bootstrap=100.5"),
        ({"seed": -1}, "seed=-1: the seed of the draws is a whole number, 0 or more"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"level": 90}, "level=90"),
        ({"level": "high"}, "level=high"),
        ({"recipe": "w4a4"}, "recipe='w4a4' cannot choose rows: .* no column 'recipe'"),
        ({"mode": "ptq"}, "no rows with mode='ptq'"),
    ],
)
def test_bad_option_is_an_error(make_rows, options, message):
    with pytest.raises(LawError, match=message):
        laws.fit(make_rows(mode="scratch"), **options)


@pytest.mark.parametrize("missing", [None, 0.0, float("nan"), ""], ids=repr)
@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
def test_a_row_without_a_standard_error_does_not_rule_the_fit(make_rows, missing, seeds):
    rows = make_rows(row_sd=0.0 if seeds == (0, 1) else 0.01, seeds=seeds)
    rows = [row | {"delta_se": 0.03 * row["delta"]} for row in rows]
    rows[7] = rows[7] | {"delta": 1.2 * rows[7]["delta"], "delta_se": missing}
    given = laws.fit([*rows[:7], rows[7] | {"delta_se": 0.03 * rows[7]["delta"]}, *rows[8:]])
    law = laws.fit(rows)
    for name in ("gN", "gD", "gG"):
        assert law.parameters[name] == pytest.approx(given.parameters[name], abs=0.025)
    assert "delta_se is missing or 0 in row 8: " in law.notes[0]


def test_copies_of_rows_change_neither_noise_nor_law(make_rows):
    rows = make_rows(row_sd=0.03)
    law, doubled = laws.fit(rows), laws.fit([*rows, *rows])
    assert doubled.diagnostics == law.diagnostics
    assert doubled.diagnostics["seed_sd"] is None
    assert doubled.data["hash"] == law.data["hash"]


def test_numpy_numbers_serve_as_options(make_rows):
    law = laws.fit(make_rows(row_sd=0.02), bootstrap=np.int64(60), seed=np.int32(1), level=np.float32(0.5))
    assert laws.Law.loads(law.dumps()) == law


def test_not_identified_says_what_to_do(make_rows):
    text = laws.fit([row for row in make_rows() if row["G"] == 64]).summary()
    assert "to do     for gG, add rows of another G, or hold it with fix={'gG': VALUE}" in text
    assert "--fix gG=VALUE" in text


def test_constants_beyond_any_number_are_not_identified_and_can_be_written(make_rows):
    rows = [row | {"N": 1e5 * (1 + i % 3 / 1e3)} for i, row in enumerate(make_rows(row_sd=0.5))]
    rows = [row | {"delta": row["delta"] * (row["N"] / 1e5) ** -2e4} for row in rows]
    law = laws.fit(rows)
    assert law.status.startswith("not_identified: the constants are beyond what a number can hold (gN 2")
    assert law.parameters["k"] is None
    assert laws.Law.loads(law.dumps()) == law


@pytest.mark.parametrize("seed", range(40))
def test_wild_tables_end_in_a_law_that_can_be_written_or_in_an_error_of_ours(seed):
    rng = np.random.default_rng(seed)
    choices = {
        "N": [1e-50, 1e5, 2e5, 1e50],
        "D": [1e-50, 1.0, 1e6, 1e50],
        "G": [1 + 1e-15, 2.0, 32.0, 1e50],
        "delta": [-1.0, -1e50, 0.0, 1e-50, 0.1, 0.2, 0.3, 1e50],
        "delta_se": [0.0, 1e-50, 0.1, 1e50],
        "seed": [0, 1],
    }
    rows = [
        {name: rng.choice(values) for name, values in choices.items()} for _ in range(rng.integers(5, 14))
    ]
    try:
        law = laws.fit(rows, bootstrap=50)
    except (FitError, LawError):
        return
    assert laws.Law.loads(law.dumps()) == law
    assert law.summary()
