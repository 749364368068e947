"""How often 90% intervals hold the truth on the QAT paper's design.

The test is short; ``python tests/laws/test_coverage.py 400`` prints the table.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np

from qscale import laws

SIZES = (74e6, 145e6, 297e6, 595e6)
TOKENS = (10e9, 20e9, 50e9, 100e9)
GROUPS = (32, 64, 128, 256, 1536)
NAMES = ("delta0", "gN", "gD", "gG")


def drawn(rng, ladder_sd, row_sd):
    """80 rows of chen2025/w4a4 with noise of ladders and of rows, relative s.d."""
    true = laws.load("chen2025/w4a4")
    x = {
        name: np.array(values)
        for name, values in zip("NDG", zip(*product(SIZES, TOKENS, GROUPS), strict=True), strict=True)
    }
    effect = dict(zip(SIZES, ladder_sd * rng.standard_normal(len(SIZES)), strict=True))
    noise = np.array([effect[n] for n in x["N"]]) + row_sd * rng.standard_normal(len(x["N"]))
    return x | {"delta": true.predict(**x) * np.exp(noise)}


def coverage(draws, ladder_sd, row_sd, seed=1):
    """The share of intervals that hold the truth, and the mean and s.d. of the exponents."""
    true = laws.load("chen2025/w4a4")
    rng = np.random.default_rng(seed)
    hits, found = np.zeros(len(NAMES)), []
    for _ in range(draws):
        law = laws.fit(drawn(rng, ladder_sd, row_sd), bootstrap=200, seed=int(rng.integers(10**6)))
        truth = (true.predict(**law.reference.at), *(true.parameters[name] for name in NAMES[1:]))
        ends = [law.reference.intervals[name] for name in NAMES]
        hits += [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
        found.append([law.parameters[name] for name in NAMES[1:]])
    return hits / draws, np.mean(found, axis=0), np.std(found, axis=0)


def test_intervals_of_the_paper_s_design_hold_the_truth_about_as_often_as_they_say():
    draws = 60
    share, mean, _ = coverage(draws, ladder_sd=0.01, row_sd=0.02)
    # three standard errors of a share of 0.9 among 60
    assert (share > 0.9 - 3 * np.sqrt(0.09 / draws)).all()
    np.testing.assert_allclose(mean, [0.2186, 0.0745, 0.7779], atol=0.01)


def _table(draws):
    for ladder_sd in (0.0, 0.01, 0.02):
        share, mean, sd = coverage(draws, ladder_sd, 0.02)
        cells = " ".join(f"{name} {100 * value:.0f}%" for name, value in zip(NAMES, share, strict=True))
        print(f"ladders {ladder_sd:.0%}, rows 2%: {cells}; mean {mean.round(4)}, s.d. {sd.round(4)}")


if __name__ == "__main__":
    _table(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
