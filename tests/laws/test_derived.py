"""Derived quantities: golden values, round trips, and closed forms against numeric minimisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar

from qscale.laws import derived, forms, load
from qscale.laws.forms.floating_point import rounding

FP = load("sun2025/fp").parameters


def near(found, printed: str):
    """Equal to a printed number in all its digits."""
    assert f"{float(found):.{_digits(printed)}e}" == f"{float(printed):.{_digits(printed)}e}"


def _digits(printed: str) -> int:
    mantissa = printed.partition("e")[0].replace(".", "").replace("-", "").lstrip("0")
    return len(mantissa) - 1


def test_digits_check_can_fail():
    near(4.0361e10, "4.036e10")
    for found, printed in ((4.0371e10, "4.036e10"), (0.053791, "0.053790")):
        with pytest.raises(AssertionError):
            near(found, printed)


def baseline(name):
    p = load(name).parameters
    return {key: p.get(key, p["alpha"]) for key in ("A", "B", "alpha", "beta")}


# --- compute-optimal


@pytest.mark.parametrize(
    ("name", "n", "d", "ratio"),
    [
        ("hoffmann2022/chinchilla", "4.036e10", "2.379e12", "58.93"),
        ("hoffmann2022/as-printed", "3.219e10", "2.982e12", "92.65"),
        ("besiroglu2024/huber", "7.319e10", "1.312e12", "17.92"),
        ("besiroglu2024/as-printed", "7.225e10", "1.329e12", "18.39"),
    ],
)
def test_compute_optimal_gives_the_golden_split(name, n, d, ratio):
    best = derived.compute_optimal(5.76e23, **baseline(name))
    near(best.N, n)
    near(best.D, d)
    near(best.D / best.N, ratio)


@pytest.mark.parametrize(("cost", "share"), [(6.0, 1.0), (6 / 16 * 4, 0.7)])
def test_compute_optimal_is_the_least_loss(cost, share):
    p = baseline("hoffmann2022/chinchilla")
    best = derived.compute_optimal(1e22, **p, cost=cost, share=share)
    assert cost * best.N * best.D == pytest.approx(1e22)

    def loss(log_n):
        n = math.exp(log_n)
        return p["A"] / (share * n) ** p["alpha"] + p["B"] / (1e22 / cost / n) ** p["beta"]

    found = minimize_scalar(loss, bounds=(10, 40), method="bounded", options={"xatol": 1e-10})
    assert math.log(best.N) == pytest.approx(found.x, abs=1e-6)


def test_compute_optimal_exponents_are_those_of_the_optimum():
    p = baseline("besiroglu2024/huber")
    a, b = derived.optimal_exponents(p["alpha"], p["beta"])
    near(a, "0.5139")
    first, second = (derived.compute_optimal(c, **p) for c in (1e21, 1e24))
    assert math.log10(second.N / first.N) / 3 == pytest.approx(a)
    assert math.log10(second.D / first.D) / 3 == pytest.approx(b)


def test_precision_changes_the_split_as_re_derived():
    p = baseline("kumar2025/baseline") | {"beta": 0.4}
    whole = derived.compute_optimal(1e21, **p)
    share = derived.share_of_bits(4, 2.0, 2.0, 2.0)
    cut = derived.compute_optimal(1e21, **p, share=share)
    power = p["alpha"] / (p["alpha"] + p["beta"])
    assert pytest.approx(share**-power) == cut.N / whole.N
    assert pytest.approx(share**power) == cut.D / whole.D


# --- EPM


@pytest.mark.parametrize(
    ("name", "n", "d", "g", "printed"),
    [
        ("w4a4", 595e6, 100e9, 128, "0.712117"),
        ("w4a16", 595e6, 100e9, 128, "0.879386"),
        ("w16a4", 595e6, 100e9, 128, "0.786265"),
        ("w4a4-fc2a8", 595e6, 100e9, 128, "0.794808"),
        ("w16a4-fc2a8", 595e6, 100e9, 128, "0.876146"),
        ("w4a4", 145e6, 20e9, 32, "0.810"),
        ("w4a4", 145e6, 20e9, 128, "0.763"),
        ("w4a4", 595e6, 100e9, 32, "0.768"),
        ("w4a4", 595e6, 100e9, 128, "0.712"),
    ],
)
def test_eff_of_the_qat_law_has_the_golden_value(name, n, d, g, printed):
    base = baseline("chen2025/baseline")
    delta = load(f"chen2025/{name}").predict(N=n, D=d, G=g)
    near(derived.eff_of_delta(delta, n, A=base["A"], alpha=base["alpha"]), printed)


@pytest.mark.parametrize("delta", [-0.01, 0.0, 1e-6, 0.05, 3.0])
def test_delta_to_eff_and_back(delta):
    eff = derived.eff_of_delta(delta, 1e9, A=400.0, alpha=0.34)
    assert derived.delta_of_eff(eff, 1e9, A=400.0, alpha=0.34) == pytest.approx(delta, abs=1e-14)
    assert (eff < 1) == (delta > 0)


def test_eff_is_the_empirical_effective_size_of_the_precision_law():
    p = load("kumar2025/qat").parameters
    at = {"N": 2e8, "D": 2e10, "Pa": 8.0, "Pkv": 8.0}
    high = load("kumar2025/baseline").predict(N=2e8, D=2e10)
    delta = load("kumar2025/qat").predict(**at, Pw=4) - high
    eff = derived.eff_of_delta(delta, 2e8, A=p["A"], alpha=p["alpha"])
    shares = derived.share_of_bits(4, p["gw"]) * derived.share_of_bits(8, p["ga"], p["gkv"])
    assert eff == pytest.approx(shares, rel=1e-9)


def test_eff_table_to_scales_and_back():
    eff = {"1": 0.02, "4": 0.7, "bf16": 1.0}
    scales = derived.scales_of_eff(eff, A=8.134, alpha=0.06273)
    assert set(scales) == {"A[1]", "A[4]", "A[bf16]"}
    found = derived.eff_of_scales(scales | {"alpha": 0.06273, "E": 1.0}, baseline="bf16")
    assert found == pytest.approx(eff)
    form = forms.get("eff-table").with_levels({"P": list(eff)})
    p = scales | {"alpha": 0.06273, "B": 86.0, "beta": 0.24, "E": 1.0}
    smaller = forms.get("chinchilla").value(p | {"A": 8.134}, {"N": 0.7e8, "D": 1e10})
    assert form.value(p, {"N": 1e8, "D": 1e10, "P": 4}) == pytest.approx(smaller, rel=1e-13)


def test_published_multipliers_are_those_of_the_laws():
    for name, levels in (("quest", 5e-3), ("lsq", 1e-9)):
        law = derived.eff_of_scales(load(f"panferov2025/{name}").parameters, baseline="16")
        printed = derived.PUBLISHED_EFF[f"panferov2025/{name}"]
        for scheme, value in printed.items():
            # the notebook's table against the paper's, which has two digits
            assert law[scheme[1]] == pytest.approx(value, abs=max(levels, 0.0085 if name == "quest" else 0))
    assert derived.PUBLISHED_EFF["frantar2025"]["w4a4"] == 0.747


def test_additivity_of_the_fitted_laws():
    for g, printed in ((32, "0.931"), (128, "0.940"), (256, "0.941")):
        at = {"N": 595e6, "D": 100e9, "G": g}
        deltas = [load(f"chen2025/{name}").predict(**at) for name in ("w4a4", "w4a16", "w16a4")]
        near(derived.additivity(*deltas), printed)
    assert derived.combined_delta(0.3, 0.7) == derived.ADDITIVITY


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("w4a4", "2.934"),
        ("w4a16", "2.229"),
        ("w16a4", "5.486"),
        ("w4a4-fc2a8", "2.735"),
        ("w16a4-fc2a8", "2.838"),
    ],
)
def test_contour_slope(name, slope):
    law = load(f"chen2025/{name}")
    found = derived.contour_slope(law.parameters["gN"], law.parameters["gD"])
    near(found, slope)
    along = law.predict(N=np.array([1e8, 2e8]), D=np.array([1e10, 2**found * 1e10]), G=128)
    assert along[1] == pytest.approx(along[0])


# --- critical data


@pytest.mark.parametrize(
    ("n", "bits", "printed"),
    [
        (1e9, 4, "2.946e11"),
        (220e6, 3, "3.244e10"),
        (220e6, 4, "1.753e11"),
        (220e6, 5, "9.476e11"),
        (220e6, 6, "5.122e12"),
    ],
)
def test_critical_tokens_of_ptq(n, bits, printed):
    base, ptq = load("kumar2025/baseline"), load("kumar2025/ptq")
    found = derived.critical_tokens(
        B=base.parameters["B"], beta=base.parameters["alpha"],
        delta=ptq.predict(N=n, D=1, P=bits), gD=ptq.parameters["gD"],
    )  # fmt: skip
    near(found, printed)

    def loss(log):
        return base.predict(N=n, D=math.exp(log)) + ptq.predict(N=n, D=math.exp(log), P=bits)

    least = minimize_scalar(loss, bounds=(10, 50), method="bounded", options={"xatol": 1e-9})
    assert math.log(found) == pytest.approx(least.x, abs=1e-5)


@pytest.mark.parametrize(
    ("layout", "printed"),
    [((8, 7), "1.7295e15"), ((4, 3), "2.7329e13"), ((2, 1), "3.9285e11"), ((1, 1), "8.0942e10")],
)
def test_critical_tokens_of_floating_point(layout, printed):
    found = derived.fp_critical_tokens(1e9, layout, 128, FP)
    near(found, printed)
    law, (e, m) = load("sun2025/fp"), layout

    def slope(log):  # of the loss by ln D, over beta
        d = math.exp(log)
        added = law.predict(N=1e9, D=d, E=e, M=m, B=128) - law.predict(N=1e9, D=d, E=e, M=m, B=1)
        return added - FP["d"] / d ** FP["beta"]

    assert math.log(found) == pytest.approx(brentq(slope, 20, 40), abs=1e-6)
    # the general rule, at the term of this law
    at_one = float(rounding(FP, {"N": 1e9, "D": 1.0, "E": e, "M": m, "B": 128}))
    general = derived.critical_tokens(B=FP["d"], beta=FP["beta"], delta=at_one, gD=FP["beta"])
    assert general == pytest.approx(found, rel=1e-6)


# --- bits


def test_layouts_are_the_printed_ones():
    exponents = (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)
    mantissas = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
    found = [derived.rounded_layout(bits) for bits in range(1, 17)]
    assert found == list(zip(exponents, mantissas, strict=True))
    for bits, m, e in ((4, "1.422", "1.578"), (8, "3.345", "3.655"), (16, "7.190", "7.810")):
        near(derived.optimal_layout(bits).M, m)
        near(derived.optimal_layout(bits).E, e)


def test_layout_is_the_least_error_of_its_bits():
    law = load("sun2025/fp")
    at = {"N": 1e9, "D": 1e11, "B": 128}

    def loss(e):
        return law.predict(**at, E=e, M=7 - e)

    least = minimize_scalar(loss, bounds=(0, 7), method="bounded", options={"xatol": 1e-9})
    best = derived.optimal_layout(8)
    assert pytest.approx(least.x, abs=1e-5) == best.E
    assert pytest.approx(7) == best.E + best.M
    s = FP["delta"] + FP["nu"]
    term = 1e11 ** FP["beta"] / 1e9 ** FP["alpha"] * 7 / (derived.fp_constant(FP) * 8**s)
    whole = law.predict(N=1e9, D=1e11, E=0, M=0, B=1)
    assert loss(best.E) - whole == pytest.approx(term, rel=1e-9)


def test_constants_of_the_floating_point_optima():
    rho, s = derived.fp_constant(FP), FP["delta"] + FP["nu"]
    near(rho, "160.697")
    near(rho * FP["n"], "11125.76")
    near((s - FP["alpha"]) / (FP["n"] * FP["alpha"] * rho), "2.243280e-3")
    near((FP["beta"] + s) / (FP["d"] * FP["beta"] * rho), "1.164583e-6")
    ratio = FP["d"] * FP["beta"] / (FP["n"] * FP["alpha"]) * (s - FP["alpha"]) / (s + FP["beta"])
    near(ratio, "1926.2516")
    best = derived.fp_optimum(1e22, 128, FP)
    assert best.D ** FP["beta"] == pytest.approx(ratio * best.N ** FP["alpha"])


def test_effective_size_has_the_loss_of_the_quantized_model():
    law, best = load("sun2025/fp"), derived.optimal_layout(4)
    size = derived.fp_effective_size(1e9, 1e11, 4, 128, FP)
    quantized = law.predict(N=1e9, D=1e11, E=best.E, M=best.M, B=128)
    assert law.predict(N=size, D=1e11, E=2, M=1, B=1) == pytest.approx(quantized, rel=1e-12)


def fp_loss(n, d, bits):
    layout = derived.optimal_layout(bits)
    return load("sun2025/fp").predict(N=n, D=d, E=layout.E, M=layout.M, B=128)


@pytest.mark.parametrize(
    ("compute", "printed"),
    [(1e21, "4.190"), (1e23, "4.717"), (1e25, "5.311"), (1e28, "6.344"), (1e31, "7.578")],
)
def test_joint_optimum_of_floating_point(compute, printed):
    best = derived.fp_optimum(compute, 128, FP)
    near(best.P, printed)
    assert pytest.approx(compute) == 6 / 16 * best.P * best.N * best.D

    def loss(x):
        size, bits = np.exp(x)
        return fp_loss(size, compute / (6 / 16 * bits * size), bits)

    start = [math.log(best.N) + 0.3, math.log(best.P) - 0.1]
    least = minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-15, "maxiter": 2000}
    )
    np.testing.assert_allclose(np.exp(least.x), [best.N, best.P], rtol=1e-4)
    if compute == 1e21:
        near(best.N, "7.930e9")
        near(best.D, "8.025e10")


@pytest.mark.parametrize(
    ("d", "printed"), [(1e11, "4.268"), (1e12, "5.179"), (1e13, "6.284"), (1e14, "7.624")]
)
def test_optimal_bits_at_given_data(d, printed):
    found = derived.fp_optimal_bits_at_tokens(d, 128, FP)
    near(found, printed)
    for compute in (1e21, 1e24):  # the same at every cost

        def loss(bits, compute=compute):
            return fp_loss(compute / (6 / 16 * bits * d), d, bits)

        least = minimize_scalar(loss, bounds=(2, 15), method="bounded", options={"xatol": 1e-8})
        assert found == pytest.approx(least.x, abs=1e-4)


def test_optimal_bits_at_given_size():
    found = derived.fp_optimal_bits_at_size(1e9, 1e23, 128, FP)
    near(found, "11.717")

    def loss(bits):
        return fp_loss(1e9, 1e23 / (6 / 16 * bits * 1e9), bits)

    least = minimize_scalar(loss, bounds=(2, 30), method="bounded", options={"xatol": 1e-8})
    assert found == pytest.approx(least.x, abs=1e-4)


def test_optimal_integer_bits_are_the_same_at_every_cost():
    near(derived.optimal_bits(1.0, 1.0, 1.0), "1.9038137")
    gammas = (2.6745, 2.2102, 0.9578)
    found = derived.optimal_bits(*gammas)
    near(found, "3.469")
    p = baseline("kumar2025/baseline")
    for compute in (1e20, 1e25):

        def loss(bits, compute=compute):
            share, cost = derived.share_of_bits(bits, *gammas), 6 / 16 * bits
            best = derived.compute_optimal(compute, **p, cost=cost, share=share)
            return p["A"] / (share * best.N) ** p["alpha"] + p["B"] / best.D ** p["beta"]

        least = minimize_scalar(loss, bounds=(0.5, 16), method="bounded", options={"xatol": 1e-9})
        assert found == pytest.approx(least.x, abs=1e-4)
    g = 2.5
    root = brentq(lambda b: 3 * b / g * math.exp(-b / g) - (1 - math.exp(-b / g)), 1, 50)
    assert derived.optimal_bits(g, g, g) == pytest.approx(root, rel=1e-12)


def test_one_quantized_tensor_has_no_optimum():
    with pytest.raises(ValueError, match="1 gammas: one quantized tensor alone"):
        derived.optimal_bits(2.0)


# --- fractions, repetition, Kaplan


def test_qat_fraction_is_the_published_law_and_zero_below_one_token_a_byte():
    law = load("dremov2025/qat-fraction")
    assert derived.optimal_qat_fraction(N=1e9, D=50e9, bits=4) == pytest.approx(law.predict(S=100))
    assert derived.optimal_qat_fraction(N=1e9, D=1e8, bits=4) == 0.0


def test_repeated_tokens_are_worth_what_the_table_says():
    epochs = (1, 2, 3, 4, 5, 8, 10, 16, 32, 64)
    worth = ["1", "1.97", "2.88", "3.73", "4.52", "6.62", "7.81", "10.6", "14.3", "16.1"]
    share = ["1", ".984", ".958", ".931", ".904", ".828", ".781", ".661", ".448", ".252"]
    marginal = ["1", ".94", ".88", ".82", ".77", ".63", ".56", ".38", ".13", ".02"]
    for n, a, b, c in zip(epochs, worth, share, marginal, strict=True):
        near(derived.effective_tokens(n * 1e9, 1e9) / 1e9, a)
        near(derived.effective_tokens(n * 1e9, 1e9) / (n * 1e9), b)
        near(derived.worth_of_a_token(n * 1e9, 1e9), c)
    assert derived.effective_tokens(5.0, 10.0) == 5.0 and derived.worth_of_a_token(5.0, 10.0) == 1.0
    step = 1e3
    slope = (derived.effective_tokens(4e9 + step, 1e9) - derived.effective_tokens(4e9, 1e9)) / step
    assert slope == pytest.approx(derived.worth_of_a_token(4e9, 1e9), rel=1e-4)


def test_effective_tokens_are_those_of_the_law_of_repetition():
    law = load("muennighoff2023/repetition")
    worth = derived.effective_tokens(1e10, 1e9)
    at = law.predict(N=1e7, D=1e10, U=1e9), law.predict(N=1e7, D=worth, U=1e11)
    assert at[0] == pytest.approx(at[1], rel=1e-12)


def test_size_that_is_optimal_for_its_data():
    from qscale.laws.forms.repetition import optimal_size

    p = load("muennighoff2023/repetition").parameters
    near(optimal_size(p, np.float64(1e8)), "5.1e6")
    near((p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"])), "0.22580")
    law = load("muennighoff2023/repetition")
    # excess over fresh data at 2, 4, 8, 16 epochs of 1e8 tokens, small and too large a model
    for n, printed in ((4e6, "0.010 0.035 0.074 0.133"), (1e7, "0.037 0.062 0.101 0.159")):
        for epochs, text in zip((2, 4, 8, 16), printed.split(), strict=True):
            excess = law.predict(N=n, D=epochs * 1e8, U=1e8) - law.predict(N=n, D=epochs * 1e8, U=1e13)
            assert excess == pytest.approx(float(text), abs=6e-4)


def test_kaplan_quantities():
    near(derived.critical_batch(3.0), "1.0691e6")
    near(derived.least_tokens(1e9), "2.2854e10")
    assert derived.least_steps(1000, batch=1e12, critical=1e6) == pytest.approx(1000)
    found = derived.kaplan_allocation(100.0)
    assert found["N"] == pytest.approx(1.3e9 * 100**0.73)
    # (S / Smin - 1)(E / Emin - 1) = 1 with E = batch * S
    steps, batch, critical = 5e4, 3e5, 1e6
    least = derived.least_steps(steps, batch, critical)
    assert (steps / least - 1) * (batch * steps / (critical * least) - 1) == pytest.approx(1.0)


def test_errors_of_both_operands_of_a_layer():
    near(derived.layer_error(1.3752e-2, 1.3752e-2), "2.77e-2")
