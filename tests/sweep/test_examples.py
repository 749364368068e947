"""The study files that come along: all of them parse, and cost what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from qscale.sweep.grid import Study
from qscale.sweep.jobs import jobs, plan

EXAMPLES = Path(__file__).parents[2] / "examples"
STUDIES = sorted(path for path in EXAMPLES.rglob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_is_read(path):
    assert Study.read(path).runs("0" * 64)


def test_paper_grid_costs_what_its_comment_says():
    text = (EXAMPLES / "paper-grid.yaml").read_text()
    found = plan(jobs(Study.parse(text).runs("0" * 64)))
    assert (found["runs"] - found["baselines"], found["baselines"]) == (240, 16)
    assert f"{found['flops']:.3g}".replace("+", "") in text
    hours = found["flops"] / (0.4 * 989e12) / 3600
    assert round(hours, -3) == 23_000
