"""Forms compared on the same rows: criteria by hand, errors left out, paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError
from qscale.laws.comparison import compare


def flat_rows(rows=48, sd=0.02, seed=0):
    """Deltas that do not depend on D."""
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(6, 9, rows), 10 ** rng.uniform(8, 11, rows)
    g = 2.0 ** rng.integers(4, 9, rows)
    delta = 0.5 * n**-0.2 * np.log2(g) ** 0.8 * np.exp(sd * rng.standard_normal(rows))
    return {"N": n, "D": d, "G": g, "delta": delta, "ladder": [str(i % 12) for i in range(rows)]}


def test_criteria_are_those_of_the_textbook():
    rows = flat_rows()
    score = compare(rows, ["qat-unified"]).scores[0]
    law = laws.fit(rows, objective="l2", bootstrap=50)
    rest = np.log(law.predict(**{k: rows[k] for k in "NDG"}) / rows["delta"])
    sse, n, k = float(rest @ rest), 48, 4
    assert score.sse == pytest.approx(sse, rel=1e-9)
    assert score.parameters == k
    assert score.aicc == pytest.approx(
        n * np.log(sse / n) + 2 * (k + 1) + 2 * (k + 1) * (k + 2) / (n - k - 2)
    )
    assert score.bic == pytest.approx(n * np.log(sse / n) + (k + 1) * np.log(n))


def test_errors_left_out_are_those_of_refits_without_the_cell():
    rows = flat_rows(rows=20)
    score = compare(rows, ["qat-unified"]).scores[0]
    for i in (0, 7):
        rest = {k: [v for j, v in enumerate(values) if j != i] for k, values in rows.items()}
        law = laws.fit(rest, objective="l2", bootstrap=50)
        error = abs(law.predict(**{k: rows[k][i] for k in "NDG"}) / rows["delta"][i] - 1)
        assert score.errors[i] == pytest.approx(error, rel=1e-4)
    assert score.left_out == pytest.approx(score.errors.mean())


def test_forms_of_other_targets_or_without_terms_are_refused():
    with pytest.raises(LawError, match="no column 'loss'"):
        compare(flat_rows(), ["qat-unified", "chinchilla"])
    with pytest.raises(LawError, match="no forms to compare"):
        compare(flat_rows(), [])
    with pytest.raises(LawError, match="was not compared; these were: qat-unified"):
        compare(flat_rows(), ["qat-unified"]).difference("qat-unified", "chinchilla")
