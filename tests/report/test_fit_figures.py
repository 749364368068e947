"""Figures of a fit carry the data that they are of, and no label stands on another."""

import csv
import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")

import public_runs

from qscale import laws
from qscale.cli.report import command as report
from qscale.errors import FitError, LawError, StoreError
from qscale.report import canvas, fit_figures, law_figures, likelihood_figures

TRUE = laws.load("chen2025/w4a4")


def _rows(noise=0.02):
    """The grid of the paper with relative noise."""
    rng = np.random.default_rng(0)
    return [
        {
            "N": n,
            "D": d,
            "G": g,
            "delta": float(TRUE.predict(N=n, D=d, G=g)) * float(np.exp(noise * rng.standard_normal())),
            "delta_se": 0.0005,
            "seed": 0,
        }
        for n, d, g in product((74e6, 145e6, 297e6, 595e6), (10e9, 20e9, 50e9, 100e9), (32, 64, 128, 256))
    ]


ROWS = _rows()


@pytest.fixture(scope="module")
def law():
    return laws.fit(ROWS, bootstrap=100)


@pytest.fixture
def shared():
    folder = Path(__file__).resolve().parents[3] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder 'shared' with outside data is not beside the repository")
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were saved; on each, no label stands on another."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def keep(figure, *args, **options):
        saved.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield saved
    for figure in saved:
        clashes = _clashes(figure)
        assert not clashes, f"labels overlap: {clashes}"


def _labels(figure):
    """The visible texts of a figure; matplotlib keeps ticks beyond the ends of an axis, undrawn."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    undrawn = {
        id(text)
        for axis in figure.axes
        for one in (axis.xaxis, axis.yaxis)
        for tick in (*one.get_major_ticks(), *one.get_minor_ticks())
        if tick not in one._update_ticks()
        for text in (tick.label1, tick.label2)
    }
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in undrawn
    ]


def _clashes(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in _labels(figure)]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def _points(axis):
    """Measured points of a panel, in error bars."""
    return sorted(tuple(xy) for c in axis.containers for xy in zip(*c[0].get_data(), strict=True))


def test_overlapping_labels_are_found():
    figure, (axis,) = canvas.new_figure(1, across=1, size=(3, 3))
    axis.text(0.5, 0.5, "one")
    assert not _clashes(figure)
    axis.text(0.52, 0.5, "two")
    assert _clashes(figure) == [("one", "two")]


#: Of linear RGB. Source: Machado, Oliveira and Fernandes 2009, severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _lab(color, blindness):
    """CIELAB of a color as it is seen."""
    srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(blindness) @ linear, 0, 1) / XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colors_are_told_apart(blindness):
    seen = [_lab(color, BLINDNESS[blindness]) for color in canvas.COLORS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


def test_fit_figure_has_every_run_its_interval_and_a_band(tmp_path, drawn, law):
    fit_figures.fit_figure(ROWS, law, tmp_path / "fit.png")
    (axis,) = drawn[0].axes
    wanted = sorted((float(law.predict(**{v: row[v] for v in "NDG"})), row["delta"]) for row in ROWS)
    assert np.allclose(_points(axis), wanted)
    across = np.concatenate([c[2][0].get_segments() for c in axis.containers])
    low, high = law.interval(**{v: np.array([row[v] for row in ROWS]) for v in "NDG"})
    assert np.allclose(np.sort(across[:, :, 0], axis=0), np.sort(np.stack([low, high], axis=1), axis=0))
    assert axis.get_xscale() == axis.get_yscale() == "log"
    kinds = [text.get_text() for text in axis.get_legend().get_texts()]
    assert kinds == ["G = 32", "G = 64", "G = 128", "G = 256"]
    assert drawn[0].get_suptitle().startswith("64 runs, mean relative error 1.")
    scatter = np.std([np.log(measured / fitted) for fitted, measured in wanted])
    edge = axis.collections[-1].get_paths()[0].vertices
    assert np.log(edge[:, 1] / edge[:, 0]).max() == pytest.approx(1.645 * scatter, rel=0.02)


def test_fit_figure_counts_what_has_no_place_on_its_axes(tmp_path, drawn, law):
    rows = [{**row, "delta": -0.001} if i == 5 else row for i, row in enumerate(ROWS)]
    fit_figures.fit_figure(rows, law, tmp_path / "fit.png")
    assert len(_points(drawn[0].axes[0])) == 63
    title = " ".join(drawn[0].get_suptitle().split())
    assert "1 with a delta that is not positive are not drawn" in title
    with pytest.raises(LawError, match="no row has a positive delta"):
        fit_figures.fit_figure([{**row, "delta": -1.0} for row in ROWS], law, tmp_path / "x.png")


def test_fit_figure_says_that_a_law_has_no_draws(tmp_path, drawn):
    fit_figures.fit_figure(ROWS, TRUE, tmp_path / "fit.svg")
    assert "no bars across: the law has no draws" in drawn[0].get_supxlabel()


def test_residual_figure_has_a_panel_a_variable_and_one_of_the_ratio(tmp_path, drawn, law):
    rows = [{**row, "delta": row["delta"] * (1 + 0.2 * (row["N"] == 145e6))} for row in ROWS]
    fit_figures.residual_figure(rows, law, tmp_path / "residuals.png")
    axes = drawn[0].axes
    assert [axis.get_xlabel().split(",")[0] for axis in axes] == ["N", "D", "G", "D / N"]
    left = {(row["N"], 100 * (row["delta"] / law.predict(**{v: row[v] for v in "NDG"}) - 1)) for row in rows}
    *runs, zero, median = axes[0].lines
    points = np.concatenate([line.get_xydata() for line in runs])
    assert np.allclose(sorted(map(tuple, points)), sorted(left))
    assert set(zero.get_ydata()) == {0.0}
    assert list(median.get_xdata()) == pytest.approx([74e6, 145e6, 297e6, 595e6])
    assert np.argmax(median.get_ydata()) == 1 and median.get_ydata()[1] > 15


def test_running_median_takes_neighbours_where_values_are_many():
    x = np.linspace(0, 1, 201)
    at, middle = canvas.running_median(x, x**2)
    assert np.allclose(at, x)
    assert np.allclose(middle[30:170], x[30:170] ** 2, atol=0.01)
    assert np.allclose(canvas.running_median(np.array([1.0, 1, 2]), np.array([3.0, 5, 7]))[0], [1, 2])


def test_profile_figure_has_the_line_the_interval_and_its_ends(tmp_path, drawn):
    likelihood_figures.profile_figure(ROWS, "qat-unified", tmp_path / "profiles.png")
    axes = drawn[0].axes
    names = ["delta0", "gN", "gD", "gG"]
    assert [axis.get_title().split(" =")[0] for axis in axes] == names
    for axis, name in zip(axes, names, strict=True):
        found = laws.profile(ROWS, "qat-unified", name)
        low, high = found.interval(0.9)
        curve, line, best = axis.lines
        assert line.get_ydata()[0] == pytest.approx(2.7055, abs=1e-3)
        assert best.get_xdata()[0] == pytest.approx(np.exp(found.best) if found.is_log else found.best)
        assert axis.patches[0].get_x() == pytest.approx(low)
        assert axis.patches[0].get_x() + axis.patches[0].get_width() == pytest.approx(high)
        assert np.interp(high, *curve.get_data()) == pytest.approx(2.7055, abs=0.05)
        assert axis.get_title().splitlines()[1] == f"90%: {low:.3g} to {high:.3g}"


def test_profile_figure_says_where_an_end_is_open(tmp_path, drawn):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 3e7, 4), np.geomspace(1e9, 3e9, 4)))
    noise = np.random.default_rng(1).standard_normal(16)
    loss = (400 / n**0.34 + 1000 / d**0.33 + 0.2) * np.exp(0.01 * noise)
    likelihood_figures.profile_figure({"N": n, "D": d, "loss": loss}, "chinchilla", tmp_path / "profiles.png")
    titles = {axis.get_title().split(" =")[0]: axis.get_title() for axis in drawn[0].axes}
    assert "open below" in titles["E"]


def test_profiles_of_targets_without_logarithm_are_an_error(tmp_path):
    rows = [{**row, "delta": -0.001} if i == 5 else row for i, row in enumerate(ROWS)]
    with pytest.raises(FitError, match="1 rows: their logarithm is no number"):
        likelihood_figures.profile_figure(rows, "qat-unified", tmp_path / "x.png")
    with pytest.raises(LawError, match="'qat-saturating' has no terms"):
        likelihood_figures.profile_figure(ROWS, "qat-saturating", tmp_path / "x.png")


def test_contour_figure_has_the_lines_of_the_law_and_its_box(tmp_path, drawn, law):
    law_figures.contour_figure(law, tmp_path / "contours.png", groups=(32, 512))
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes] == ["G = 32", "G = 512, 2 times outside the fitted G"]
    for axis, g in zip(axes, (32, 512), strict=True):
        box = axis.patches[0]
        assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx(law.box["N"])
        assert (box.get_y(), box.get_y() + box.get_height()) == pytest.approx(law.box["D"])
        (lines,) = (c for c in axis.collections if hasattr(c, "levels"))
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            if len(path.vertices):
                n, d = path.vertices.T
                assert np.allclose(law.predict(N=n, D=d, G=g), level, rtol=1e-3)
        assert len(axis.texts) >= 5


def test_contours_of_a_law_without_groups_take_none(tmp_path, drawn):
    rows = [row for row in ROWS if row["G"] == 32]
    law = laws.fit(rows, "qat-power", bootstrap=50)
    law_figures.contour_figure(law, tmp_path / "contours.png")
    assert drawn[0].axes[0].get_title() == ""
    with pytest.raises(LawError, match="has no G: name none"):
        law_figures.contour_figure(law, tmp_path / "x.png", groups=(32,))
    with pytest.raises(LawError, match="has G: name one or more"):
        law_figures.contour_figure(TRUE, tmp_path / "x.png")
    with pytest.raises(LawError, match=r"contours take delta\(N, D\) or delta\(N, D, G\)"):
        law_figures.contour_figure(laws.load("hoffmann2022/chinchilla"), tmp_path / "x.png")


def test_group_figure_has_a_line_a_law_and_bands_of_draws(tmp_path, drawn, law):
    several = {"own": law, "chen2025/w4a4": TRUE, "chen2025/w4a16": laws.load("chen2025/w4a16")}
    points = [(595e6, 100e9), (7e9, 2e12)]
    law_figures.group_figure(several, tmp_path / "groups.png", points=points, groups=(16, 1024))
    assert [axis.get_title() for axis in drawn[0].axes] == ["N = 595M, D = 100B", "N = 7B, D = 2T"]
    for axis, (n, d) in zip(drawn[0].axes, points, strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        for name, one in several.items():
            g, value = lines[name].get_data()
            inside = np.isfinite(value)
            assert g[inside].min() >= one.box["G"][0] and g[inside].max() <= one.box["G"][1]
            assert np.allclose(value[inside], one.predict(N=n, D=d, G=g[inside]))
        (band,) = axis.collections
        low, high = law.interval(N=n, D=d, G=16.0)
        edge = band.get_paths()[0].vertices
        assert sorted({*edge[edge[:, 0] == 16.0, 1]}) == pytest.approx([low, high])
    assert "all laws: N up to 12 times and D up to 20 times" in " ".join(drawn[0].get_supxlabel().split())


def test_group_figure_refuses_what_does_not_go_together(tmp_path):
    path, at = tmp_path / "x.png", [(1e9, 1e11)]
    with pytest.raises(LawError, match="a law or more, and one or more points"):
        law_figures.group_figure({"a": TRUE}, path, points=[])
    with pytest.raises(LawError, match=r"law 'b' is L = .* takes laws in N, D and G"):
        law_figures.group_figure({"b": laws.load("hoffmann2022/chinchilla")}, path, points=at)
    with pytest.raises(LawError, match="7 laws in one figure; 6 can be told apart"):
        law_figures.group_figure({str(i): TRUE for i in range(7)}, path, points=at)
    with pytest.raises(LawError, match="G from 64 to 32"):
        law_figures.group_figure({"a": TRUE}, path, points=at, groups=(64, 32))


def test_form_figure_has_every_cell_and_the_differences(tmp_path, drawn):
    names = ["qat-power", "qat-unified"]
    likelihood_figures.form_figure(ROWS, names, tmp_path / "forms.png")
    found = laws.compare(ROWS, names)
    errors, criteria = drawn[0].axes
    assert [text.get_text() for text in errors.get_yticklabels()] == [
        "qat-unified\n4 parameters", "qat-power\n3 parameters"
    ]  # fmt: skip
    cells, mean = errors.lines[0], errors.lines[1]
    assert sorted(cells.get_xdata()) == pytest.approx(sorted(100 * found.scores[0].errors))
    assert mean.get_xdata()[0] == pytest.approx(100 * found.scores[0].left_out)
    assert len(errors.lines[2].get_xdata()) == 16, "cells of a form without G"
    widths = [bar.get_width() for bar in criteria.patches]
    assert widths == pytest.approx([
        0, found.scores[1].aicc - found.scores[0].aicc, 0, found.scores[1].bic - found.scores[0].bic
    ])  # fmt: skip
    with pytest.raises(LawError, match="takes two forms or more"):
        likelihood_figures.form_figure(ROWS, ["qat-unified"], tmp_path / "x.png")


def test_form_figure_says_where_rows_are_too_few_for_a_criterion(tmp_path, drawn):
    rows = [row for row in ROWS if row["N"] in (74e6, 595e6) and row["D"] in (10e9, 1e11)]
    likelihood_figures.form_figure(
        [row for row in rows if row["G"] == 32] + rows[:2], ["qat-unified", "qat-power"], tmp_path / "f.png"
    )
    assert any(text.get_text() == " no AICc: too few rows" for text in drawn[0].axes[1].texts)


def test_figures_of_public_runs(tmp_path, drawn, shared):
    pairs = public_runs.quartet_pairs(shared)
    power = laws.fit(pairs, "qat-power", bootstrap=50)
    fit_figures.fit_figure(pairs, power, tmp_path / "fit.png")
    fit_figures.residual_figure(pairs, power, tmp_path / "residuals.png")
    likelihood_figures.profile_figure(pairs, "qat-power", tmp_path / "profiles.png")
    law_figures.contour_figure(power, tmp_path / "contours.png")
    assert len(_points(drawn[0].axes[0])) == 21


def test_figures_of_a_law_with_levels_name_them(tmp_path, drawn, shared):
    runs = public_runs.quest(shared)
    law = laws.fit(runs, "eff-table", objective="l2", bootstrap=50)
    fit_figures.fit_figure(runs, law, tmp_path / "fit.png")
    fit_figures.residual_figure(runs, law, tmp_path / "residuals.png")
    names = [text.get_text() for text in drawn[1].axes[2].get_xticklabels()]
    assert {"1", "4", "16", "fp4", "weights4"} <= set(names)


def test_laws_and_files_that_cannot_be_drawn_are_errors(tmp_path, law):
    lost = replace(law, status="not_identified: G has one value", draws_table=None)
    for draw in (fit_figures.fit_figure, fit_figures.residual_figure):
        with pytest.raises(LawError, match="cannot be evaluated: not_identified"):
            draw(ROWS, lost, tmp_path / "x.png")
        with pytest.raises(StoreError, match="cannot be written"):
            draw(ROWS, law, tmp_path / "x.nonsense")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        "fit",
        "residuals --law chen2025/w4a4",
        "profiles",
        "contours --form qat-unified -G 64",
        "groups --law chen2025/w4a4 -N 7B -D 2T",
        "forms --form qat-unified --form qat-power",
    ],
)
def test_report_draws_each_figure_of_a_table(tmp_path, drawn, table, words):
    out = tmp_path / "out.png"
    args = [table, "--figure", *words.split(), "--out", str(out), "--json"]
    result = CliRunner().invoke(report, args, catch_exceptions=False)
    assert json.loads(result.stdout) == {"figure": str(out), "points": 64}
    assert out.read_bytes().startswith(b"\x89PNG")


def test_report_draws_laws_without_rows(tmp_path, drawn):
    out = tmp_path / "out.png"
    args = ["--figure", "contours", "--law", "chen2025/w4a4", "--out", str(out)]
    assert CliRunner().invoke(report, args).output == f"figure: {out}\n"
    assert [axis.get_title() for axis in drawn[0].axes] == ["G = 32", "G = 2.19k"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("TABLE --figure law", "Missing option '--law'"),
        ("--figure fit", "Missing argument"),
        ("TABLE --figure profiles -N 1B", "-N is for --figure groups; not for profiles"),
        ("TABLE --figure fit --law a --law b", "draws one law; 2 were given"),
        ("TABLE --figure fit --form a --form b", "takes one form; 2 were given"),
        ("TABLE --figure fit --law a --form b", "give one of the two"),
        ("TABLE --figure contours --law a", "not both"),
        ("--figure contours --law a --form b", "give a study or a table"),
        ("--figure groups --law a -N 1B", "needs -N and -D"),
        ("--figure groups --law a -N 1B -D 1T -G 3", "two -G"),
        ("--figure groups --law a -N x -D 1T", "is not a positive count"),
        ("--figure pie", "is not one of"),
    ],
)
def test_report_refuses_options_that_do_not_go_together(table, words, message):
    args = [table if word == "TABLE" else word for word in words.split()]
    result = CliRunner().invoke(report, args)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
