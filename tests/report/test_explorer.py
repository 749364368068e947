"""The law explorer's JavaScript gives the numbers of Python: the very file of the page, in an engine."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale import laws, planning
from qscale.errors import LawError
from qscale.laws.derived import eff_of_delta
from qscale.report import explorer

py_mini_racer = pytest.importorskip(
    "py_mini_racer", reason="mini-racer is not installed: pip install 'qscale[dev]'"
)

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "qscale" / "report" / "templates" / "explorer.js").read_text(encoding="utf-8")
TRUE = laws.load("chen2025/w4a4")
RUNS = [
    {"N": n, "D": d, "G": g, "seed": s, "delta_se": 1e-4,
     "delta": float(TRUE.predict(N=n, D=d, G=g)) * (1 + 0.03 * math.sin(n + d + g + s))}
    for n in (1e7, 4e7, 2e8) for d in (1e9, 8e9) for g in (16, 64, 256) for s in (0, 1)
]  # fmt: skip


PUBLISHED = {
    name: law
    for name, law in ((name, laws.load(name)) for name in laws.list_published())
    if law.form.terms and law.form.target in ("delta", "loss")
}


@cache
def every_law():
    """Laws of many kinds: one term and several, log2 and exp, levels, with and without draws."""
    kept = dict(PUBLISHED)
    kept["fitted"] = laws.fit(RUNS, bootstrap=200)
    kept["fitted power"] = laws.fit(RUNS, "qat-power", objective="l2", bootstrap=51)
    rows = [
        {"N": n, "D": d, "loss": 400 / n**0.34 + 1000 / d**0.33 + 1.7 + 1e-3 * math.sin(n * d)}
        for n in (1e7, 3e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)
    ]  # fmt: skip
    kept["fitted chinchilla"] = laws.fit(rows, "chinchilla", bootstrap=60)
    return kept


@cache
def engine():
    """The page's own file, with the descriptions of all laws that have terms."""
    context = py_mini_racer.MiniRacer()
    context.eval(SOURCE)
    named = every_law()
    loss = {name: law for name, law in named.items() if law.form.target == "loss"}
    data = json.dumps(explorer.describe(named, loss, {}))
    context.eval(f"const data = {data}; const byName = new Map(data.laws.map((law) => [law.name, law])); 0")
    return context


def js(expression):
    """The value of an expression, through JSON; infinities and NaN by their names."""
    text = engine().eval(
        "JSON.stringify((() => { try { return "
        + expression
        + "; } catch (error) { return {thrown: error.message}; } })(), "
        "(_, v) => (typeof v === 'number' && !Number.isFinite(v) ? `!${v}` : v))"
    )
    return json.loads(text, object_hook=lambda d: {k: _number(v) for k, v in d.items()})


def _number(value):
    return (
        float(value[1:].replace("Infinity", "inf")) if isinstance(value, str) and value[:1] == "!" else value
    )


def of(name):
    return f"byName.get({json.dumps(name)}).file, data.forms[byName.get({json.dumps(name)}).file.form]"


def points(law):
    """Points in and far around the box of a law."""
    spaces = {}
    for v in law.form.variables:
        if v.levels:
            spaces[v.name] = st.sampled_from(v.levels)
            continue
        low, high = law.box[v.name]
        low, high = low / 50, high * 50
        if v.name in ("G", "P", "r"):
            low, high = max(v.least, low) if v.least_allowed else low, min(high, 1e5)
        spaces[v.name] = st.floats(math.log(max(low, 1e-12)), math.log(high)).map(
            lambda x, v=v: max(math.exp(x), v.least) if v.least_allowed else math.exp(x)
        )
    return st.fixed_dictionaries(spaces)


@pytest.mark.parametrize("name", [*PUBLISHED, "fitted", "fitted power", "fitted chinchilla"])
def test_predictions_bands_and_distances_are_those_of_python(name):
    law = every_law()[name]

    @settings(max_examples=25, deadline=None)
    @given(points(law), st.floats(0.01, 0.99))
    def check(at, level):
        arguments = f"{of(name)}, {json.dumps(at)}"
        got = js(
            f"({{value: explorer.predict({arguments}), band: explorer.interval({arguments}, {level!r}), "
            f"out: explorer.outside({arguments})}})"
        )
        assert got["value"] == pytest.approx(law.predict(**at), rel=1e-9, abs=0)
        assert got["out"] == pytest.approx(law.outside(**at), rel=1e-9, abs=0)
        if law.draws_table is None:
            assert got["band"] is None
        else:
            assert got["band"] == pytest.approx(list(law.interval(level=level, **at)), rel=1e-9, abs=0)

    check()


def test_single_draws_are_those_of_python():
    law = every_law()["fitted"]
    at = {"N": 7e9, "D": 2e12, "G": 128}
    assert js(f"explorer.draws({of('fitted')}, {json.dumps(at)})") == pytest.approx(
        law.draws(**at).tolist(), rel=1e-9
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(values, share):
    got = js(f"explorer.quantile({json.dumps(values)}, {share!r})")
    spread = max(map(abs, values))
    assert got == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-12 * spread)


@pytest.mark.parametrize("pattern", [*explorer.FORMATS, "bf16"])
def test_bits_of_a_weight_are_those_of_planning(pattern):
    row = next(r for r in explorer.formats() if r["name"] == pattern.replace(":g{G}", ""))
    for group in (1, 7, 16, 32, 128, 1000, 4096):
        wanted = 16.0 if pattern == "bf16" else planning.bits_per_weight(pattern.format(G=group))
        got = js(f"explorer.bitsPerWeight({json.dumps(row)}, {group})")
        assert got == pytest.approx(wanted, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    st.floats(1e3, 1e13), st.floats(0, 5), st.sampled_from(["chen2025/baseline", "hoffmann2022/chinchilla"])
)
def test_the_multiplier_is_that_of_derived_laws(n, delta, name):
    constants = every_law()[name].parameters
    wanted = eff_of_delta(delta, n, A=constants["A"], alpha=constants["alpha"])
    got = js(f"explorer.multiplier(byName.get({name!r}).file, {delta!r}, {n!r})")
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-300)


def test_a_baseline_without_a_size_term_of_that_name_has_no_multiplier():
    assert js("explorer.multiplier({parameters: {E: 1}}, 0.1, 1e9)") is None


def test_bytes_count_what_is_not_quantized_at_16_bits():
    assert js("explorer.bytes(1e9, 1.2e9, 4.125)") == 1e9 * 4.125 / 8 + 0.2e9 * 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_the_front_holds_each_point_that_none_is_better_than(pairs):
    listed = json.dumps([{"bytes": b, "loss": loss} for b, loss in pairs])
    got = {(p["bytes"], p["loss"]) for p in js(f"explorer.front({listed})")}
    wanted = {
        (b, loss)
        for b, loss in pairs
        if not any((c <= b and m <= loss) and (c, m) != (b, loss) for c, m in pairs)
    }
    assert got == wanted


def test_candidates_have_the_loss_and_bytes_of_python():
    law, base = every_law()["fitted"], every_law()["chen2025/baseline"]
    sizes, groups, others = [1e7, 1e8, 1e9], [32, 128], 5e6
    choices = (
        f"[{{name: 'q', law: byName.get('fitted').file, form: data.forms['qat-unified'], groups: {groups}, "
        "format: data.formats.find((row) => row.name === 'int4'), at: {D: 2e10}}, "
        "{name: 'full', law: null, form: null, groups: [1], format: data.formats[0], at: {D: 2e10}}]"
    )
    base_text = "byName.get('chen2025/baseline').file, data.forms['chinchilla-tied']"
    got = js(f"explorer.candidates({choices}, {base_text}, {sizes}, {others})")
    assert len(got) == 9
    for point in got:
        n, g = point["N"], point["G"]
        loss = base.predict(N=n, D=2e10)
        bits = 16.0
        if point["name"] == "q":
            loss += law.predict(N=n, D=2e10, G=g)
            bits = planning.bits_per_weight(f"int4:g{g}")
        assert point["loss"] == pytest.approx(loss, rel=1e-9)
        assert point["bytes"] == pytest.approx(n * bits / 8 + others * 2, rel=1e-9)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"N": 0, "D": 1e9, "G": 32}, "N (non-embedding parameters, raw count) is a number more than 0"),
        ({"N": 1e9, "D": None, "G": 32}, "D (training tokens"),
        ({"N": 1e9, "D": 1e9, "G": 0.5}, "is a number at least 1"),
    ],
)
def test_what_python_refuses_is_refused(at, message):
    assert message in js(f"explorer.predict({of('chen2025/w4a4')}, {json.dumps(at)})")["thrown"]
    with pytest.raises(LawError):
        TRUE.predict(**at)


def test_a_level_that_is_none_of_the_laws_is_refused():
    name = "panferov2025/quest"
    thrown = js(f"explorer.predict({of(name)}, {{N: 1e9, D: 1e10, P: '77'}})")["thrown"]
    assert thrown.startswith("P is one of ")


@pytest.mark.parametrize(
    ("text", "value"),
    [("595M", 595e6), ("7b", 7e9), ("2e12", 2e12), ("1_000", 1000.0), (" 0.5 ", 0.5), ("1.5T", 1.5e12)],
)
def test_counts_are_read_as_the_command_line_reads_them(text, value):
    assert js(f"explorer.parseCount({text!r})") == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9999", "1 2", "0x10"])
def test_what_is_no_count_is_not_a_number(text):
    got = js(f"[Number.isFinite(explorer.parseCount({text!r}))]")
    assert got == [False]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("shortCount(595e6)", "595M"), ("shortCount(7e9)", "7B"), ("shortCount(20640)", "20.6k"),
        ("shortCount(4.5)", "4.5"), ("shortBytes(57.7e9)", "57.7 GB"), ("shortBytes(12)", "12 B"),
    ],
)  # fmt: skip
def test_numbers_are_short(call, text):
    assert js(f"explorer.{call}") == text


def test_laws_without_terms_are_left_out_with_a_reason():
    found = explorer.describe({"a": laws.load("kumar2025/qat"), "b": TRUE}, {}, {})
    assert [entry["name"] for entry in found["laws"]] == ["b"]
    (line,) = found["left_out"]
    assert line.startswith("a is left out: its form precision-qat is no sum of products of powers")


def test_a_law_given_twice_is_there_once():
    found = explorer.describe({"one": TRUE, "two": TRUE}, {}, {})
    assert [entry["name"] for entry in found["laws"]] == ["one"]
