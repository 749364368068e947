"""Recipe: short and long text, overrides, JSON."""

import json

import pytest
from hypothesis import given
from strategies import recipes

from qscale.errors import SpecError
from qscale.formats import QuantSpec, Recipe
from qscale.formats.presets import PRESETS
from qscale.formats.rotations import Rotation


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


def test_recipe_when_it_quantizes_nothing_then_its_text_is_w16a16():
    assert Recipe.parse("w16a16") == Recipe() and str(Recipe()) == "w16a16" and Recipe().is_empty
    assert str(Recipe.parse("w16a16,kv=int4:g32")) == "kv=int4:g32"
    assert not Recipe.parse("w16a16,kv=int4:g32").is_empty
    assert Recipe.from_json(Recipe().to_json()).is_empty


def test_override_wins_for_the_layers_it_names():
    recipe = Recipe.parse("w4a4:g32,down_proj.input=int8:g32,o_proj.weight=none")
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "input")) == "int8:g32"
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "weight")) == "int4:g32"
    assert recipe.spec_for("model.layers.0.self_attn.o_proj", "weight") is None
    assert str(recipe.spec_for("model.layers.0.mlp.up_down_proj", "input")) == "int4:g32"


def test_of_two_overrides_of_a_layer_the_one_that_names_more_wins():
    recipe = Recipe.parse("w4a4:g32,down_proj.input=int8:g32,layers.2.mlp.down_proj.input=none")
    assert recipe.spec_for("model.layers.2.mlp.down_proj", "input") is None
    assert str(recipe.spec_for("model.layers.12.mlp.down_proj", "input")) == "int8:g32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a4", "use w4a4:g128"),
        ("w4:g32", "use w4a4:g128"),
        ("w16a16:g32", "quantizes something"),
        ("w16a16,rot=hadamard:128", "quantizes something"),
        ("w16a16,q=lsq", "quantizes something"),
        ("w16a16,down_proj.input=none", "quantizes something"),
        ("w9a4:g32", "unknown format 'int9'"),
        ("w=int4:token", "use channel"),
        ("a=int4:channel", "use token"),
        ("w4a4:g32,w=int4:g32", "gives weight twice"),
        ("w4a4:g32,down_proj=int8:g32", "name a layer and its operand"),
        ("w4a4:g32,q=", "not of the form name=value"),
        ("w4a4:g32,q=lsg", "did you mean 'lsq'"),
        ("w4a4:g32,q=clip", "clip takes a ratio, such as clip"),
        ("w4a4:g32,q=clip(2)", "ratio is a number above 0 and up to 1"),
        ("w4a4:g32,q=lac(0.5)", "takes no parameter"),
        ("w4a4:g32,q=lwc/lac/lsq", "give one, or weight/input"),
        ("w4a4:g32,rot=hadamard", "use hadamard:128, hadamard:full"),
        ("w4a4:g32,keep=middle", "blocks to keep are first, last, first"),
        ("w4a4:g32,kv=int4:channel", "use token"),
        ("w4a4:g32,anneal=1", "anneal=1.0: the fraction of the steps lies between 0 and 1"),
        ("w4a4:g32,anneal=0.1:0.6", "radius lies in"),
        ("w4a4:g32,anneal=late", "anneal='late' cannot be read: use the last part"),
        ("w4a4:g32,anneal=0.1:0.1:0.1", "cannot be read"),
        ("lsq-w4a4", "lsq-w4a4 needs a granularity"),
        ("quest-w4a4:g32", "quest-w4a4 takes no granularity"),
        ("chen2025-w4a4:32", "takes g<elements> or channel, not '32'"),
        ("quset-w4a4", "did you mean 'quest-w4a4'"),
        ("lsq-w4a5:g16,keep=last", "did you mean 'lsq-w4a4:g16'"),
        ("quest-w4b4", "or a name: .*quest-w4a4.*chen2025-w4a4:G|or a name: .*chen2025-w4a4:G.*quest-w4a4"),
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


@pytest.mark.parametrize(
    ("text", "weight", "inputs"),
    [
        ("q=absmax/lac", "absmax", "lac"),
        ("q=absmax/absmax", "absmax", "absmax"),
        ("q=clip(0.90)/lac", "clip(0.9)", "lac"),
        ("q=lsq", "lsq", "lsq"),
    ],
)
def test_quantizers_of_weight_and_input(text, weight, inputs):
    recipe = Recipe.parse(f"w4a4:g32,{text}")
    assert (recipe.quantizer_for("weight"), recipe.quantizer_for("input")) == (weight, inputs)
    assert Recipe.parse(str(recipe)) == recipe


def test_override_of_a_role_serves_layers_that_have_it():
    recipe = Recipe.parse("w4a4:g32,fc2.input=int8:g32,special.down_proj.input=none")
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "input", "fc2")) == "int8:g32"
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "input", "fc1")) == "int4:g32"
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "input")) == "int4:g32"
    assert str(recipe.spec_for("model.layers.0.mlp.down_proj", "weight", "fc2")) == "int4:g32"
    assert recipe.spec_for("model.special.down_proj", "input", "fc2") is None


@pytest.mark.parametrize("name", PRESETS)
def test_every_ready_made_name_is_a_recipe_that_its_quantizers_serve(name):
    for span in (":g32", ":g256", ":channel") if PRESETS[name].takes_span else ("",):
        recipe = Recipe.parse(name + span)
        recipe.check()
        assert Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w4a4-fc2a8:g128", "w4a4:g128,fc2.input=int8:g128"),
        ("chen2025-w4a4:g128", "w4a4:g128@chen2025"),
        ("chen2025-w4a4:g256", "w4a4:g256@chen2025,q=absmax/lac"),
        ("quest-w4a4,kv=int4:g32", "w4a4:channel,rot=hadamard:128,q=quest,kv=int4:g32"),
        ("mxfp4", "w=mxfp4,a=mxfp4"),
    ],
)
def test_name_stands_for_this_recipe(name, text):
    assert str(Recipe.parse(name)) == text


@pytest.mark.parametrize(
    ("text", "width", "block"),
    [
        ("hadamard:128", 256, 128),
        ("hadamard:128", 96, 32),
        ("hadamard:128", 64, 64),
        ("hadamard:full", 96, 32),
        ("hadamard:full", 64, 64),
        ("hadamard:12", 24, 8),
    ],
)
def test_rotation_takes_the_block_asked_for_or_the_largest_power_of_two_that_divides(text, width, block):
    assert Rotation.parse(text).block_for(width) == block


def test_rotation_of_an_odd_width_is_refused():
    with pytest.raises(SpecError, match="axis of 33 elements has no even block"):
        Rotation.parse("hadamard:128").block_for(33)


def test_kept_blocks():
    kept = {keep: Recipe.parse(f"w4a4:g32,keep={keep}").kept_blocks(5) for keep in ("first", "first+last")}
    assert kept == {"first": {0}, "first+last": {0, 4}}
    assert Recipe.parse("w4a4:g32").kept_blocks(5) == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a4:g32,anneal=0.1", "needs weights of quantizer 'statsq'; add q=statsq/absmax"),
        ("w16a4:g32,q=statsq/lsq,anneal=0.1", "needs weights"),
        ("w4a4:g32,q=statsq/lsq,rot=hadamard:32,anneal=0.1", "rotated basis"),
    ],
)
def test_annealing_that_cannot_be_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        Recipe.parse(text).check()


def test_annealing_goes_with_the_weights():
    recipe = Recipe.parse("ofq-w4a4:g32,anneal=0.10:0.005")
    assert str(recipe) == "w4a4:g32,q=statsq/lsq,anneal=0.1"
    assert str(recipe.only("weight")) == "w4a16:g32,q=statsq/lsq,anneal=0.1"
    assert str(recipe.only("input")) == "w16a4:g32,q=statsq/lsq"
    assert str(recipe.without_input_of("o")) == "w4a4:g32,q=statsq/lsq,anneal=0.1,o.input=none"
    recipe.check()
