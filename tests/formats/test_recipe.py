"""Recipe: short and long text, overrides, JSON."""

import json

import pytest
from hypothesis import given
from strategies import recipes

from qscale.errors import SpecError
from qscale.formats import QuantSpec, Recipe


@given(recipes())
def test_every_recipe_round_trips_through_text_and_json(recipe):
    assert Recipe.parse(str(recipe)) == recipe
    assert str(Recipe.parse(str(recipe))) == str(recipe)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("text", "weight", "inputs"),
    [
        ("w4a4:g128", "int4:g128", "int4:g128"),
        ("w4a16:g32", "int4:g32", None),
        ("w16a4:channel", None, "int4:token"),
        ("w2a8:channel", "int2:channel", "int8:token"),
        ("w4a4:g32@chen2025", "int4:g32@chen2025", "int4:g32@chen2025"),
        ("w=int4:channel:asym,a=fp8_e4m3:token", "int4:channel:asym", "fp8_e4m3:token"),
    ],
)
def test_text_means_these_specs(text, weight, inputs):
    recipe = Recipe.parse(text)
    assert recipe.weight == (weight and QuantSpec.parse(weight))
    assert recipe.input == (inputs and QuantSpec.parse(inputs))
    assert str(recipe) == text


def test_integers_of_one_granularity_have_one_text():
    assert str(Recipe(weight="int4:channel", input="int8:token")) == "w4a8:channel"
    assert str(Recipe.parse("w=int4:g32,a=int4:g32")) == "w4a4:g32"


def test_override_wins_for_the_layers_it_names():
    recipe = Recipe.parse("w4a4:g32,down_proj.input=int8:g32,o_proj.weight=none")
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "input")) == "int8:g32"
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "weight")) == "int4:g32"
    assert recipe.spec_for("model.layers.0.self_attn.o_proj", "weight") is None
    assert str(recipe.spec_for("model.layers.0.mlp.up_down_proj", "input")) == "int4:g32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a4", "use w4a4:g128"),
        ("w4:g32", "use w4a4:g128"),
        ("w16a16:g32", "quantizes something"),
        ("w9a4:g32", "unknown format 'int9'"),
        ("w=int4:token", "use channel"),
        ("a=int4:channel", "use token"),
        ("w4a4:g32,w=int4:g32", "gives weight twice"),
        ("w4a4:g32,down_proj=int8:g32", "name a layer and its operand"),
        ("w4a4:g32,q=", "not of the form name=value"),
        ("", "cannot be read"),
        (None, "not None"),
    ],
)
def test_text_that_cannot_be_read_says_why(text, message):
    with pytest.raises(SpecError, match=message):
        Recipe.parse(text)


def test_json_with_an_unknown_field_is_refused():
    with pytest.raises(SpecError, match="unknown recipe field 'weigth'"):
        Recipe.from_json({"weigth": "int4:g32"})
