"""Fits of sums of terms through ``laws.fit``: constants, intervals, codes, hold-outs, files."""

from __future__ import annotations

import numpy as np
import pytest
from public_runs import epoch

from qscale import laws
from qscale.errors import FitError, LawError
from qscale.laws.objective import Objective

TRUE = {"A": 400.0, "B": 1000.0, "E": 1.7, "alpha": 0.34, "beta": 0.33}


def table(rows=60, sd=0.003, seed=0, true=TRUE, **extra):
    """Rows of a Chinchilla law with noise in the logarithm."""
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7, 10, rows), 10 ** rng.uniform(9, 12, rows)
    loss = laws.forms.get("chinchilla").value(true, {"N": n, "D": d}) * np.exp(sd * rng.standard_normal(rows))
    return {"N": n, "D": d, "loss": loss, **extra}


def codes(law):
    return [warning.split(":")[0] for warning in law.diagnostics["warnings"]]


def test_fit_of_the_epoch_rows_is_their_optimum_with_the_published_interval(shared):
    design = epoch(shared)
    x = {name: np.exp(-design.problem.design[k, :, 3 + k]) for k, name in enumerate(("N", "D"))}
    rows = {name: x[name] * design.center[name] for name in x} | {"loss": design.problem.target}
    law = laws.fit(rows, "chinchilla", resample="case", level=0.95)
    assert law.status == "converged"
    assert law.parameters["A"] == pytest.approx(477.826, abs=0.01)
    assert law.parameters["beta"] == pytest.approx(0.3671724, abs=1e-6)
    assert law.diagnostics["objective_value"] == pytest.approx(0.00101827401780, rel=1e-9)
    low, high = law.reference.intervals["alpha"]
    assert (low, high) == (pytest.approx(0.3168, abs=2e-3), pytest.approx(0.3733, abs=2e-3))
    lad = laws.fit(rows, "chinchilla", objective="lad", bootstrap=50)
    assert lad.parameters["B"] == pytest.approx(2085.4, abs=0.1)


@pytest.mark.parametrize(
    "objective", ["l2", "huber:1e-3", "student:0.003", "raw:l2", "raw:huber:0.01", "lad"]
)
def test_every_objective_comes_near_the_constants_of_clean_rows(objective):
    law = laws.fit(table(rows=150, sd=1e-3), "chinchilla", objective=objective, bootstrap=50)
    assert law.usable
    for name, value in TRUE.items():
        assert law.parameters[name] == pytest.approx(value, rel=0.35 if name in "AB" else 0.05), name


def test_intervals_hold_the_truth_and_the_mean_law():
    law = laws.fit(table(), "chinchilla", objective="l2", resample="case")
    for name in ("alpha", "beta", "E"):
        low, high = law.reference.intervals[name]
        assert low < TRUE[name] < high
    low, high = law.interval(N=1e9, D=1e11)
    assert low < laws.forms.get("chinchilla").value(TRUE, {"N": 1e9, "D": 1e11}) < high
    assert low < law.predict(N=1e9, D=1e11) < high
    assert law.draws(5, N=np.array([1e8, 1e9]), D=1e10).shape == (5, 2)


def test_law_of_several_terms_survives_its_file(tmp_path):
    law = laws.fit(table(), "chinchilla", bootstrap=50)
    law.to_json(tmp_path / "law.json")
    again = laws.load(tmp_path / "law.json")
    assert again == law
    assert again.interval(N=1e9, D=1e10) == law.interval(N=1e9, D=1e10)
    text = law.dumps().replace('"alpha":', '"alpha": 1.5, "_":', 1)
    with pytest.raises(LawError):
        laws.Law.loads(text)


def test_a_tied_fit_has_one_exponent_and_a_fixed_constant_no_interval():
    tied = laws.fit(table(), "chinchilla", tie={"beta": "alpha"}, objective="l2", bootstrap=50)
    assert tied.parameters["alpha"] == tied.parameters["beta"]
    fixed = laws.fit(table(), "chinchilla", fix={"E": 1.6}, objective="l2", bootstrap=50)
    assert fixed.parameters["E"] == pytest.approx(1.6)
    assert "E" not in fixed.reference.intervals


def test_a_bound_and_a_constant_at_zero_are_coded():
    bound = laws.fit(table(), "chinchilla", bounds={"alpha": (0.1, 0.3)}, objective="l2", bootstrap=50)
    assert bound.parameters["alpha"] == pytest.approx(0.3)
    assert "parameter_at_bound" in codes(bound)
    rows = table(true=TRUE | {"E": 1e-9}, sd=0.01)
    assert "E_at_zero" in codes(laws.fit(rows, "chinchilla", objective="l2", bootstrap=50))


def test_collinear_and_few_levels_and_trends_are_coded():
    rows = table(sd=0.001)
    rows["D"] = 20 * rows["N"]
    rows["loss"] = laws.forms.get("chinchilla").value(TRUE, {"N": rows["N"], "D": rows["D"]})
    assert "collinear_predictors" in codes(laws.fit(rows, "chinchilla", objective="l2", bootstrap=50))
    rows = table(sd=0.001)
    rows["N"] = np.where(rows["N"] > 3e8, 1e9, 1e8)
    rows["loss"] = laws.forms.get("chinchilla").value(TRUE, {"N": rows["N"], "D": rows["D"]})
    assert "too_few_levels" in codes(laws.fit(rows, "chinchilla", objective="l2", bootstrap=50))
    rows = table(sd=1e-4)
    rows["loss"] = rows["loss"] * np.exp(0.003 * np.log(rows["D"] / 3e10) ** 2)
    law = laws.fit(rows, "chinchilla", objective="l2", bootstrap=50, bounds={"beta": (0.3, 0.4)})
    assert any(w.startswith("residual_trend: residuals bend") for w in law.diagnostics["warnings"])


def test_clean_rows_have_no_codes():
    rows = table(sd=0.002, rows=80, seed=3, ladder=[str(i % 12) for i in range(80)])
    assert codes(laws.fit(rows, "chinchilla", objective="l2", bootstrap=100)) == []


def test_one_size_is_not_identified_unless_its_exponent_is_held():
    rows = table()
    rows["N"] = np.full(60, 1e9)
    law = laws.fit(rows, "chinchilla")
    assert law.status == "not_identified: N has one value (1e+09)"
    assert not law.usable
    held = laws.fit(rows, "chinchilla", fix={"alpha": 0.34, "E": 1.7}, objective="l2", bootstrap=50)
    assert held.usable


def test_hold_outs_are_refits_without_the_rows():
    rows = table(rows=30)
    law = laws.fit(rows, "chinchilla", objective="l2", bootstrap=50)
    keep = rows["N"] < rows["N"].max()
    less = laws.fit({k: v[keep] for k, v in rows.items()}, "chinchilla", objective="l2", bootstrap=50)
    predicted = less.predict(N=rows["N"][~keep], D=rows["D"][~keep])
    assert law.holdout["largest_N"] == pytest.approx(
        np.abs(predicted / rows["loss"][~keep] - 1).mean(), rel=1e-4
    )
    assert set(law.holdout["rows"]) == {"largest_N", "largest_D", "largest_N_or_D", "leave_one_out",
                                        "leave_one_cell", "leave_one_ladder"}  # fmt: skip


def test_columns_may_have_names_of_their_own():
    rows = table()
    other = {"params": rows["N"], "tokens": rows["D"], "final": rows["loss"]}
    names = {"N": "params", "D": "tokens", "loss": "final"}
    assert laws.fit(other, "chinchilla", columns=names, bootstrap=50) == laws.fit(
        rows, "chinchilla", bootstrap=50
    )
    with pytest.raises(
        LawError, match="no column 'parms' for N in the table; columns: params, tokens, final"
    ):
        laws.fit(other, "chinchilla", columns={"N": "parms"})


def test_standard_errors_weigh_the_rows():
    rows = table(rows=60, sd=1e-4)
    rows["loss"][:20] *= 1.05
    trusted = laws.fit(
        rows | {"loss_se": np.where(np.arange(60) < 20, 1.0, 1e-3)},
        "chinchilla",
        objective="l2",
        bootstrap=50,
    )
    assert trusted.parameters["alpha"] == pytest.approx(0.34, abs=0.01)


def test_borrowed_exponents_pull_a_fit_of_few_rows():
    donor = laws.fit(table(rows=200, sd=1e-3), "chinchilla", objective="l2", bootstrap=50)
    few = table(rows=6, sd=0.01, seed=5)
    alone = laws.fit(few, "chinchilla", objective="l2", bootstrap=50)
    with_prior = laws.fit(few, "chinchilla", objective="l2", borrow=donor, bootstrap=50)
    assert abs(with_prior.parameters["alpha"] - 0.34) < abs(alone.parameters["alpha"] - 0.34)
    assert with_prior.fit["prior"]["alpha"][0] == pytest.approx(0.34, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "hubr"}, "objective 'hubr': wanted l2, huber, lad or student"),
        ({"objective": "l2:0.1"}, "wanted l2"),
        ({"fix": {"gamma": 1.0}}, "'gamma' is not an exponent"),
        ({"tie": {"beta": "beta"}}, "is tied itself"),
        ({"bootstrap": 3}, "a law keeps 50"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(LawError, match=message):
        laws.fit(table(), "chinchilla", **options)


def test_negative_losses_need_raw_residuals():
    rows = table()
    rows["loss"][3] = -0.1
    with pytest.raises(FitError, match="raw:l2"):
        laws.fit(rows, "chinchilla")


def test_objective_texts_go_both_ways():
    for text in ("l2", "huber:0.001", "lad", "student:0.01", "raw:l2", "raw:huber:0.1"):
        parsed = Objective.parse(text)
        assert parsed.loss in str(parsed)
        assert parsed.residual in str(parsed)


def test_fewer_rows_than_parameters_are_told():
    law = laws.fit(table(rows=4), "chinchilla")
    assert law.status == "not_identified: 4 rows cannot determine 5 parameters"


def test_delta_form_with_an_objective_agrees_with_the_weighted_fit(make_rows):
    rows = make_rows(row_sd=0.02)
    weighted = laws.fit(rows, bootstrap=50)
    same = laws.fit(rows, objective="l2", bootstrap=50)
    for name, value in weighted.parameters.items():
        assert same.parameters[name] == pytest.approx(value, rel=1e-5), name


def noise_rows(sd=0.03, seed=0):
    """Deltas of four formats that follow their rounding error."""
    rng = np.random.default_rng(seed)
    out = []
    for i, (recipe, r) in enumerate(
        (("w4a4:g16", 0.015), ("w4a4:g64", 0.023), ("w3a3:g32", 0.1), ("w6a6:g32", 1e-3))
    ):
        for n in (1e5, 1e6, 1e7):
            for d in (1e8, 1e9):
                delta = 0.5 * n**-0.2 * d**0.1 * r**0.8 * np.exp(sd * rng.standard_normal())
                out.append(
                    {"N": n, "D": d, "r": r, "recipe": recipe, "delta": delta, "ladder": f"{n} {i % 2}"}
                )
    return out


@pytest.mark.parametrize("objective", [None, "l2"])
def test_noise_law_takes_many_formats_and_is_tried_on_each_left_out(objective):
    rows = noise_rows()
    law = laws.fit(rows, "noise", objective=objective, bootstrap=100)
    assert law.parameters["c"] == pytest.approx(0.8, abs=0.02)
    errors = []
    for bare in ("w4a4", "w3a3", "w6a6"):
        rest = [row for row in rows if not row["recipe"].startswith(bare)]
        without = laws.fit(rest, "noise", objective=objective, bootstrap=100)
        mine = [row for row in rows if row["recipe"].startswith(bare)]
        errors += [
            abs(without.predict(**{k: row[k] for k in ("N", "D", "r")}) / row["delta"] - 1) for row in mine
        ]
    assert law.holdout["leave_one_format"] == pytest.approx(np.mean(errors), rel=2e-3)
    assert law.holdout["rows"]["leave_one_format"] == 24
    with pytest.raises(LawError, match="mixes"):
        laws.fit([row | {"G": 32} for row in rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": {"alpha": (0.1, np.inf)}}, "bounds: alpha=.*wanted two finite numbers"),
        ({"prior": {"alpha": (np.nan, 0.1)}}, "prior: alpha="),
        ({"resample": "rows"}, "resample='rows'; wanted cluster, case, wild"),
    ],
)
def test_option_that_a_law_file_cannot_hold_is_an_error(options, message):
    with pytest.raises(LawError, match=message):
        laws.fit(table(), "chinchilla", bootstrap=50, **options)


def test_a_prior_weighs_as_much_as_the_noise_of_the_rows_says(make_rows):
    rows = make_rows(row_sd=0.02)
    free = laws.fit(rows, objective="l2", bootstrap=50)
    x = np.column_stack(
        [
            np.ones(64),
            *(
                np.log([f(row[k]) for row in rows])
                for k, f in zip("NDG", (float, float, np.log2), strict=True)
            ),
        ]
    )
    x[:, 1:] -= x[:, 1:].mean(axis=0)
    y = np.log([row["delta"] for row in rows])
    _, rest, _, _ = np.linalg.lstsq(x, y, rcond=None)
    noise = float(rest[0]) / 60
    for sd in (0.003, 0.1):
        law = laws.fit(rows, objective="l2", prior={"gD": (0.2, sd)}, bootstrap=50)
        # the posterior mode of a normal linear model
        inverse = x.T @ x / noise
        inverse[2, 2] += 1 / sd**2
        mode = np.linalg.solve(inverse, x.T @ y / noise + np.array([0, 0, 0.2 / sd**2, 0]))
        assert law.parameters["gD"] == pytest.approx(mode[2], rel=0.05)
    assert law.parameters["gD"] == pytest.approx(free.parameters["gD"], abs=1e-3)


def test_options_of_terms_are_refused_where_there_are_none():
    with pytest.raises(LawError, match="is no sum of terms"):
        laws.fit(
            table() | {"G": np.full(60, 32.0), "delta": table()["loss"]},
            "qat-saturating",
            prior={"gN": (0.2, 0.1)},
        )
