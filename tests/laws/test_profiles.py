"""Profiles of named parameters, in their own units."""

from __future__ import annotations

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError
from qscale.laws.profiles import profile


def test_profile_of_a_product_is_the_interval_of_least_squares(make_rows):
    rows = make_rows(row_sd=0.02)
    law = laws.fit(rows, objective="l2", bootstrap=50)
    x = np.column_stack(
        [
            np.ones(64),
            *(np.log([f(r[k]) for r in rows]) for k, f in zip("NDG", (float, float, np.log2), strict=True)),
        ]
    )
    y = np.log([r["delta"] for r in rows])
    _, rest, _, _ = np.linalg.lstsq(x, y, rcond=None)
    se = np.sqrt(float(rest[0]) / 64 * np.diag(np.linalg.inv(x.T @ x)))
    for i, name in enumerate(("gN", "gD", "gG"), start=1):
        low, high = profile(rows, "qat-unified", name).interval(0.9)
        assert (low + high) / 2 == pytest.approx(law.parameters[name], abs=1e-4)
        # n ln(1 + t^2 / n) = chi-square: the profile of a normal line with unknown noise
        half = se[i] * np.sqrt(64 * np.expm1(2.705543 / 64))
        assert (high - low) / 2 == pytest.approx(half, rel=1e-3)


def test_profile_of_a_scale_is_in_nats_and_of_a_constant_without_use_open_below():
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(7, 10, 40), 10 ** rng.uniform(9, 12, 40)
    rows = {
        "N": n,
        "D": d,
        "loss": (400 * n**-0.34 + 1000 * d**-0.33) * np.exp(0.02 * rng.standard_normal(40)),
    }
    law = laws.fit(rows, "chinchilla", objective="l2", bootstrap=50)
    found = profile(rows, "chinchilla", "A0")
    assert np.exp(found.best) == pytest.approx(law.reference.parameters["A0"], rel=1e-6)
    low, high = profile(rows, "chinchilla", "E").interval(0.9)
    assert low == 0
    assert 0 < high < rows["loss"].min()


@pytest.mark.parametrize(
    ("parameter", "fix", "message"),
    [("k", None, "these are: delta0, gN, gD, gG"), ("gG", {"gG": 0.8}, "is fixed")],
)
def test_profile_of_no_parameter_is_refused(make_rows, parameter, fix, message):
    with pytest.raises(LawError, match=message):
        profile(make_rows(), "qat-unified", parameter, fix=fix)
