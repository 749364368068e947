"""The page in a real browser: no complaint, live numbers, keyboard, phone, dark, print."""

import math

import pytest

pytest.importorskip("jinja2", reason="Jinja2 is not installed: pip install 'qscale[report]'")
pytest.importorskip("plotly", reason="Plotly is not installed: pip install 'qscale[report]'")

import browser as chromium
from browser import Browser

from qscale import laws
from qscale.laws.derived import eff_of_delta
from qscale.report import page

if not (chromium.CHROMIUM and chromium.DRIVER):
    pytest.skip(chromium.MISSING, allow_module_level=True)

TRUE = laws.load("chen2025/w4a4")
TAB, RIGHT, SPACE = "\ue004", "\ue014", " "
HOSTILE = "</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def law():
    rows = [
        {"N": n, "D": d, "G": g, "seed": 0,
         "delta": float(TRUE.predict(N=n, D=d, G=g)) * (1 + 0.02 * math.sin(n + d + g))}
        for n in (1e7, 4e7, 2e8) for d in (1e9, 8e9) for g in (16, 64, 256)
    ]  # fmt: skip
    return laws.fit(rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory, law):
    folder = tmp_path_factory.mktemp("page")
    lines = ["N,D,G,seed,delta,recipe,mode,N_total"]
    for n in (1e7, 4e7, 2e8):
        for d in (1e9, 8e9):
            lines += [
                f"{n:.0f},{d:.0f},{g},0,{TRUE.predict(N=n, D=d, G=g)},w4a4:g{g},{HOSTILE},{2 * n:.0f}"
                for g in (16, 64, 256)
            ]
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    return page.write(folder / "runs.csv", folder / "report.html", named={f"mine {HOSTILE}": law}).path


@pytest.fixture(scope="module")
def window(file):
    with Browser() as opened:
        yield opened


@pytest.fixture
def fresh(window, file):
    """The page as it opens."""
    window.resize(1280, 1000)
    window.media(dark=False)
    window.open(file, until="in sight")
    return window


def result(window):
    """The explorer's table by the names of its rows."""
    return dict(
        window.run(
            "return [...document.querySelectorAll('#x-result tr')]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
    )


def choose(window, name):
    window.run(
        "const list = document.getElementById('x-law');"
        "list.value = [...list.options].find((one) => one.textContent.startsWith(arguments[0])).value;"
        "list.dispatchEvent(new Event('change'))",
        name,
    )


def put(window, field, text):
    window.run(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input'))",
        f"x-{field}",
        text,
    )
    settle(window)


def settle(window):
    window.devtools(
        "Runtime.evaluate",
        expression="new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
        awaitPromise=True,
    )


def test_the_console_is_silent_and_no_name_became_markup(fresh):
    fresh.until("performance.getEntriesByName('all drawn').length")
    assert fresh.messages() == []
    assert fresh.run("return window.hacked") is None
    assert fresh.run("return document.images.length") == 0
    drawn = fresh.run("return document.querySelectorAll('.main-svg').length > 0")
    plots = fresh.run("return document.querySelectorAll('.plot').length")
    assert drawn
    assert fresh.run("return [...document.querySelectorAll('.plot')].every((e) => e.querySelector('svg'))")
    assert plots > 10


def test_the_explorer_shows_the_numbers_of_python(fresh, law):
    choose(fresh, "mine")
    put(fresh, "N", "7B")
    put(fresh, "D", "2T")
    put(fresh, "G", "128")
    found = result(fresh)
    at = {"N": 7e9, "D": 2e12, "G": 128}
    delta = law.predict(**at)
    assert found["delta"] == f"{float(f'{delta:.4g}'):g} nats per token"
    low, high = law.interval(**at)
    assert [float(x) for x in found["90 % band of the mean law"].split(" to ")] == pytest.approx(
        [low, high], rel=1e-3
    )
    out = law.outside(**at)
    assert f"N {out['N']:.3g} times outside" in found["law's fitted box"]
    base = laws.load("chen2025/baseline")
    assert found["unquantized loss"].startswith(f"{base.predict(N=7e9, D=2e12):.5g}"[:5])
    share = eff_of_delta(delta, 7e9, A=base.parameters["A"], alpha=base.parameters["alpha"])
    assert float(found["effective parameters"].split()[0]) == pytest.approx(share, rel=1e-3)
    assert found["bytes"].startswith("14 GB")  # its rows name no recipe: 16 bits a weight


def test_numbers_of_the_browser_equal_those_of_python_to_nine_digits(fresh, law):
    index = fresh.run("return figures.data.explorer.laws.findIndex((one) => one.name.startsWith('mine'))")
    points = [
        {"N": 10 ** (3 + i % 9), "D": 10 ** (6 + i % 7) * 1.7, "G": 2 ** (i % 11) + i / 7} for i in range(60)
    ]
    found = fresh.run(
        "const { laws, forms } = figures.data.explorer;"
        "const law = laws[arguments[0]].file, form = forms[law.form];"
        "return arguments[1].map((at) => ["
        "explorer.predict(law, form, at), ...explorer.interval(law, form, at, 0.9),"
        " ...['N', 'D', 'G'].map((name) => explorer.outside(law, form, at)[name])])",
        index,
        points,
    )
    for at, numbers in zip(points, found, strict=True):
        wanted = [law.predict(**at), *law.interval(**at), *law.outside(**at).values()]
        assert numbers == pytest.approx(wanted, rel=1e-9, abs=1e-300)


def test_a_slider_moves_the_numbers_by_keyboard_and_says_so_to_screen_readers(fresh):
    before = result(fresh)["delta"]
    fresh.run("document.getElementById('x-N-slider').focus()")
    fresh.keys(RIGHT * 5)
    settle(fresh)
    after = result(fresh)["delta"]
    assert after != before
    assert float(after.split()[0]) < float(before.split()[0])  # a larger model loses less
    assert fresh.run(
        "return document.getElementById('x-N-slider').getAttribute('aria-valuetext')"
    ) == fresh.run("return document.getElementById('x-N').value")
    fresh.until(f"document.getElementById('x-live').textContent.startsWith('delta {after};')")


def test_what_is_no_number_is_marked_and_the_rest_stays(fresh):
    before = result(fresh)["delta"]
    put(fresh, "N", "many")
    assert fresh.run("return document.getElementById('x-N').getAttribute('aria-invalid')") == "true"
    assert "a number is wanted" in fresh.run("return document.getElementById('x-N-help').textContent")
    assert result(fresh)["delta"] == before


def test_bytes_take_the_totals_of_the_study(fresh):
    put(fresh, "N", "40M")
    put(fresh, "G", "32")
    assert result(fresh)["bytes"].startswith("103 MB")  # 40e6 * 4.5 / 8 + 40e6 * 2
    put(fresh, "total", "41M")
    assert result(fresh)["bytes"].startswith("24.5 MB")


def test_the_front_answers_a_budget(fresh):
    put(fresh, "budget", "20M")
    within = result(fresh)["least loss within the budget"]
    assert "MB" in within
    rows = fresh.run(
        "return [...document.querySelectorAll('#x-front-table tbody tr')]"
        ".map((row) => Number(row.cells[1].textContent))"
    )
    assert len(rows) > 10
    assert rows == sorted(rows, reverse=True)
    put(fresh, "budget", "1")
    assert result(fresh)["least loss within the budget"].startswith("none")


def test_the_first_tab_skips_to_the_report_and_focus_can_be_seen(fresh):
    fresh.keys(TAB)
    assert fresh.run("return document.activeElement.textContent") == "Skip to the report"
    assert fresh.run("return document.activeElement.getBoundingClientRect().left >= 0")
    order = []
    for _ in range(60):
        fresh.keys(TAB)
        order.append(
            fresh.run(
                "const focus = document.activeElement;"
                "return focus.id || focus.getAttribute('href') || focus.className"
            )
        )
        if order[-1] == "x-reset":
            break
    fields = [name for name in order if name.startswith("x-")]
    assert fields[:8] == [
        "x-law",
        "x-baseline",
        "x-N-slider",
        "x-N",
        "x-D-slider",
        "x-D",
        "x-G-slider",
        "x-G",
    ]
    assert fields[-1] == "x-reset"
    outline = fresh.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_does_not_scroll_sideways(fresh, width):
    fresh.resize(width, 844, mobile=True)
    settle(fresh)
    assert fresh.run("return document.documentElement.scrollWidth") <= width
    wide = fresh.run(
        "return [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, .plot, .hidden')"
        " && e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map((e) => e.id || e.className || e.tagName)"
    )
    assert wide == []


def test_dark_is_dark_in_the_figures_too(fresh):
    fresh.until("performance.getEntriesByName('all drawn').length")
    ink = "return document.querySelector('.plot[data-figure=\"law-0\"] .xtick text').style.fill"
    ground = "return getComputedStyle(document.body).backgroundColor"
    for dark, text, back in (
        (True, "rgb(232, 235, 238)", "rgb(20, 23, 26)"),
        (False, "rgb(22, 25, 29)", "rgb(255, 255, 255)"),
    ):
        fresh.media(dark=dark)
        settle(fresh)
        assert (fresh.run(ink), fresh.run(ground)) == (text, back)
    assert fresh.messages() == []


def test_print_has_every_figure_in_light(fresh):
    assert fresh.pdf().startswith(b"%PDF-")
    assert fresh.run("return document.querySelectorAll('.plot[data-figure]').length") == fresh.run(
        "return document.querySelectorAll('.plot[data-figure] .main-svg:first-of-type').length"
    )
    assert fresh.messages() == []
