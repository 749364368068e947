"""A study's unquantized runs are fitted with --mode baseline."""

import json

import pytest
from click.testing import CliRunner
from sweep.studies import TEXT, board_at, finish

from qscale.cli import main

TRUTH = {"A": 30.0, "alpha": 0.4, "B": 90.0, "beta": 0.35, "E": 1.0}


@pytest.fixture
def study(tmp_path):
    text = TEXT.replace("tiny-20k", "tiny-20k, tiny-46k, tiny-82k, tiny-164k")
    text = text.replace("[8192, 16384]", "[4096, 8192, 16384, 65536]")
    store = board_at(tmp_path / "study", text).store
    for run in store.runs():
        N, D = run.model.N, run.tokens
        loss = TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"] + TRUTH["E"]
        finish(store, run, loss=loss if run.recipe is None else 9.9)
    return store.path


def test_the_law_of_the_baselines_is_that_of_the_unquantized_runs(study, tmp_path):
    out = tmp_path / "base.json"
    command = ["fit", str(study), "--form", "chinchilla", "--mode", "baseline", "--out", str(out)]
    shown = CliRunner().invoke(main, [*command, "--bootstrap", "50", "--resample", "case"])
    assert shown.exit_code == 0, shown.output
    law = json.loads(out.read_text())
    assert law["quantization"]["mode"] == "baseline" and law["data"]["tokenizer"] == "bytes"
    for name, value in TRUTH.items():
        assert law["parameters"][name] == pytest.approx(value, rel=1e-3)
