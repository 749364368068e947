"""The figure of the layers: which runs it takes, and what it says of them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from qscale.cli.report import command
from qscale.errors import StoreError
from qscale.report.layer_figures import layer_figure

pytest.importorskip("matplotlib")


def rows(recipe="w4a4:g32", mode="cooldown", n=20640, d=10**6, seed=0):
    for block in range(2):
        for i, layer in enumerate(("self_attn.q_proj", "mlp.down_proj")):
            error = None if recipe == "none" else 0.01 * (i + 1)
            yield {
                "N": n, "D": d, "seed": seed, "mode": mode, "recipe": recipe,
                "layer": f"model.layers.{block}.{layer}", "step": 10,
                "weight_relmse": error, "input_relmse": error, "input_kurtosis": 4.0 + 90 * i,
                "input_peak": 10.0,
            }  # fmt: skip


def test_largest_and_longest_runs_of_the_first_seed_are_drawn(tmp_path):
    out = tmp_path / "layers.svg"
    some = [*rows(), *rows("none", "baseline"), *rows(n=10), *rows(d=10), *rows("w4a16:g8", seed=1)]
    drawn = layer_figure(some, out)
    assert drawn == 4 * 4 + 2 * 4  # four panels of the one run, two of the unquantized one
    text = out.read_text()
    for word in ("kurtosis of inputs (normal: 3)", "20.6k", "unquantized", "w4a4:g32", ">down<"):
        assert word in text or word.strip("><") in text
    assert "w4a16:g8" not in text


def test_recipes_that_find_no_color_are_counted(tmp_path):
    out = tmp_path / "layers.svg"
    layer_figure([row for g in range(8) for row in rows(f"w4a4:g{2**g}")], out)
    assert "the first 6 of 8 recipes" in out.read_text()


def test_no_rows_is_said(tmp_path):
    with pytest.raises(StoreError, match="no finished run has looked"):
        layer_figure([], tmp_path / "layers.png")


def test_command_asks_for_a_study(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("N,D,G,delta\n1,2,3,4\n")
    result = CliRunner().invoke(command, [str(table), "--figure", "layers"])
    assert result.exit_code == 2 and "is of a study" in result.output


def test_rows_of_a_study_are_those_of_the_last_whole_step(tmp_path, monkeypatch):
    from qscale.sweep import table

    lines = [{"step": 5, "layer": "a"}, {"step": 10, "layer": "a"}, {"step": 10, "layer": "b"}]
    (tmp_path / "diagnostics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["layer"] for row in table._last_layers(tmp_path)] == ["a", "b"]
    assert table._last_layers(tmp_path / "none") == []
