"""Figures show every measured point, and the law where it may be used."""

import pytest

pytest.importorskip("matplotlib")

from qscale import laws
from qscale.errors import StoreError
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
