"""The page: every section, what it says where there is nothing, markup that is sound, and hostile names."""

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import large_store
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("jinja2", reason="Jinja2 is not installed: pip install 'qscale[report]'")
pytest.importorskip("plotly", reason="Plotly is not installed: pip install 'qscale[report]'")

from qscale import laws
from qscale.cli.report import command as report
from qscale.errors import LawError, QScaleError, StoreError
from qscale.report import canvas, page, sources
from qscale.report.sections import decomposition, doubts, layers, methods, overview
from qscale.report.sections import law as law_sections
from qscale.sweep.jobs import jobs

ROOT = Path(__file__).parents[2]
TRUE = laws.load("chen2025/w4a4")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "<!--<script>\u2028\u2029{{ 7 * 7 }}${1}",
    "__proto__",
)
SECTIONS = [
    "summary", "explorer", "coverage", "law", "residuals", "profiles", "sensitivity", "methods",
    "decomposition", "layers", "curves", "runs", "checklist", "environment",
]  # fmt: skip


def rows(**more):
    dice = np.random.default_rng(0)
    return [
        {
            "N": n, "D": d, "G": g, "seed": s, "mode": "cooldown", "recipe": f"w4a4:g{g}", "loss": 3.0,
            "delta": float(TRUE.predict(N=n, D=d, G=g) * np.exp(dice.normal(0, 0.03))), "delta_se": 1e-3,
            "baseline_loss": 400 / n**0.34 + 1000 / d**0.33 + 1.7, **more,
        }
        for n in (10**7, 4 * 10**7, 2 * 10**8) for d in (10**9, 8 * 10**9)
        for g in (16, 64, 256) for s in (0, 1)
    ]  # fmt: skip


def write_table(path, found):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


class Markup(HTMLParser):
    """Every element with its attributes and its text, and the data of the page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.stack = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "br", "img", "link"):
            self.stack.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.stack.pop()][0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.stack:
            self.texts[self.stack[-1]] = self.texts.get(self.stack[-1], "") + data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    def text_of(self, tag, **wanted):
        places = [
            i for i, (name, own) in enumerate(self.elements) if name == tag and wanted.items() <= own.items()
        ]
        return [self.texts.get(i, "") for i in places]

    @property
    def data(self):
        (text,) = self.text_of("script", id="data")
        return json.loads(text)


@pytest.fixture(scope="module")
def table_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    out = folder / "report.html"
    made = page.write(write_table(folder / "runs.csv", rows()), out)
    return made, Markup(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of 200 runs of which one failed and one is missing, with curves and diagnostics."""
    folder = tmp_path_factory.mktemp("study") / "study"
    store = large_store.make(folder, 200)
    quantized = [job for job in jobs(store.runs()) if job.baseline_id is not None]
    for job in quantized:
        record, _ = store.read(job.id)
        delta = float(TRUE.predict(N=record.N, D=record.D, G=record.G))
        (store.folder(job) / "record.json").write_text(replace(record, delta=delta, loss=1.5 + delta).dumps())
    for job in quantized[:2]:
        (store.folder(job) / "record.json").unlink()
    (store.folder(quantized[0]) / "failure.json").write_text(json.dumps({"error": "out of <memory>"}))
    layer = {"step": 9, "layer": "model.layers.0.mlp.down_proj", "weight_relmse": 0.01, "input_relmse": 0.02}
    layer |= {"input_kurtosis": 70.0, "input_peak": 90.0}
    for job in quantized[2:]:
        (store.folder(job) / "diagnostics.jsonl").write_text(json.dumps(layer) + "\n")
    return folder


@pytest.fixture(scope="module")
def study_page(study):
    out = study.parent / "report.html"
    made = page.write(study, out)
    return made, Markup(out.read_text(encoding="utf-8"))


def remark(markup, section):
    """The text of a section of which there is nothing."""
    found = next(i for i, (_, own) in enumerate(markup.elements) if own.get("id") == f"{section}-title")
    _, own = markup.elements[found + 1]
    return markup.texts.get(found + 1, "") if own.get("class") == "remark" else None


def test_every_section_is_there_and_those_of_a_table_say_what_only_a_folder_has(table_page):
    made, markup = table_page
    assert [own["id"] for own in markup.all("section")] == SECTIONS
    assert (made.runs, made.laws) == (36, 1)
    for name in ("layers", "curves", "environment"):
        assert "folder" in remark(markup, name)
    assert remark(markup, "methods") == "No run was quantized after training. There is nothing to compare."
    assert "decompose:" in remark(markup, "decomposition")
    assert remark(markup, "law") is None
    assert remark(markup, "checklist") is None


def test_a_study_has_coverage_curves_layers_and_environment(study_page):
    made, markup = study_page
    assert made.runs == 178
    empty = [name for name in SECTIONS if name != "explorer" and remark(markup, name)]
    assert empty == ["methods"]
    cells = " ".join(markup.text_of("td"))
    assert "0/1, 1 failed" in cells
    assert markup.text_of("td", **{"class": "bad"}) == ["0/1, 1 failed"]
    assert markup.text_of("td", **{"class": "open"}) == ["0/1"]
    assert "out of <memory>" in cells
    assert {"curves", "layers", "law-0", "law-2", "profiles-0"} <= markup.data["figures"].keys()
    assert "device cpu" in " ".join(markup.text_of("th", scope="row"))
    assert len(markup.data["explorer"]["totals"]) == 4


@pytest.mark.parametrize("which", ["table_page", "study_page"])
def test_markup_is_sound(which, request):
    made, markup = request.getfixturevalue(which)
    assert made.bytes == made.path.stat().st_size < 6_000_000
    ids = [own["id"] for _, own in markup.elements if "id" in own]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in markup.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in markup.elements}
    labels = {own["for"] for own in markup.all("label") if "for" in own}
    for own in markup.all("input", "select"):
        assert own.get("aria-label") or own["id"] in labels
    for own in markup.all("section"):
        assert own["aria-labelledby"] in ids
    pictures = [own for _, own in markup.elements if own.get("role") == "img"]
    assert len(pictures) == len(markup.all("figure"))
    assert all(len(own["aria-label"]) > 10 for own in pictures)
    scrolled = [own for own in markup.all("div") if own.get("class") == "scroll"]
    assert all(own["aria-label"] and own["tabindex"] == "0" for own in scrolled)
    assert [own for own in markup.all("p") if own.get("aria-live") == "polite"]
    places = {own["href"][1:] for own in markup.all("a")}
    assert places <= set(ids)


def test_nothing_is_loaded_and_no_script_but_the_pages_own_may_run(table_page):
    _, markup = table_page
    for tag, own in markup.elements:
        assert not [name for name in own if name.startswith("on")], tag
        assert "src" not in own and not own.get("href", "#").startswith(("http", "//")), tag
    (policy,) = [own["content"] for own in markup.all("meta") if "http-equiv" in own]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    known = rules["script-src"].split()
    scripts = [
        markup.texts[i]
        for i, (tag, own) in enumerate(markup.elements)
        if tag == "script" and own.get("type") != "application/json"
    ]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert sorted(known) == sorted(f"'sha256-{one}'" for one in hashes)
    assert len(known) == 4


def test_names_of_a_stranger_are_text(tmp_path):
    found = [
        row | {"recipe": HOSTILE[i % 4], "method": HOSTILE[(i + 1) % 4], "mode": "ptq",
               "family": HOSTILE[i % 4], "tokenizer": HOSTILE[3 - i % 4], "corpus": HOSTILE[0]}
        for i, row in enumerate(rows())
    ]  # fmt: skip
    folder = tmp_path / HOSTILE[1].replace("/", "")
    folder.mkdir()
    law = laws.fit(rows())
    made = page.write(write_table(folder / "a<b>.csv", found), tmp_path / "out.html", named={HOSTILE[0]: law})
    text = made.path.read_text(encoding="utf-8")
    markup = Markup(text)
    assert [own.get("id") for own in markup.all("script")] == ["data", "plotly", None, None, None]
    assert not markup.all("img")
    assert not [own for _, own in markup.elements if any(name.startswith("on") for name in own)]
    assert markup.text_of("h1") == ["a<b>.csv"]
    names = [entry["name"] for entry in markup.data["explorer"]["laws"]]
    assert HOSTILE[0] in names or any(HOSTILE[0] in name for name in names)
    assert "49" not in "".join(markup.text_of("h3"))
    assert "\u2028" not in markup.text_of("script", id="data")[0]
    cells = "".join(markup.text_of("td") + markup.text_of("th"))
    assert HOSTILE[0] in cells
    assert HOSTILE[1] in cells


def test_too_few_runs_give_a_page_that_says_why_there_is_no_law(tmp_path):
    made = page.write(write_table(tmp_path / "few.csv", rows()[:2]), tmp_path / "few.html")
    markup = Markup(made.path.read_text(encoding="utf-8"))
    assert made.laws == 0
    assert remark(markup, "residuals").startswith("There is no law: ")
    assert remark(markup, "checklist") == "There is no law to report."
    assert markup.data["explorer"]["laws"][0]["name"] == "chen2025/w4a4"


def test_a_study_that_has_not_begun_has_a_page(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "demo.yaml", folder / "study.yaml")
    markup = Markup(page.write(folder, tmp_path / "empty.html").path.read_text(encoding="utf-8"))
    assert remark(markup, "coverage") == "The study has not begun: it has no runs yet."
    assert remark(markup, "law") == "No finished quantized run has a delta: there is nothing to fit."
    assert remark(markup, "runs") == "There is no quantized run."


def test_the_same_runs_give_the_same_bytes(tmp_path):
    table = write_table(tmp_path / "runs.csv", rows())
    first = page.write(table, tmp_path / "a.html").path.read_bytes()
    assert first == page.write(table, tmp_path / "b.html").path.read_bytes()


def test_residuals_and_moved_points_are_those_of_the_law():
    group = sources.Group(mode="cooldown", recipe="w4a4", method=None, rows=rows())
    fit = sources.fit_group(group, None)
    found = doubts.residuals([fit])["parts"][0]["figures"][0]["panels"]
    drawn = sorted(y for one in found[0]["series"] if one["kind"] == "points" for y in one["y"])
    at = {name: np.array([row[name] for row in group.rows], dtype=float) for name in "NDG"}
    delta = np.array([row["delta"] for row in group.rows])
    assert drawn == pytest.approx(sorted(100 * (delta / fit.law.predict(**at) - 1)), abs=2e-3, rel=1e-4)

    source = sources.Source(name="x", folder=None, rows=group.rows, baselines=[])
    figures = {one["id"]: one for p in law_sections.law(source, [fit], 0)["parts"] for one in p["figures"]}
    along = figures["along-0"]["panels"][0]["series"]
    reference = fit.law.reference.at
    moved = delta * fit.law.predict(**{**reference, "N": at["N"]}) / fit.law.predict(**at)
    assert sorted(along[1]["y"]) == pytest.approx(sorted(moved), rel=1e-4)
    low, high = fit.law.interval(**{**reference, "N": along[0]["x"][3]})
    assert (along[0]["low"][3], along[0]["high"][3]) == pytest.approx((low, high), rel=1e-4)


def test_methods_are_compared_with_rounding_to_nearest():
    found = []
    for method, factor in (("rtn", 1.0), ("gptq", 0.5), ("awq", 1.6)):
        found += [row | {"delta": row["delta"] * factor} for row in rows(mode="ptq", method=method)]
    source = sources.Source(name="x", folder=None, rows=found, baselines=[])
    part = methods.methods(source)["parts"][0]
    body = {row[1]: row for row in part["tables"][0]["rows"]}
    assert body["gptq / rtn"][3] == "0.5"
    assert body["awq / rtn"][3] == "1.6"
    assert body["gptq / rtn"][5] == "100 %"
    dots = {s["name"]: s["x"][0] for s in part["figures"][0]["panels"][0]["series"] if s["kind"] == "points"}
    assert dots == pytest.approx({"gptq": 0.5, "awq": 1.6}, rel=1e-3)


def test_weights_and_inputs_are_taken_apart():
    found = [
        row | {"recipe": recipe, "delta": delta, "seed": s, "corpus": "python"}
        for recipe, delta in (("w4a4:g16", 0.05), ("w4a16:g16", 0.02), ("w16a4:g16", 0.04))
        for s in (0, 1)
        for row in rows()[:1]
    ]
    source = sources.Source(name="x", folder=None, rows=found, baselines=[])
    part = decomposition.decomposition(source)["parts"][0]
    (row,) = part["tables"][0]["rows"]
    assert row[2:5] == ["0.05 ± 0", "0.02 ± 0", "0.04 ± 0"]
    assert [s["y"] for s in part["figures"][0]["panels"][0]["series"]] == [[0.02], [0.04], [0.05]]


def test_layers_of_the_largest_runs_are_drawn(study):
    source = sources.read(study)
    (figure,) = layers.layers(source)["parts"][0]["figures"]
    assert "kurtosis 70" in figure["alt"]
    assert len(figure["panels"]) == 4


def test_many_runs_are_thinned_and_counted():
    many = [row | {"seed": i, "delta": row["delta"] * (1 + 0.001 * i)} for i in range(60) for row in rows()]
    fit = sources.fit_group(sources.Group(mode=None, recipe=None, method=None, rows=many), None)
    source = sources.Source(name="x", folder=None, rows=many, baselines=[])
    (part,) = law_sections.law(source, [fit], 0)["parts"]
    assert any(line.startswith("1500 of 2160 runs are drawn") for line in part["text"])
    points = [len(s["y"]) for s in part["figures"][1]["panels"][0]["series"] if s["kind"] == "points"]
    assert points == [1500]
    table = overview.runs_table(source)["parts"][0]["tables"][0]
    assert len(table["rows"]) == 1000
    assert table["more"].startswith("1160 more rows")


def test_a_table_with_names_of_its_own_is_read_as_it_says(tmp_path):
    found = sources.read(ROOT / "examples" / "runs.csv", columns={"N": "params", "D": "tokens"})
    assert len(found.measured) == 32
    assert len(found.baselines) == 16
    with pytest.raises(LawError, match="no column 'x' for N; columns: params"):
        sources.read(ROOT / "examples" / "runs.csv", columns={"N": "x"})


def test_numbers_that_are_none_are_counted_and_other_recipes_named(tmp_path):
    found = rows()
    found[0]["delta"] = "much"
    table = write_table(tmp_path / "t.csv", found)
    assert sources.read(table).notes == ("1 values of column delta are no numbers and count as missing",)
    with pytest.raises(StoreError, match="no run is of w8a8; there are w4a4, cooldown"):
        sources.read(table, recipe="w8a8")


def test_baselines_of_a_table_are_known_by_the_losses_that_its_rows_name():
    source = sources.Source(name="x", folder=None, rows=rows(), baselines=[])
    fit = sources.baseline_law(source)
    wanted = 400 / 4e7**0.34 + 1000 / 8e9**0.33 + 1.7
    assert fit.usable.predict(N=4e7, D=8e9) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("name", ["jinja2", "plotly"])
def test_what_is_not_installed_is_named(monkeypatch, name):
    for module in [name, *(m for m in __import__("sys").modules if m.startswith(f"{name}."))]:
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(QScaleError, match=r"pip install 'qscale\[report\]'"):
        page.render("x", [], {"left_out": []})


def _luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", canvas.DARK_COLORS)
def test_colors_stand_out_of_a_dark_ground(color):
    assert (_luminance(color) + 0.05) / (_luminance("#14171a") + 0.05) > 4.5


def test_report_writes_the_page_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path / "runs.csv", rows())
    args = [str(table), "--json", "--law", "chen2025/w4a16"]
    result = CliRunner().invoke(report, args, catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told == {"report": "report.html", "bytes": told["bytes"], "points": 36, "laws": 1}
    assert (tmp_path / "report.html").stat().st_size == told["bytes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing argument"),
        ("TABLE -N 1B", "-N is for --figure contours, groups; not for the page"),
        ("TABLE --form a --form b", "the page takes one form"),
        ("TABLE --out x.docx", "the page is an .html file"),
        ("TABLE --paper --figure law", "give one of the two"),
        ("TABLE --paper --out x.pdf", "name a folder"),
        ("TABLE --figure fit --column N=n", "--column is for the page"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, words, message):
    table = str(write_table(tmp_path / "runs.csv", rows()))
    result = CliRunner().invoke(report, [table if word == "TABLE" else word for word in words.split()])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
