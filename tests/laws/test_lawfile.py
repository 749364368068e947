"""The law file: every law that fits write is valid by the schema; mutated files give LawError or a law."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qscale import laws
from qscale.errors import LawError
from qscale.laws import fit_sum, lawfile

SCHEMA = json.loads(resources.files("qscale.laws").joinpath("law.schema.json").read_text())


def losses(levels=(), rows=40, sd=0.003):
    """Rows of a Chinchilla law; with levels, N counts for less at each further one."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, rows), 10 ** rng.uniform(9, 12, rows)
    place = np.arange(rows) % max(1, len(levels))
    loss = (400 / (n * 0.7**place) ** 0.34 + 1000 / d**0.33 + 1.7) * np.exp(sd * rng.standard_normal(rows))
    table = {"N": n, "D": d, "loss": loss}
    return table | {"P": [levels[i] for i in place]} if levels else table


@cache
def fits():
    """A law of each kind that fits give, by name."""
    some = {"bootstrap": 50}
    n, d, g = (a.ravel() for a in np.meshgrid([2e4, 2e5, 2e6], [20, 80], [16, 64]))
    wave = 1 + 0.02 * np.sin(np.arange(12) ** 2)
    deltas = {"N": n, "D": d * n, "G": g, "delta": 0.3 * n**-0.2 * (d * n) ** 0.1 * (g / 32) ** 0.2 * wave}
    return {
        "product": laws.fit(deltas, **some),
        "product of one G": laws.fit({k: v[g == 16] for k, v in deltas.items()}, **some),
        "chinchilla": laws.fit(losses(), "chinchilla", **some),
        "restricted": laws.fit(
            losses(),
            "chinchilla",
            objective="raw:student:0.01",
            tie={"beta": "alpha"},
            bounds={"E": (1, 1.5)},
            prior={"alpha": (0.3, 0.1)},
            resample="wild",
            **some,
        ),
        "fixed": laws.fit(losses(), "chinchilla", fix={"E": 1.7}, objective="lad", **some),
        "levels": laws.fit(losses(levels=(4, 8, 16)), "eff-table", **some),
        "levels with none": laws.fit(losses(levels=("none", 4, "fp4")), "additive-table", **some),
        "one N": laws.fit(losses() | {"N": np.full(40, 1e9)}, "chinchilla", **some),
        "few rows": laws.fit({k: v[:4] for k, v in losses().items()}, "chinchilla", **some),
    }


KINDS = (
    "product", "product of one G", "chinchilla", "restricted", "fixed", "levels", "levels with none", "one N",
    "few rows",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_law_of_a_fit_is_valid_by_schema_and_round_trips(kind):
    law = fits()[kind]
    jsonschema.validate(json.loads(law.dumps()), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert laws.Law.loads(law.dumps()) == law
    assert law.summary()


def test_every_kind_of_fit_is_tested():
    assert tuple(fits()) == KINDS


def test_law_of_a_fit_that_did_not_converge_is_valid_by_schema(monkeypatch):
    real = fit_sum.estimate_of
    monkeypatch.setattr(fit_sum, "estimate_of", lambda *args: replace(real(*args), converged=False))
    law = laws.fit(losses(), "chinchilla", bootstrap=50)
    assert law.status.startswith("not_converged: ") and not law.usable
    jsonschema.validate(json.loads(law.dumps()), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert laws.Law.loads(law.dumps()) == law


ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2.5, -0.0, 5e-324, 1e308, -1e308, 10**300, 10**400, "", "x", "nan", "N"]
    ),
    st.sampled_from([[], {}, [1.0], [1.0, 0.0], [0.0, 1e308], {"N": 1.0}, {"": 0}, [[[[[[[[1]]]]]]]]]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.integers(2, 90).map(lambda depth: json.loads("[" * depth + "]" * depth)),
).map(copy.deepcopy)  # a mutation changes what is inside


def mutate(content, data):
    """One change somewhere in the tree: another value, a key or item gone, a key or item more."""
    spot = content
    while True:
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        how = data.draw(st.sampled_from(["down", "down", "down", "set", "delete", "add"]))
        if how == "add" or not keys:
            if isinstance(spot, dict):
                spot[data.draw(st.sampled_from(["x", "", "N", "form", "alpha", "k[4]"]))] = data.draw(ODD)
            else:
                spot.append(data.draw(ODD))
            return
        key = data.draw(st.sampled_from(keys))
        if how == "delete":
            del spot[key]
            return
        if how == "set" or not isinstance(spot[key], (dict, list)):
            spot[key] = data.draw(ODD)
            return
        spot = spot[key]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_file_is_an_error_or_a_law_that_round_trips(kind, data):
    content = copy.deepcopy(json.loads(fits()[kind].dumps()))
    content["law_id"] = None
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(content, data)
    try:
        law = laws.Law.loads(json.dumps(content))
    except LawError:
        return
    assert laws.Law.loads(law.dumps()) == law
    assert law.summary()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_file_with_changed_characters_is_an_error_or_a_law_that_round_trips(data):
    text = fits()["chinchilla"].dumps()
    at = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 20))
    inside = data.draw(
        st.sampled_from(["", "0", "9" * 40, "1e999", "NaN", "-Infinity", '"', "[", "{", "\\ud800", "\0"])
    )
    try:
        law = laws.Law.loads(text[:at] + inside + text[at + length :])
    except LawError:
        return
    assert laws.Law.loads(law.dumps()) == law


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"diagnostics": {"x": 1e999}}, "not a number that strict JSON has|wanted a finite number"),
        ({"diagnostics": {"x": [[[[[[[[[0]]]]]]]]]}}, "nested more than 6 deep"),
        ({"draws": {"method": "x", "columns": ["a"], "values": [[0.0]] * 10_001}}, "wanted 1 to 10000"),
    ],
    ids=["unknown", "infinite", "nested", "draws"],
)
def test_stranger_file_is_refused(content, message):
    own = json.loads(fits()["chinchilla"].dumps()) | {"law_id": None}
    with pytest.raises(LawError, match=message):
        laws.Law.loads(json.dumps(own | content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("parameters", "A"), 0, "parameters.A is 0, but the parameters at the reference point give"),
        (("parameters", "A"), 10**300, "one law written twice"),
        (("reference", "parameters", "A0"), 10**300, "one law written twice"),
        (("reference", "parameters", "A0"), None, "'converged' lacks a parameter"),
        (("reference", "at", "N"), 10**300, "one law written twice"),
    ],
)
def test_constant_that_does_not_agree_with_the_rest_is_refused(path, value, message):
    content = json.loads(fits()["chinchilla"].dumps()) | {"law_id": None}
    spot = content
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    with pytest.raises(LawError, match=message):
        laws.Law.loads(json.dumps(content))


def test_constants_of_a_stranger_at_which_a_form_has_no_value_are_an_error():
    content = json.loads(laws.load("muennighoff2023/repetition").dumps()) | {"law_id": None}
    content["parameters"]["beta"] = 0
    law = laws.Law.loads(json.dumps(content))
    with pytest.raises(LawError, match="has no value with the constants"):
        law.predict(N=1e9, D=1e10, U=1e10)


def test_summary_without_the_number_of_ladders_prints():
    content = json.loads(fits()["chinchilla"].dumps()) | {"law_id": None, "data": {"rows": 3}}
    assert "alpha" in laws.Law.loads(json.dumps(content)).summary()


def test_text_of_a_stranger_that_is_too_large_is_refused():
    with pytest.raises(LawError, match="at most 16777216 are read"):
        laws.Law.loads(" " * (lawfile.MOST_BYTES + 1))
