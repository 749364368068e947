"""Forms: every registered one has a domain, an exact gradient and a sane start; levels; errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import least_squares

from qscale.errors import LawError
from qscale.laws import forms, load
from qscale.laws.forms import FORMS, Form, farseer

#: Two values of each variable at which forms are compared with differences.
POINT = {
    "N": [1e8, 3e9],
    "D": [5e9, 2e11],
    "G": [32.0, 300.0],
    "P": [3.0, 6.0],
    "Pw": [4.0, 8.0],
    "Pa": [6.0, 8.0],
    "Pkv": [5.0, 12.0],
    "Ppost": [3.0, 4.0],
    "E": [0.0, 4.0],
    "M": [1.0, 3.0],
    "B": [32.0, 512.0],
    "C": [1e18, 1e22],
    "S": [3.0, 500.0],
    "S_qat": [2.0, 30.0],
    "S_fp": [5.0, 90.0],
    "U": [1e9, 1e10],
    "width": [512.0, 2048.0],
    "depth": [8.0, 40.0],
    "Qr": [0.25, 1.0],
    "Qb": [16.0, 256.0],
    "Cb": [16.0, 128.0],
    "r": [1e-3, 0.02],
    "x": [50.0, 5e4],
    "t": [100.0, 3e4],
}
SCHEDULE = np.concatenate([np.linspace(2e-6, 3e-4, 20), np.linspace(3e-4, 2e-5, 60), np.zeros(3)])
LEVELS = {"P": ["3", "fp4", "none"], "method": ["w4a4", "w4a16", "none"]}


def concrete(form: Form) -> Form:
    return form.with_levels({name: LEVELS[name] for name in form.by}) if form.by else form


def point(form: Form) -> dict[str, object]:
    given = {v.name: np.array(POINT.get(v.name, [0.0, 0.0])) for v in form.variables if not v.levels}
    given |= {v.name: np.array([v.levels[0], v.levels[1]]) for v in form.variables if v.levels}
    return given | ({"eta": SCHEDULE} if "eta" in given else {})


def constants(form: Form) -> dict[str, float]:
    """The start, or for sums of powers scales of 1 to 3 and exponents of 0.1 and up."""
    scales = {
        name for term in form.terms for name in term.scales({v.name: np.ones(1) for v in form.variables})
    }
    made = {
        name: 1.0 + i / 3 if name in scales else 0.1 + i / 50
        for i, name in enumerate(form.names)
        if form.terms
    }
    return made | dict(form.start)


@pytest.mark.parametrize("name", FORMS)
def test_gradient_agrees_with_differences(name):
    form = concrete(FORMS[name])
    params, given = constants(form), point(form)
    value, gradient = form.value(params, given), form.gradient(params, given)
    assert np.all(np.isfinite(value)), value
    assert set(gradient) == set(form.names)
    for key, at in params.items():
        step = 1e-5 * (abs(at) or 1.0)
        up = form.value({**params, key: at + step}, given)
        down = form.value({**params, key: at - step}, given)
        noise = 1e-14 * np.max(np.abs(value)) / step
        np.testing.assert_allclose(
            gradient[key], (up - down) / (2 * step), rtol=2e-6, atol=noise, err_msg=f"{name}: {key}"
        )
        # a derivative lost in the noise of the differences would be no test
        assert np.max(np.abs(gradient[key])) > 100 * noise, key


#: Where forms without terms are fitted; a schedule has a fit of its own.
GRID = {name: np.geomspace(*ends, 4) for name, ends in POINT.items() if ends[0] > 0}
GRID |= {"E": np.array([1.0, 2.0, 4.0]), "P": np.arange(2.0, 8.0), "Ppost": np.array([2.0, 3.0])}
GRID |= {"x": np.geomspace(10, 1e8, 30), "S": np.geomspace(2, 1e4, 9), "t": np.geomspace(100, 1e5, 40)}


#: farseer is too ill-conditioned to fit; farseer-centred is the same law.
STARTS = [k for k, form in FORMS.items() if form.start and "eta" not in point(form) and k != "farseer"]


@pytest.mark.parametrize("name", STARTS)
def test_least_squares_from_the_start_finds_other_constants(name):
    form = FORMS[name]
    names = [v.name for v in form.variables]
    rows = np.array(list(product(*(GRID[n] for n in names)))).T
    given = dict(zip(names, rows, strict=True))
    rng = np.random.default_rng(1)
    true = {key: at * np.exp(0.1 * rng.standard_normal()) for key, at in form.start.items()}
    wanted = form.value(true, given)

    def params(theta):
        return dict(zip(form.names, theta, strict=True))

    found = least_squares(
        lambda theta: form.value(params(theta), given) / wanted - 1,
        [form.start[key] for key in form.names],
        jac=lambda theta: (
            np.column_stack(list(form.gradient(params(theta), given).values())) / wanted[:, None]
        ),
        bounds=np.transpose([form.bounds.get(key, (-np.inf, np.inf)) for key in form.names]),
        x_scale="jac",
        max_nfev=1000,
    )
    assert np.max(np.abs(found.fun)) < 1e-6, params(found.x)


def test_gradient_check_can_fail():
    form = FORMS["fp-quant"]
    wrong = form.gradient(constants(form), point(form))["gamma"] * 1.001
    right = form.gradient(constants(form), point(form))["gamma"]
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(wrong, right, rtol=2e-6)


@pytest.mark.parametrize("name", FORMS)
def test_form_is_a_sum_of_terms_or_a_function_with_a_start_in_its_bounds(name):
    form = FORMS[name]
    assert form.id == name and form.citation and form.formula and form.unit
    assert len(set(form.names)) == len(form.names)
    if form.terms:
        assert form.function is None and form.slope is None and not form.start
        in_terms = {t.scale for t in form.terms} | {a.parameter for t in form.terms for a in t.axes}
        assert in_terms == set(form.names)
        used = {a.variable for t in form.terms for a in t.axes} | set(form.by)
        assert used == {v.name for v in form.variables}
        return
    assert form.function is not None and form.slope is not None
    assert set(form.start) == set(form.names)
    assert set(form.bounds) <= set(form.names)
    for key, (low, high) in form.bounds.items():
        assert low < form.start[key] < high or low == form.start[key] == 0.0


@pytest.mark.parametrize("name", FORMS)
def test_value_outside_the_domain_is_an_error(name):
    form = concrete(FORMS[name])
    for variable in form.variables:
        bad = "no-such-level" if variable.levels else variable.least - 1
        with pytest.raises(LawError, match=f"{variable.name}="):
            form.value(constants(form), point(form) | {variable.name: bad})
        if variable.most < np.inf:
            with pytest.raises(LawError, match=f"at most {variable.most:g}"):
                form.value(constants(form), point(form) | {variable.name: variable.most + 1})


def test_value_broadcasts_arrays():
    law = load("chen2025/w4a4")
    found = law.predict(N=np.array([[1e8], [1e9]]), D=1e11, G=np.array([32, 64, 128]))
    assert found.shape == (2, 3)
    assert found[1, 2] == law.predict(N=1e9, D=1e11, G=128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"N": 1e9, "D": 1e11}, "needs G"),
        ({"N": 1e9, "D": 1e11, "G": 128, "P": 4}, "no variable 'P'"),
        ({"N": 0, "D": 1e11, "G": 128}, "N=0; .* more than 0"),
        ({"N": 1e9, "D": 1e11, "G": 0.5}, "G=0.5; .* at least 1"),
        ({"N": float("nan"), "D": 1e11, "G": 128}, "N=nan"),
        ({"N": "7B", "D": 1e11, "G": 128}, "N='7B' is not a number"),
        ({"N": [1e9, 2e9], "D": [1e11] * 3, "G": 128}, "do not broadcast"),
    ],
)
def test_bad_variables_are_named(given, message):
    with pytest.raises(LawError, match=message):
        load("chen2025/w4a4").predict(**given)


def test_unknown_form_gets_the_nearest():
    with pytest.raises(LawError, match="did you mean 'qat-unified'"):
        forms.get("qat-unifed")


def test_group_of_one_gives_no_delta():
    assert load("chen2025/w4a4").predict(N=595e6, D=100e9, G=1) == 0.0
    form = FORMS["qat-saturating"]
    assert form.value(form.start, {"N": 1e9, "D": 1e11, "G": 1}) == 0.0
    assert form.gradient(form.start, {"N": 1e9, "D": 1e11, "G": 1})["gG"] == 0.0


# --- levels


def test_each_level_has_its_own_scale_and_none_has_no_delta():
    form = forms.get("additive-table").with_levels({"P": [3, 4.0, "none"]})
    assert form.id == "additive-table[P=3,4,none]"
    assert form.names == ("A", "B", "E", "alpha", "beta", "k[3]", "k[4]", "gN", "gD")
    params = dict.fromkeys(form.names, 0.3) | {"k[3]": 0.2, "k[4]": 0.1}
    at = {"N": 1e8, "D": 1e9}
    whole = form.value(params, at | {"P": "none"})
    assert whole == forms.get("chinchilla").value(params, at)
    delta = forms.get("qat-power").value({"k": 0.1, "gN": 0.3, "gD": 0.3}, at)
    np.testing.assert_allclose(
        form.value(params, at | {"P": [3, "4", 4.0]}) - whole, [2 * delta, delta, delta]
    )


def test_gradient_of_a_level_is_zero_at_the_others_and_finite_at_a_scale_of_zero():
    form = forms.get("qat-table").with_levels({"P": [3, 4]})
    gradient = form.gradient(
        {"k[3]": 0.0, "k[4]": 1.0, "gN": 0.2, "gD": 0.1}, {"N": 1e8, "D": 1e9, "P": [3, 4]}
    )
    power = 1e9**0.1 / 1e8**0.2
    np.testing.assert_allclose(gradient["k[3]"], [power, 0.0])
    np.testing.assert_allclose(gradient["k[4]"], [0.0, power])
    assert gradient["gN"][0] == 0.0


def test_form_with_levels_is_found_again_by_its_id():
    form = forms.get("joint-table").with_levels({"method": ["w4a4", "none"]})
    again = forms.get(form.id)
    assert (again.names, again.variables, again.terms) == (form.names, form.variables, form.terms)
    assert form.by == ("method",) and form.axes == () and form.scale is None


@pytest.mark.parametrize(
    ("form", "levels", "message"),
    [
        ("qat-table", {}, "levels of nothing; it has those of P"),
        ("qat-table", {"G": [1]}, "levels of G; it has those of P"),
        ("qat-unified", {"P": [1]}, "levels of P; it has none"),
        ("qat-table", {"P": []}, "levels of P are none"),
        ("qat-table", {"P": [4, 4.0]}, "levels of P are '4', '4'"),
        ("qat-table", {"P": ["a,b"]}, "without space, comma"),
        ("qat-table[P=3,4]", {"P": [3]}, "has its levels; take them of 'qat-table'"),
    ],
)
def test_levels_that_do_not_fit_are_errors(form, levels, message):
    with pytest.raises(LawError, match=message):
        forms.get(form).with_levels(levels)


def test_values_before_levels_are_named_say_what_to_do():
    with pytest.raises(LawError, match=r"name them first, with_levels\(\{'P'"):
        forms.get("qat-table").value({}, {"N": 1e8, "D": 1e9, "P": 4})


def test_unknown_level_is_named_with_the_known_ones():
    with pytest.raises(LawError, match="P=5; known: 1, 2, 3"):
        load("panferov2025/quest").predict(N=1e8, D=1e10, P=5)


# --- single forms


def test_tied_chinchilla_is_chinchilla_with_one_exponent():
    p = {"A": 237.7, "B": 596.2, "E": 1.9, "alpha": 0.3}
    at = {"N": [1e8, 1e10], "D": [1e10, 1e11]}
    tied, free = forms.get("chinchilla-tied"), forms.get("chinchilla")
    np.testing.assert_array_equal(tied.value(p, at), free.value(p | {"beta": 0.3}, at))
    both = free.gradient(p | {"beta": 0.3}, at)
    np.testing.assert_allclose(tied.gradient(p, at)["alpha"], both["alpha"] + both["beta"])


def test_saturating_delta_is_half_at_x0_and_levels_off():
    form = FORMS["qat-saturating"]
    p = dict(form.start)
    n, g = 1e9, 128
    limit = p["k"] * np.log2(g) ** p["gG"] / n ** p["gN"] * (p["x0"] * n) ** p["gD"]
    assert form.value(p, {"N": n, "D": p["x0"] * n, "G": g}) == pytest.approx(limit / 2, rel=1e-12)
    assert form.value(p, {"N": n, "D": 1e300, "G": g}) == pytest.approx(limit, rel=1e-9)
    small = {"N": n, "D": 1e-20 * n, "G": g}
    assert form.value(p, small) == pytest.approx(forms.get("qat-unified").value(p, small), rel=2e-3)


def test_over_training_is_chinchilla_with_equal_exponents():
    # N = sqrt(C / 6 M), D = sqrt(C M / 6); A / N^2eta + B / D^2eta
    p = {"E": 1.7, "a": 40.0, "b": 90.0, "eta": 0.15}
    n, d = 3e9, 1e11
    found = forms.get("over-training").value(p, {"C": 6 * n * d, "M": d / n})
    assert found == pytest.approx(1.7 + 40 * 6**-0.15 * n**-0.3 + 90 * 6**-0.15 * d**-0.3, rel=1e-12)


def test_precision_of_many_bits_is_chinchilla():
    p = dict(load("kumar2025/qat").parameters)
    at = {"N": [1e8, 1e9], "D": [1e10, 1e11]}
    full = forms.get("precision-qat").value(p, at | {"Pw": 99, "Pa": 99, "Pkv": 99})
    np.testing.assert_allclose(full, forms.get("chinchilla").value(p, at), rtol=1e-14)


def test_equal_gammas_make_precision_qat_the_cubed_form():
    base = {"A": 400.0, "B": 400.0, "E": 1.7, "alpha": 0.34, "beta": 0.28}
    at = {"N": 1e9, "D": 1e11}
    three = forms.get("precision-qat").value(
        base | {"gw": 2.0, "ga": 2.0, "gkv": 2.0}, at | {"Pw": 4, "Pa": 4, "Pkv": 4}
    )
    assert forms.get("precision-cubed").value(base | {"g": 2.0}, at | {"P": 4}) == pytest.approx(
        three, rel=1e-13
    )


def test_bias_of_zero_changes_nothing_and_a_large_one_leaves_no_parameters():
    p = dict(load("kumar2025/qat").parameters) | {"nw": 0.0, "na": 0.0, "nkv": 0.0}
    at = {"N": 1e9, "D": 1e11, "Pw": 4, "Pa": 8, "Pkv": 8}
    biased = forms.get("precision-qat-biased")
    assert biased.value(p, at) == forms.get("precision-qat").value(p, at)
    assert biased.value(p | {"nw": 2.0}, at) == np.inf


def test_unified_ptq_is_zero_at_the_training_precision_and_above():
    form = FORMS["precision-unified"]
    at = {"N": 1e9, "D": 1e11, "Pw": 6, "Pa": 8, "Pkv": 8}
    assert list(form.value(form.start, at | {"Ppost": [6, 7]})) == [0.0, 0.0]
    assert form.value(form.start, at | {"Ppost": 5}) > 0


def test_farseer_centred_is_the_same_law_and_its_exponent_may_be_zero():
    p = load("li2025/farseer").parameters
    at = {"N": np.array([1e8, 1e9, 2.5e10]), "D": 1e11}
    centred = FORMS["farseer-centred"]
    q = farseer.centred(p)
    np.testing.assert_allclose(centred.value(q, at), FORMS["farseer"].value(p, at), rtol=1e-12)
    assert farseer.raw(q) == pytest.approx(dict(p), rel=1e-12)
    for tiny in (0.0, 1e-9):  # a power law in N
        at_zero = centred.gradient(q | {"g3": tiny}, at)["g3"]
        around = [centred.value(q | {"g3": tiny + step}, at) for step in (1e-4, -1e-4)]
        np.testing.assert_allclose(at_zero, (around[0] - around[1]) / 2e-4, rtol=1e-5, atol=1e-12)


def test_repetition_is_chinchilla_where_nothing_repeats_and_worse_where_it_does():
    p = load("muennighoff2023/repetition").parameters
    form = FORMS["data-constrained"]
    fresh = form.value(p, {"N": 1e8, "D": 1e10, "U": 1e10})
    assert fresh == pytest.approx(forms.get("chinchilla").value(p, {"N": 1e8, "D": 1e10}), rel=1e-14)
    assert form.value(p, {"N": 1e8, "D": 1e10, "U": 1e9}) > fresh


def test_broken_law_has_the_slopes_of_its_segments():
    form = FORMS["bnsl"]
    p = {"a": 0.0, "b": 5.0, "c0": 0.2, "c1": 0.5, "d1": 1000.0, "f1": 0.3}

    def slope(x):
        return np.log(form.value(p, {"x": 1.001 * x}) / form.value(p, {"x": x})) / np.log(1.001)

    assert slope(1e-3) == pytest.approx(-0.2, abs=1e-3)
    assert slope(1e9) == pytest.approx(-0.7, abs=1e-3)
    two = FORMS["bnsl-2"].value(p | {"c2": 0.0, "d2": 1e5, "f2": 1.0}, {"x": [10.0, 1e6]})
    np.testing.assert_allclose(two, form.value(p, {"x": [10.0, 1e6]}), rtol=1e-14)


def test_m4_solves_its_equation_and_is_m2_at_alpha_zero():
    p = {"e_inf": 1.0, "e_0": 12.0, "alpha": 0.7, "beta": 9.0, "c": -0.3}
    x = np.array([1.0, 1e3, 1e6, 1e12])
    e = FORMS["m4"].value(p, {"x": x})
    np.testing.assert_allclose((e - 1.0) / (12.0 - e) ** 0.7, 9.0 * x**-0.3, rtol=1e-11)
    np.testing.assert_allclose(
        FORMS["m4"].value(p | {"alpha": 0.0}, {"x": x}), FORMS["m2"].value(p, {"x": x}), rtol=1e-13
    )


def test_m3_without_a_level_is_m1():
    x = np.array([10.0, 1e5])
    m3 = FORMS["m3"].value({"beta": 9.0, "c": 0.3, "gamma": 0.0}, {"x": x})
    np.testing.assert_allclose(m3, FORMS["m1"].value({"beta": 9.0, "c": -0.3}, {"x": x}), rtol=1e-14)


def test_task_stratified_exponents_give_the_ratios_of_their_source():
    form = FORMS["task-ptq"]
    at = {"N": 1e9, "P": 4.0, "Cb": 128.0, "G": 32.0}
    levels = {"general": (-0.359, -1.067, -0.032, 0.073), "memorisation": (-0.315, -0.964, -0.040, 0.064)}
    levels |= {"application": (-0.400, -1.100, -0.030, 0.075), "reasoning": (-0.320, -1.200, -0.025, 0.085)}
    ratios = []
    for exponents in levels.values():
        p = {"A": 1.0} | dict(zip(("a", "b", "c", "d"), exponents, strict=True))
        ratios.append(form.value(p, at) / form.value(p, at | {"P": 8.0}))
    np.testing.assert_allclose(ratios, [1.54, 1.48, 1.56, 1.63], atol=0.005)
    p = {"A": 1.0} | dict(zip(("a", "b", "c", "d"), levels["general"], strict=True))
    one = form.value(p, at)
    assert form.value(p, at | {"P": 3.0}) / one == pytest.approx(1.28, abs=0.005)
    assert form.value(p, at | {"G": 1024.0}) / one == pytest.approx(1.29, abs=0.005)
    assert form.value(p, at | {"N": 1e10}) / one == pytest.approx(0.44, abs=0.005)
