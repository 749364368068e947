"""Bytes: published sizes, sums by hand, and parts that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qscale.errors import ConfigError
from qscale.formats import QuantSpec, Recipe
from qscale.planning import Architecture, Serving, activation_bytes, cache_bytes, footprint

GIB = 2**30


@pytest.mark.parametrize(
    ("recipe", "zero_bits", "gib"),
    [("w=int4:g128:asym", None, 3.62), ("w=int2:g64:asym", None, 2.21), ("w=int4:g128:asym", 16, 3.69),
     ("w=int2:g64:asym", 16, 2.37)],
)  # fmt: skip
def test_llama_2_7b_has_the_sizes_of_the_facts(llama, recipe, zero_bits, gib):
    found = footprint(llama, recipe, Serving(zero_bits=zero_bits))
    assert round(found.total / GIB, 2) == gib
    printed = {"int4": 3.7, "int2": 2.3}[recipe[2:6]]  # of a README whose GB lie between GB and GiB
    assert abs(found.total / 1e9 / printed - 1) < 0.07 or abs(found.total / GIB / printed - 1) < 0.07


@given(
    st.sampled_from(["w4a16:g32", "w3a3:g128", "w8a8:channel", "w=mxfp4", "w=nvfp4,a=nvfp4", "w=nf4:g64",
                     "w=int4:g64:asym", "w16a4:g32", "w=fp8_e4m3:tensor", "w4a4:g32,fc2.weight=int8:g32",
                     "w4a4:g32,keep=first+last", "w4a16:g32,layers.1.mlp.up_proj.weight=none"]),
    st.sampled_from([1e7, 3e8, 2e9]),
)  # fmt: skip
def test_weights_are_counted_matrix_by_matrix(text, size):
    from qscale.planning import weight_bytes

    shape, recipe = Architecture.typical(size), Recipe.parse(text)
    total = 2 * (shape.tables + shape.others)
    for block, name, matrix in shape.layers():
        spec = recipe.spec_for(name, "weight", matrix.role)
        if block in recipe.kept_blocks(shape.blocks):
            spec = None
        total += weight_bytes(spec, (matrix.outputs, matrix.inputs)).total
    assert footprint(shape, text).total == total


def test_a_model_in_16_bits_takes_two_bytes_a_parameter(llama):
    assert footprint(llama, None).total == 2 * llama.N_total
    assert footprint(llama, "w16a4:g32").total == 2 * llama.N_total


def test_the_cache_has_a_key_and_a_value_of_every_head_and_token(llama):
    elements = 2 * 32 * 32 * 128 * 4096
    assert cache_bytes(llama, None, context=4096) == 2 * elements
    assert cache_bytes(llama, "int8:token", context=4096) == elements + 2 * elements // 128
    assert cache_bytes(llama, "int4:g32", context=4096, batch=3) == 3 * (elements // 2 + 2 * elements // 32)
    assert cache_bytes(llama, None, context=0) == 0


def test_the_cache_of_a_recipe_gives_way_to_the_one_that_is_asked_for(llama):
    used = Serving(context=128)
    assert footprint(llama, "w4a4:g32,kv=int4:g32", used).cache == cache_bytes(llama, "int4:g32", context=128)
    asked = Serving(context=128, kv=QuantSpec.parse("int8:token"))
    assert footprint(llama, "w4a4:g32,kv=int4:g32", asked).cache == cache_bytes(
        llama, "int8:token", context=128
    )


def test_parts_add_up(llama):
    found = footprint(llama, "w=nvfp4,a=nvfp4", Serving(context=99, batch=2, tokens_at_once=7, overhead=5))
    parts = found.to_json()
    assert parts["total"] == found.total == sum(parts.values()) - parts["total"]
    assert parts["activations"] == activation_bytes(llama, 7, 2) > 0 and parts["overhead"] == 5


def test_numbers_that_make_no_sense_are_refused():
    for wrong in ({"context": -1}, {"overhead": -1}, {"tokens_at_once": -1}, {"batch": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Serving(**wrong)
