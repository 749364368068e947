"""Figures show every measured point, and the law where it may be used."""

import csv
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")

from qscale import laws
from qscale.cli.report import command as report
from qscale.errors import LawError, StoreError
from qscale.report import figures

TRUE = laws.load("chen2025/w4a4")


def _rows(sizes=(1e8, 4e8), tokens=(1e10, 4e10), groups=(32, 128)):
    return [
        {
            "N": n,
            "D": d,
            "G": g,
            "delta": float(TRUE.predict(N=n, D=d, G=g)),
            "delta_se": 0.001,
            "mode": "cooldown",
            "recipe": f"w4a4:g{g}",
        }
        for n in sizes
        for d in tokens
        for g in groups
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def keep(figure, *args, **options):
        saved.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def _points(axis):
    return [tuple(xy) for container in axis.containers for xy in zip(*container[0].get_data(), strict=True)]


def test_law_figure_has_a_panel_a_size_with_every_point(tmp_path, drawn):
    rows = _rows()
    figures.law_figure(rows, TRUE, tmp_path / "law.png")
    axes = drawn[0].axes
    assert len(axes) == 3
    for axis, n in zip(axes, (1e8, 4e8), strict=False):
        wanted = [(row["D"], row["delta"]) for row in rows if row["N"] == n]
        assert sorted(_points(axis)) == sorted(wanted)
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")


def test_lines_are_the_law(tmp_path, drawn):
    figures.law_figure(_rows(sizes=(1e8,), groups=(32,)), TRUE, tmp_path / "law.svg")
    curve = max(drawn[0].axes[0].lines, key=lambda line: len(line.get_xdata()))
    expected = TRUE.predict(N=1e8, D=curve.get_xdata(), G=32)
    assert curve.get_ydata() == pytest.approx(expected)


def test_legend_names_every_group_also_those_of_other_panels(tmp_path, drawn):
    rows = _rows(groups=(32,)) + [row for row in _rows(groups=(128,)) if row["N"] == 4e8]
    figures.law_figure(rows, TRUE, tmp_path / "law.png")
    texts = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert texts == ["G = 32", "G = 128"]


def test_band_is_drawn_for_a_law_with_draws(tmp_path, drawn):
    rows = [{**row, "delta": row["delta"] * (1 + 0.01 * (-1) ** i)} for i, row in enumerate(_rows())]
    fitted = laws.fit(rows, form="qat-unified")
    figures.law_figure(rows, fitted, tmp_path / "law.png")
    assert len(drawn[0].axes[0].collections) > 2, "error bars and two bands"


def test_law_that_is_not_identified_is_not_drawn(tmp_path, drawn):
    rows = _rows(groups=(32,))
    figures.law_figure(rows, laws.fit(rows, form="qat-unified"), tmp_path / "law.png")
    assert not [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) > 10]
    assert "no law" in drawn[0].axes[-1].texts[0].get_text()


def test_nothing_to_draw_and_unwritable_files_are_errors(tmp_path):
    with pytest.raises(StoreError, match="no finished quantized run"):
        figures.law_figure([{"N": 1, "D": 1, "G": None, "delta": None}], TRUE, tmp_path / "x.png")
    with pytest.raises(StoreError, match="cannot be written"):
        figures.law_figure(_rows(), TRUE, tmp_path / "x.nonsense")


def _fitted(rows):
    return laws.fit([{**row, "delta": row["delta"] * (1 + 0.01 * (-1) ** i)} for i, row in enumerate(rows)])


def test_title_says_what_the_points_are_and_which_law_is_drawn(tmp_path, drawn):
    figures.law_figure(_rows(), _fitted(_rows()), tmp_path / "law.png")
    points, law, constants = drawn[0].get_suptitle().splitlines()
    assert points == "points: 8 runs, recipe w4a4, mode cooldown"
    assert law == "lines: law qat-unified"
    assert constants.startswith("delta = k * D^gD * (log2 G)^gG / N^gN: k = ")


def test_title_says_where_the_law_is_of_another_mode_or_recipe(tmp_path, drawn):
    figures.law_figure(_rows(), TRUE, tmp_path / "law.png")
    other = [{**row, "recipe": "w4a16:g32"} for row in _rows()]
    figures.law_figure(other, TRUE, tmp_path / "law.png")
    first, second = (figure.get_suptitle().splitlines()[1] for figure in drawn)
    assert first == "lines: law chen2025/w4a4 (of mode scratch, other than the points)"
    assert second == "lines: law chen2025/w4a4 (of recipe w4a4, mode scratch, other than the points)"


@pytest.mark.parametrize("factor", [0.2, 5])
def test_limits_hold_points_and_lines(tmp_path, drawn, factor):
    law = replace(TRUE, parameters={**TRUE.parameters, "k": factor * TRUE.parameters["k"]})
    figures.law_figure(_rows(), law, tmp_path / "law.png")
    for axis in drawn[0].axes[:-1]:
        low, high = axis.get_ylim()
        heights = [y for line in axis.lines for y in line.get_ydata()]
        assert low <= min(heights) and max(heights) <= high


def test_limits_hold_negative_points(tmp_path, drawn):
    rows = _rows()
    rows[0] = {**rows[0], "delta": -0.01}
    figures.law_figure(rows, TRUE, tmp_path / "law.png")
    assert drawn[0].axes[0].get_ylim()[0] < -0.01
    assert drawn[0].axes[-1].get_xlim()[0] < -0.01


def test_caption_says_what_bars_and_bands_are(tmp_path, drawn):
    figures.law_figure(_rows(), _fitted(_rows()), tmp_path / "law.png")
    figures.law_figure(_rows(), TRUE, tmp_path / "law.png")
    bars = "bars: one s.e. of the evaluation; "
    assert drawn[0].get_supxlabel() == bars + "bands: 90% interval of the mean law, not of a single run"
    assert drawn[1].get_supxlabel() == bars + "no bands: the law has no draws"


def test_label_of_the_last_panel_is_clear_of_the_panel_before(tmp_path, drawn):
    figures.law_figure(_rows(), TRUE, tmp_path / "law.png")
    *_, before, last = drawn[0].axes
    gap = last.yaxis.label.get_window_extent().x0 - before.get_tightbbox().x1
    assert gap > 0.08 * drawn[0].dpi  # inches


def test_law_of_something_else_is_an_error(tmp_path):
    with pytest.raises(LawError, match=r"chinchilla.* the figure takes delta\(N, D, G\)"):
        figures.law_figure(_rows(), laws.load("hoffmann2022/chinchilla"), tmp_path / "x.png")


def test_report_takes_a_table_as_fit_does(tmp_path, drawn):
    rows = [*_rows(), {**_rows()[0], "mode": "scratch"}]
    rows[1] = {**rows[1], "delta_se": ""}
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    args = [str(path), "--law", "chen2025/w4a4", "--out", str(tmp_path / "law.png"), "--json"]
    mixed = CliRunner().invoke(report, args)
    assert isinstance(mixed.exception, LawError) and "--mode cooldown" in str(mixed.exception)
    result = CliRunner().invoke(report, [*args, "--mode", "cooldown"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1]) == {"figure": args[4], "points": 8}
    assert sorted(_points(drawn[0].axes[0])) == sorted((r["D"], r["delta"]) for r in _rows() if r["N"] == 1e8)
    bars = [bar for c in drawn[0].axes[0].containers for bar in c[2][0].get_segments()]
    assert sum(bar[0][1] == bar[1][1] for bar in bars) == 1, "no bar is made up for a row without an error"


def test_report_of_a_study_draws_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("qscale.sweep.table.observations", lambda *_, **__: _rows())
    args = [str(tmp_path), "--law", "chen2025/w4a4", "--out", str(tmp_path / "law.png")]
    assert CliRunner().invoke(report, args).output.endswith(f"figure: {tmp_path / 'law.png'}\n")
    monkeypatch.setattr("qscale.sweep.table.observations", lambda *_, **__: [])
    assert isinstance(CliRunner().invoke(report, args).exception, StoreError)
