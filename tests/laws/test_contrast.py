"""The ratio of two methods' deltas: what they share cancels."""

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError


def make_rows(seed=0, noise=0.0, shared=0.0):
    """Runs of two methods whose deltas differ by a law; ``shared`` noise is of what both start from."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in (2e4, 8e4, 3e5):
        for ratio in (20, 60, 180):
            common = np.exp(shared * rng.standard_normal())
            for g in (16, 32, 64):
                for method, a, b in (("rtn", 2.0, 0.5), ("gptq", 0.8, 0.3)):
                    delta = a * n**-0.2 * (ratio / 60) ** b * (g / 32) ** 0.4 * common
                    delta *= np.exp(noise * rng.standard_normal())
                    rows.append(
                        {
                            "N": n,
                            "D": ratio * n,
                            "G": g,
                            "delta": delta,
                            "method": method,
                            "mode": "ptq",
                            "seed": 0,
                        }
                    )
    return rows


def test_contrast_when_rows_follow_two_laws_then_exponents_are_the_differences():
    found = laws.contrast(make_rows(), "gptq", "rtn")
    assert found.pairs == 27 and found.unpaired == (0, 0)
    assert found.law.parameters["gD"] == pytest.approx(-0.2, abs=1e-9)
    assert found.law.parameters["gN"] == pytest.approx(-0.2, abs=1e-9), "D / N enters: of D^-0.2 N^0.2"
    assert found.law.parameters["gG"] == pytest.approx(0.0, abs=1e-9)
    assert found.law.predict(N=8e4, D=60 * 8e4, G=32) == pytest.approx(0.4, rel=1e-9)


def test_contrast_when_noise_is_shared_then_it_cancels():
    rows = make_rows(noise=0.02, shared=0.3)
    found = laws.contrast(rows, "gptq", "rtn")
    low, high = found.law.interval(N=8e4, D=60 * 8e4, G=32)
    assert low < 0.4 < high and high / low < 1.2
    alone = laws.fit(rows, method="gptq")
    wide = alone.interval(N=8e4, D=60 * 8e4, G=32)
    assert np.log(wide[1] / wide[0]) > 4 * np.log(high / low)
    assert found.share_below(N=8e4, D=60 * 8e4, G=32) == 1.0
    assert laws.contrast(rows, "rtn", "gptq").share_below(N=8e4, D=60 * 8e4, G=32) == 0.0


def test_contrast_when_modes_are_compared_then_other_modes_need_no_method():
    rows = [{**row, "mode": "ptq" if row["method"] == "rtn" else "cooldown"} for row in make_rows()]
    for row in rows:
        row["method"] = "rtn" if row["mode"] == "ptq" else None
    found = laws.contrast(rows, "cooldown", "ptq", by="mode", method="rtn")
    assert found.law.parameters["gD"] == pytest.approx(-0.2, abs=1e-9)


def test_contrast_when_a_delta_is_not_positive_or_alone_then_it_is_counted():
    rows = make_rows()
    rows[1]["delta"] = -0.001
    del rows[2]
    found = laws.contrast(rows, "gptq", "rtn")
    assert (found.pairs, found.not_positive, found.unpaired) == (25, 1, (1, 0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": "gptq", "second": "gptq"}, "against itself"),
        ({"first": "awq", "second": "rtn"}, "no rows with method='awq'"),
        ({"first": "gptq", "second": "rtn", "by": "seed"}, "differ in one of method, mode, recipe"),
        ({"first": "gptq", "second": "rtn", "form": "chinchilla"}, "more than one term"),
    ],
)
def test_contrast_when_asked_for_what_is_not_there_then_it_says_so(given, message):
    with pytest.raises(LawError) as caught:
        laws.contrast(make_rows(), **given)
    assert message in str(caught.value)


def test_contrast_when_two_runs_agree_in_everything_then_it_does_not_choose():
    rows = make_rows()
    rows.append({**rows[0], "delta": 2 * rows[0]["delta"]})
    with pytest.raises(LawError, match="which of them is to be paired"):
        laws.contrast(rows, "gptq", "rtn")


def test_methods_are_not_mixed_in_a_fit():
    with pytest.raises(LawError, match=r"'method' mixes gptq \(27 rows\), rtn \(27 rows\)"):
        laws.fit(make_rows())
    law = laws.fit(make_rows(), method="gptq")
    assert law.quantization["method"] == "gptq" and law.parameters["gD"] == pytest.approx(0.3, abs=1e-9)
