"""Laws and their files: round trips, bands, strangers' files, the schema, light imports."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from importlib import resources

import jsonschema
import numpy as np
import pytest

from qscale import laws
from qscale.errors import LawError
from qscale.laws import lawfile

SCHEMA = json.loads(resources.files("qscale.laws").joinpath("law.schema.json").read_text())


@pytest.fixture
def fitted(make_rows):
    return laws.fit(make_rows(0.02, 0.02, mode="cooldown", recipe="w4a4:g32"), bootstrap=200)


def test_round_trip_through_a_file_is_the_same_law_exact(fitted, tmp_path):
    path = tmp_path / "law.json"
    fitted.to_json(path)
    again = laws.load(path)
    assert again == fitted and hash(again) == hash(fitted)
    assert again.dumps() == path.read_text()
    point = {"N": 7e9, "D": 2e12, "G": np.array([32, 128])}
    np.testing.assert_array_equal(again.predict(**point), fitted.predict(**point))
    np.testing.assert_array_equal(again.interval(**point), fitted.interval(**point))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", laws.list_published())
def test_published_law_is_valid_by_schema_and_round_trips(name):
    law = laws.load(name)
    jsonschema.validate(json.loads(law.dumps()), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert laws.Law.loads(law.dumps()) == law
    assert (law.name, law.status) == (name, "published")
    assert "arXiv:" in law.citation["text"]
    assert law.citation["text"] in law.summary()


def test_fitted_law_is_valid_by_schema(fitted, make_rows):
    jsonschema.validate(json.loads(fitted.dumps()), SCHEMA, cls=jsonschema.Draft202012Validator)
    unknown = laws.fit([row for row in make_rows() if row["G"] == 32])
    jsonschema.validate(json.loads(unknown.dumps()), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert laws.Law.loads(unknown.dumps()).status == "not_identified: G has one value (32)"


def test_schema_check_can_fail(fitted):
    content = json.loads(fitted.dumps()) | {"extra": 1}
    with pytest.raises(jsonschema.ValidationError, match="extra"):
        jsonschema.validate(content, SCHEMA)


def test_interval_surrounds_the_prediction_and_widens_with_the_level_and_the_distance(fitted):
    inside, far = {"N": 2e8, "D": 3e10, "G": 64}, {"N": 7e9, "D": 2e12, "G": 64}
    low, high = fitted.interval(**inside)
    assert low < fitted.predict(**inside) < high
    wide = fitted.interval(level=0.99, **inside)
    assert wide[0] < low and wide[1] > high
    distant = fitted.interval(**far)
    assert distant[1] / distant[0] > high / low


def test_interval_of_arrays_is_that_of_their_elements(fitted):
    low, high = fitted.interval(N=np.array([1e8, 1e9]), D=1e11, G=64)
    assert (low[1], high[1]) == fitted.interval(N=1e9, D=1e11, G=64)


def test_band_of_a_run_is_the_draws_times_a_lognormal_scatter(fitted):
    point = {"N": 2e8, "D": 3e10, "G": 64}
    sd = fitted.diagnostics["scatter_sd"]
    assert fitted.run_sd == sd
    rng = np.random.default_rng(0)
    runs = fitted.draws(**point)[:, None] * np.exp(
        np.sqrt(np.log1p(sd**2)) * rng.standard_normal((200, 4000))
    )
    np.testing.assert_allclose(
        fitted.interval(kind="run", **point), np.quantile(runs, [0.05, 0.95]), rtol=5e-4
    )
    assert fitted.interval(kind="run", **point) == fitted.interval(kind="run", **point)
    low, high = fitted.interval(kind="run", N=np.array([1e8, 2e8]), D=3e10, G=64)
    np.testing.assert_allclose((low[1], high[1]), fitted.interval(kind="run", **point), rtol=1e-12)


def test_band_of_a_run_takes_the_noise_of_seeds_where_they_repeat(make_rows):
    law = laws.fit(make_rows(0.02, 0.05, seeds=(0, 1, 2)), bootstrap=50)
    assert law.run_sd == law.diagnostics["seed_sd"] > 0.04
    mean, run = (law.interval(kind=kind, N=2e8, D=3e10, G=64) for kind in ("mean", "run"))
    assert run[0] < mean[0] < mean[1] < run[1]


@pytest.mark.parametrize(
    "diagnostics", [{}, {"seed_sd": 0.0}, {"seed_sd": "x", "scatter_sd": 1e300}], ids=str
)
def test_band_of_a_run_of_a_law_without_scatter_is_an_error(fitted, diagnostics):
    law = laws.Law.loads(edited(json.loads(fitted.dumps()), ["diagnostics"], diagnostics))
    law.interval(N=1e9, D=1e11, G=64)
    with pytest.raises(LawError, match="does not say how runs scatter"):
        law.interval(kind="run", N=1e9, D=1e11, G=64)
    with pytest.raises(LawError, match="kind='family': a band is of the mean or of a run"):
        law.interval(kind="family", N=1e9, D=1e11, G=64)


def test_draws_are_a_prefix_and_the_same_each_time(fitted):
    point = {"N": 1e9, "D": 1e11, "G": 64}
    assert fitted.draws(**point).shape == (200,)
    np.testing.assert_array_equal(fitted.draws(10, **point), fitted.draws(**point)[:10])
    with pytest.raises(LawError, match="n=201 draws; the law holds 200"):
        fitted.draws(201, **point)


def test_published_law_has_no_interval_and_says_so():
    with pytest.raises(LawError, match="no interval: its source prints none"):
        laws.load("chen2025/w4a4").interval(N=1e9, D=1e11, G=64)


def test_outside_is_one_inside_and_a_ratio_beyond():
    law = laws.load("chen2025/w4a4")
    assert law.outside(N=145e6, D=50e9, G=128) == {"N": 1.0, "D": 1.0, "G": 1.0}
    found = law.outside(N=[7.4e6, 5.95e9], D=2e12, G=16)
    np.testing.assert_allclose(found["N"], [10, 10])
    np.testing.assert_allclose(found["D"], [20, 20])
    np.testing.assert_allclose(found["G"], [2, 2])


def test_summary_gives_constants_intervals_and_errors(fitted):
    text = fitted.summary()
    for part in ("converged", "mode cooldown, recipe w4a4", "delta0", "gN", "90% intervals", "leave-one-out",
                 "ladder bootstrap", "largest N", "N 7.4e+07 to", "64 rows in 4 ladders"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("level", [0, 1, 90])
def test_level_outside_zero_to_one_is_an_error(fitted, level):
    with pytest.raises(LawError, match=f"level={level}"):
        fitted.interval(level=level, N=1e9, D=1e11, G=64)


def edited(content, path, value):
    out = copy.deepcopy(content)
    *folders, last = path
    spot = out
    for folder in folders:
        spot = spot[folder]
    if value is KeyError:
        del spot[last]
    else:
        spot[last] = value
    return json.dumps(out | {"law_id": None})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], "qscale-law/9", "schema is 'qscale-law/9'; wanted 'qscale-law/1'"),
        (["form"], "exp(N)", "unknown law form 'exp"),
        (["form"], KeyError, "has no key 'form'"),
        (["formula"], "x", "unknown key 'formula' in the file; did you mean 'form'"),
        (["parameters", "gN"], "0.2", "parameters.gN is '0.2'; wanted a finite number"),
        (["parameters", "gN"], True, "parameters.gN is True"),
        (["parameters", "gN"], None, "lacks a parameter"),
        (["parameters", "gX"], 1.0, "parameters are .*gX.*; wanted k, gN, gD, gG"),
        (["box", "N"], [2.0, 1.0], r"box.N is \[2.0, 1.0\]; wanted \[low, high\]"),
        (["box", "N"], KeyError, "box are D, G; wanted N, D, G"),
        (["units", "N"], "millions", "units are .*millions"),
        (["reference", "at"], 3, "reference.at is 3; wanted an object"),
        (["reference"], None, "reference is null"),
        (["draws", "columns"], ["a", "b", "c", "d"], "draws have columns"),
        (["draws", "values", 0], [1.0], r"draws.values\[0\] is \[1.0\]; wanted 4 numbers"),
        (["draws", "values"], [], "draws has 0 rows"),
        (["quantization", "bits"], "4", "unknown key 'bits' in quantization"),
        (["diagnostics", "x"], [[[[[[[[1]]]]]]]], "nested more than 6 deep"),
        (["notes"], "one", "notes is 'one'; wanted a list"),
        (["citation"], {"text": "x"}, "citation has no key 'url'"),
        (["parameters", "k"], 10**400, "wanted a finite number"),
        (["reference", "at"], {"N": 1.0}, "reference.at are N; wanted N, D, G"),
        (["reference", "parameters"], {}, "reference.parameters are none"),
        (["box", "N"], [0.0, 1.0], "has an end that is not positive"),
        (["parameters", "k"], 1.0, "parameters.k is 1.0, but the parameters at the reference point give"),
        (["parameters", "k"], -1.0, "k is -1; a scale is positive"),
        (["parameters", "gN"], 0.9, "parameters.gN is 0.9, but the parameters at the reference point give"),
        (["reference", "parameters", "gD"], 0.9, "parameters.gD is .* reference point give 0.9"),
        (["reference", "parameters", "delta0"], 0.9, "parameters.k is .* one law written twice"),
        (["reference", "parameters", "delta0"], 0, "delta0 is 0; a scale is positive"),
        (["reference", "at", "N"], 1.0, "parameters.k is .* one law written twice"),
        (["reference", "at", "N"], -1.0, "N=-1; N .* more than 0"),
        (["reference", "at", "G"], 1.0, "reference.at.G is 1"),
        (["draws", "values", 0], [-1.0, 0.2, 0.1, 0.8], "draws of delta0 is -1; a scale is positive"),
        (["fixed"], {"gG": 0.5}, "gG is fixed at 0.5, but parameters.gG is"),
    ],
)
def test_bad_law_file_is_an_error_that_names_the_key(fitted, path, value, message):
    text = edited(json.loads(fitted.dumps()), path, value)
    with pytest.raises(LawError, match=message):
        laws.Law.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "the file is \\[\\]; wanted an object"),
        ('{"parameters": {"k": NaN}}', "NaN is not a number that strict JSON has"),
        ('{"form": "a", "form": "b"}', "key 'form' is given twice"),
        ("[" * 100_000, "not JSON"),
        ('{"n": ' + "9" * 5000 + "}", "law file: "),
    ],
)
def test_text_that_is_not_strict_json_is_an_error(text, message):
    with pytest.raises(LawError, match=message):
        laws.Law.loads(text)


ODD = {"mean_relative_error": "x", "max_relative_error": {}, "seed_sd": None, "r2": [], "chi2_per_dof": "y"}


@pytest.mark.parametrize("diagnostics", [{}, {"warnings": 3}, ODD])
def test_summary_of_a_stranger_with_odd_diagnostics_prints(fitted, diagnostics):
    law = laws.Law.loads(edited(json.loads(fitted.dumps()), ["diagnostics"], diagnostics))
    assert "gN" in law.summary()


def test_changed_file_is_noticed_by_its_id(fitted):
    content = json.loads(fitted.dumps())
    content["box"]["N"][1] *= 2
    with pytest.raises(LawError, match="law_id is not the hash of the content"):
        laws.Law.loads(json.dumps(content))
    assert laws.Law.loads(json.dumps(content | {"law_id": None})).box["N"][1] == content["box"]["N"][1]


def test_large_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lawfile, "MOST_BYTES", 10)
    (tmp_path / "law.json").write_text("{" + " " * 20 + "}")
    with pytest.raises(LawError, match="at most 10 are read"):
        laws.load(tmp_path / "law.json")


def test_file_that_is_no_law_is_named(tmp_path):
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(LawError, match=r"notes\.json: law file: the file is \[\]"):
        laws.load(tmp_path / "notes.json")


def test_law_that_is_neither_text_nor_path_is_an_error():
    with pytest.raises(LawError, match="no law 3: give the id"):
        laws.load(3)


def test_unknown_law_gets_the_nearest_id():
    with pytest.raises(LawError, match="did you mean 'chen2025/w4a4'"):
        laws.load("chen2025/w4a44")


def test_writing_where_there_is_no_folder_is_an_error_and_leaves_nothing(fitted, tmp_path):
    with pytest.raises(LawError, match=r"law\.json cannot be written: No such file or directory$") as caught:
        fitted.to_json(tmp_path / "no" / "law.json")
    assert "tmp" not in str(caught.value).removeprefix(str(tmp_path))
    (tmp_path / "law.json").mkdir()
    with pytest.raises(LawError, match="cannot be written"):
        fitted.to_json(tmp_path / "law.json")
    assert [p.name for p in tmp_path.iterdir()] == ["law.json"]


HEAVY = {"scipy", "torch", "pandas", "click", "pyarrow", "matplotlib"}


def loaded_by(code):
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in found.stdout.split()}


@pytest.mark.parametrize("code", ["import qscale.laws", "import qscale.planning",
    "from qscale import laws; laws.load('chen2025/w4a4').predict(N=1e9, D=1e11, G=128)"])  # fmt: skip
def test_laws_load_numpy_alone(code):
    assert not loaded_by(code) & HEAVY


def test_the_check_of_loaded_modules_can_fail():
    assert loaded_by("import qscale.laws, scipy.optimize") & HEAVY == {"scipy"}
