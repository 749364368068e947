"""Figures for a journal: their widths, their text as text of one size, and their captions."""

import json
import re

import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")

from qscale import laws
from qscale.cli.report import command as report
from qscale.report import canvas, paper

TRUE = laws.load("chen2025/w4a4")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("paper") / "runs.csv"
    lines = ["N,D,G,seed,delta,delta_se"]
    for n in (1e7, 4e7, 2e8):
        for d in (1e9, 8e9):
            for i, g in enumerate((16, 64, 256)):
                lines.append(f"{n},{d},{g},0,{TRUE.predict(N=n, D=d, G=g) * (1 + 0.01 * (-1) ** i)},0.001")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made(table):
    """By the command: the folder, the names of files and what was said."""
    folder = table.parent / "figures"
    args = [str(table), "--paper", "--out", str(folder), "--json"]
    result = CliRunner().invoke(report, args, catch_exceptions=False)
    assert result.exit_code == 0
    return folder, json.loads(result.stdout), result.stderr


def test_every_figure_is_there_as_pdf_and_svg(made):
    folder, found, said = made
    names = {"law", "fit", "residuals", "profiles", "contours"}
    assert {name.partition(".")[0] for name in found["figures"]} == names
    assert {path.name for path in folder.iterdir()} == {*found["figures"], "captions.md"}
    assert len(found["figures"]) == 10
    assert found["left"] == {"layers": "diagnostics of layers lie in a study's folder"}
    assert said == "note: no figure layers: diagnostics of layers lie in a study's folder\n"


@pytest.mark.parametrize("name", ["law", "fit", "residuals", "profiles", "contours"])
def test_figures_have_a_columns_width_and_text_of_eight_points(made, name):
    folder, _, _ = made
    text = (folder / f"{name}.svg").read_text(encoding="utf-8")
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', text)[1]) / 72
    assert width == pytest.approx(canvas.SINGLE if name == "fit" else canvas.DOUBLE, abs=0.01)
    assert "<text" in text
    sizes = set(re.findall(r"font(?:-size)?:[^;\"']*?([\d.]+)px", text))
    # Exponents of ten are set smaller than the number below them.
    assert "8" in sizes and max(map(float, sizes)) == 8
    pdf = (folder / f"{name}.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded


def test_captions_are_text_beside_the_figures(made):
    folder, _, _ = made
    text = (folder / "captions.md").read_text(encoding="utf-8")
    assert text.count("## ") == 5
    assert "90% interval of the mean law" in text
    assert "90% interval" not in (folder / "law.svg").read_text(encoding="utf-8")


def test_other_figures_keep_their_own_size_and_words(tmp_path, made):
    figure, _ = canvas.new_figure(1, across=1, size=(4.0, 3.0))
    canvas.words(figure, "title", "caption")
    canvas.save(figure, tmp_path / "x.svg")
    assert figure.get_figwidth() == 4.0
    assert figure.get_suptitle() == "title"


def test_without_a_law_there_is_a_reason(tmp_path, table):
    few = tmp_path / "few.csv"
    few.write_text("\n".join(table.read_text().splitlines()[:3]) + "\n")
    found = paper.write(few, tmp_path / "none")
    assert found.figures == []
    assert set(found.left) == {"law", "fit", "residuals", "profiles", "contours", "layers"}
