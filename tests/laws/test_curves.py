"""Loss curves: the sums of their definitions, fits that recover known constants, peaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from qscale.errors import FitError, LawError
from qscale.laws import curves, forms, load
from qscale.laws.forms.curves import areas

WARM = np.linspace(3e-6, 3e-4, 100)


def cosine(steps):
    return np.concatenate([WARM, 3e-5 + 1.35e-4 * (1 + np.cos(np.linspace(0, np.pi, steps)))])


def constant(steps):
    return np.concatenate([WARM, np.full(steps, 3e-4)])


def test_areas_are_the_double_sum_of_the_definition():
    eta, lam = cosine(60), 0.9
    s1, s2 = areas(eta, lam)
    first = int(np.argmax(eta))
    for s in (0, first, 130, len(eta) - 1):
        double = sum(
            (eta[k - 1] - eta[k]) * lam ** (i - k) for i in range(s + 1) for k in range(first + 1, i + 1)
        )
        assert s2[s] == pytest.approx(double, rel=1e-12)
        assert s1[s] == pytest.approx(eta[: s + 1].sum())


def test_area_of_drops_is_zero_at_a_constant_rate():
    assert not areas(constant(50), 0.999)[1].any()


def test_multi_power_law_is_the_sum_of_its_definition():
    p = load("luo2025/100m").parameters
    eta = np.concatenate([cosine(80), np.zeros(5)])
    found = curves.losses("multi-power", p, eta, [0, 50, 120, len(eta) - 1])
    for t, value in zip((0, 50, 120, len(eta) - 1), found, strict=True):
        drop = 0.0
        for k in range(1, t + 1):
            area = eta[k : t + 1].sum()
            rate = max(eta[k], 1e-10)
            drop += (eta[k - 1] - eta[k]) * (1 - (p["C"] * rate ** -p["gamma"] * area + 1) ** -p["beta"])
        assert value == pytest.approx(
            p["L0"] + p["A"] * eta[: t + 1].sum() ** -p["alpha"] - p["B"] * drop, rel=1e-12
        )


@pytest.mark.parametrize("name", ["luo2025/400m", "measured/annealing-400m"])
def test_losses_at_steps_are_those_of_the_whole_curve(name):
    law, eta = load(name), cosine(200)
    whole = law.predict(eta=eta)
    np.testing.assert_allclose(
        curves.losses(law.form.id, law.parameters, eta, [10, 150, 299]), whole[[10, 150, 299]], rtol=1e-14
    )


@pytest.mark.parametrize(
    ("size", "read"),
    [("25m", (3.5778, 3.4179, 3.3384, 3.3044)), ("400m", (3.0744, 2.8865, 2.7853, 2.7396))],
)
def test_laws_describe_a_public_curve(size, read):
    # cosine of 24,000 steps from the release of arXiv:2503.12811 (MIT), which both laws were fitted on
    rates = 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * np.arange(21841) / 21840))
    eta, steps = (
        np.concatenate([3e-4 * np.arange(1, 2160) / 2160, rates]),
        np.array([6000, 12016, 18032, 23920]),
    )
    errors = {
        form: np.abs(curves.losses(form, load(f"{source}{size}").parameters, eta, steps) / read - 1)
        for form, source in (("lr-annealing", "measured/annealing-"), ("multi-power", "luo2025/"))
    }
    assert errors["lr-annealing"].mean() < 0.001
    # at the end of a cosine the multi-power law is too high: its B times the whole drop is too small
    assert errors["multi-power"].mean() < 0.003 and errors["multi-power"][-1] < 0.007


def test_fit_recovers_the_constants_of_two_curves():
    true = {"L0": 2.79, "A": 0.59, "alpha": 0.456, "C": 0.48, "lam": 0.995}
    read = np.arange(150, 2000, 25)
    made = [curves.Curve(eta=eta, steps=read, loss=curves.losses("lr-annealing", true, eta, read))
            for eta in (constant(2000), cosine(2000))]  # fmt: skip
    found = curves.fit_annealing(made)
    assert found.parameters == pytest.approx(true, rel=1e-5)
    assert found.mean_relative_error < 1e-7
    assert min(found.by_memory, key=found.by_memory.get) == 0.995
    unseen = np.concatenate([constant(1500), np.linspace(3e-4, 3e-5, 500)])
    np.testing.assert_allclose(
        curves.losses("lr-annealing", found.parameters, unseen, [1999]),
        curves.losses("lr-annealing", true, unseen, [1999]),
        rtol=1e-6,
    )


def test_fit_is_not_moved_by_one_spoilt_loss():
    true = {"L0": 2.79, "A": 0.59, "alpha": 0.456, "C": 0.48, "lam": 0.999}
    eta, read = cosine(2000), np.arange(150, 2000, 25)
    loss = curves.losses("lr-annealing", true, eta, read)
    loss[30] *= 1.2
    found = curves.fit_annealing([curves.Curve(eta=eta, steps=read, loss=loss)], memories=[0.999])
    assert found.parameters["L0"] == pytest.approx(2.79, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "loss", "message"),
    [
        ([1, 2], [3.0], "2 steps and 1 losses"),
        ([1, 5000], [3.0, 3.0], "steps 1 to 5000 of a schedule of 300 steps"),
        ([1, 2], [3.0, -1.0], "every loss is a positive number"),
    ],
)
def test_curve_that_does_not_fit_its_schedule_is_an_error(steps, loss, message):
    with pytest.raises(LawError, match=message):
        curves.Curve(eta=cosine(200), steps=np.array(steps), loss=np.array(loss))


def test_fit_without_a_drop_of_the_rate_is_refused():
    eta, read = constant(200), np.arange(100, 200, 10)
    with pytest.raises(FitError, match="a schedule whose rate drops"):
        curves.fit_annealing([curves.Curve(eta=eta, steps=read, loss=np.full(10, 3.0))])
    with pytest.raises(FitError, match="no curve"):
        curves.fit_annealing([])


@pytest.mark.parametrize("eta", [3e-4, [[3e-4]], [], [0.0, 3e-4]])
def test_what_is_no_schedule_is_an_error(eta):
    with pytest.raises(LawError, match="a schedule is the list of the rates of all steps"):
        load("luo2025/25m").predict(eta=eta)


def test_a_form_without_a_schedule_is_named():
    with pytest.raises(LawError, match="'chinchilla' is no law over a schedule"):
        curves.losses("chinchilla", {}, cosine(10), [3])


def test_peak_of_massive_activations():
    assert round(curves.massive_peak(lam=0.5, gam=1.0, t0=0.0), 6) == 2.345751
    p = {"A": 2.0, "lam": 0.5, "gam": 1.0, "t0": 0.0, "K": 0.0}
    form = forms.get("ma-dynamics")
    assert round(float(form.value(p, {"t": 2.345751})), 6) == 0.527722
    for lam, gam, t0 in ((0.05, 1e-4, 1.0), (3.0, 2.0, 0.1)):
        found = curves.massive_peak(lam=lam, gam=gam, t0=t0)
        assert found == pytest.approx((math.exp(lambertw(1 / lam).real) - t0) / gam, rel=1e-12)
        q = p | {"lam": lam, "gam": gam, "t0": t0}
        least = minimize_scalar(
            lambda t, q=q: -float(form.value(q, {"t": t})), bounds=(0, 3 * found), method="bounded"
        )
        assert least.x == pytest.approx(found, rel=1e-3)
