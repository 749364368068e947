"""Forms: values of the literature to six digits, gradients, domains."""

from __future__ import annotations

import numpy as np
import pytest

from qscale.errors import LawError
from qscale.laws import forms, list_published, load

#: facts/laws.md section 2, derived there from the printed constants.
GOLDEN = {
    "chen2025/w4a4": (0.069177, 0.044089, 0.057279, 0.041773),
    "chen2025/w4a16": (0.026895, 0.018643, 0.020996, 0.014040),
    "chen2025/w16a4": (0.048956, 0.028722, 0.039957, 0.028199),
    "chen2025/w4a4-fc2a8": (0.047338, 0.033972, 0.038098, 0.026547),
    "chen2025/w16a4-fc2a8": (0.026350, 0.018580, 0.021611, 0.015524),
}
POINTS = ((145e6, 20e9, 128), (595e6, 100e9, 32), (595e6, 100e9, 128), (7e9, 2e12, 128))


@pytest.mark.parametrize("name", GOLDEN)
def test_published_qat_law_gives_the_golden_values_to_six_digits(name):
    law = load(name)
    found = [law.predict(N=n, D=d, G=g) for n, d, g in POINTS]
    np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=5.0001e-7)


@pytest.mark.parametrize(
    ("name", "n", "d", "loss"),
    [
        ("chen2025/baseline", 145e6, 20e9, 3.199797),
        ("chen2025/baseline", 595e6, 100e9, 2.740661),
        ("chen2025/baseline", 973e6, 200e9, 2.614030),
        ("hoffmann2022/chinchilla", 1e9, 20e9, 2.530668),
        ("hoffmann2022/chinchilla", 70e9, 1.4e12, 1.920846),
    ],
)
def test_published_loss_law_gives_the_golden_values_to_six_digits(name, n, d, loss):
    assert load(name).predict(N=n, D=d) == pytest.approx(loss, abs=5.0001e-7)


def test_golden_check_can_fail_in_the_sixth_digit():
    law = load("chen2025/w4a4")
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(law.predict(N=595e6, D=100e9, G=128.01), 0.057279, rtol=0, atol=5.0001e-7)


def test_group_of_one_gives_no_delta():
    assert load("chen2025/w4a4").predict(N=595e6, D=100e9, G=1) == 0.0


@pytest.mark.parametrize("name", list_published())
def test_gradient_agrees_with_differences(name):
    law = load(name)
    params = dict(law.parameters)
    point = {"N": np.array([1e8, 3e9]), "D": 5e10, "G": 64}
    point = {v.name: point[v.name] for v in law.form.variables}
    gradient = law.form.gradient(params, point)
    for key, value in params.items():
        step = 1e-6 * abs(value)
        up = law.form.value({**params, key: value + step}, point)
        down = law.form.value({**params, key: value - step}, point)
        np.testing.assert_allclose(gradient[key], (up - down) / (2 * step), rtol=1e-5)


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
