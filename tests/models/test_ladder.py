"""Parameter counts against hand counts and published ones, and group lengths by recipe."""

import json
from dataclasses import replace

import pytest

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.families import FAMILIES
from qscale.models.ladder import LADDERS, SIZES, ModelShape, name_of, shape_of
from qscale.units import parse_count


def test_n_of_the_smallest_size_by_hand():
    # Q K V O are 32 x 32, gate up down are 32 x 64, two norms in each of two blocks and one at the end
    assert shape_of("tiny-20k").N == 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32 == 20640
    assert shape_of("tiny-20k").N_total == 20640 + 2 * 256 * 32


def test_n_with_grouped_query_attention_and_tied_embeddings_by_hand():
    shape = ModelShape(
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        vocab_size=100,
        tie_embeddings=True,
    )
    block = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96 + 2 * 64
    assert (shape.N, shape.N_total) == (3 * block + 64, 3 * block + 64 + 100 * 64)


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        ("74m", 74_317_824),
        ("145m", 144_703_488),
        ("297m", 297_271_296),
        ("595m", 594_542_592),
        ("973m", 973_078_528),
        ("2.8b", 2_818_572_288),
    ],
)
def test_linear_weights_of_the_shapes_of_arxiv_2505_14302(size, weights):
    assert shape_of(f"paper-{size}").n_linear == weights


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("70m", 18_915_328),
        ("160m", 85_056_000),
        ("410m", 302_311_424),
        ("1b", 805_736_448),
        ("1.4b", 1_208_602_624),
        ("2.8b", 2_517_652_480),
        ("6.9b", 6_444_163_072),
        ("12b", 11_327_027_200),
    ],
)
def test_n_of_pythia_is_the_published_one(size, published):
    assert published == shape_of(f"pythia-{size}").N


def test_totals_of_released_models_are_the_published_ones():
    assert shape_of("pythia-70m").N_total == 70_426_624
    assert shape_of("opt-125m").N_total == 125_239_296
    billions = {size: round(shape.N / 1e9, 2) for size, shape in LADDERS["qwen3"].items()}
    assert billions == {"0.6b": 0.44, "1.7b": 1.41, "4b": 3.63, "8b": 6.95, "14b": 13.21}


def test_tiny_ladder_spans_twenty_thousand_to_five_million_and_its_names_give_n():
    counts = [shape.N for shape in LADDERS["tiny"].values()]
    assert counts == sorted(counts)
    assert counts[-1] == 10 * (10 * 224**2 + 2 * 224) + 224
    for name, n in zip(LADDERS["tiny"], counts, strict=True):
        assert parse_count(name) == pytest.approx(n, rel=0.04)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", LADDERS["tiny"])
def test_tiny_sizes_keep_their_linear_weights_in_every_family(size, family):
    shape = shape_of(f"tiny-{size}-{family}")
    assert shape.family == family
    assert shape.n_linear == shape_of(f"tiny-{size}").n_linear
    assert name_of(shape) == (f"tiny-{size}" if family == "llama" else f"tiny-{size}-{family}")


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_has_its_name_and_survives_json(name):
    assert name_of(SIZES[name]) == name
    assert ModelShape.from_json(json.loads(json.dumps(SIZES[name].to_json()))) == SIZES[name]


def test_options_that_say_what_the_family_does_anyway_change_no_shape():
    plain = shape_of("tiny-20k")
    told = replace(plain, head_dim=32, rope_theta=10_000, norm_eps=1e-6)
    assert told == plain
    assert told.to_json() == {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 1,
        "num_kv_heads": 1,
        "vocab_size": 256,
        "tie_embeddings": False,
        "family": "llama",
    }
    assert replace(plain, rope_theta=5e5).to_json()["rope_theta"] == 5e5


def test_values_that_families_stand_for_are_pinned():
    # Ids leave them out: another value needs another NUMERICS_VERSION.
    assert {name: dict(family.options) for name, family in FAMILIES.items()} == {
        "llama": {"head_dim": None, "rope_theta": 10_000, "norm_eps": 1e-6},
        "qwen3": {"head_dim": None, "rope_theta": 10_000, "norm_eps": 1e-6},
        "gpt_neox": {"rope_theta": 10_000, "norm_eps": 1e-5},
        "opt": {"max_positions": 2048},
    }


@pytest.mark.parametrize(
    ("size", "layer", "role"),
    [
        ("tiny-20k", "model.layers.1.self_attn.k_proj", "qkv"),
        ("tiny-20k", "mlp.gate_proj", "fc1"),
        ("tiny-20k-qwen3", "model.layers.0.self_attn.o_proj", "o"),
        ("tiny-20k-gpt_neox", "gpt_neox.layers.0.attention.query_key_value", "qkv"),
        ("tiny-20k-gpt_neox", "gpt_neox.layers.0.attention.dense", "o"),
        ("tiny-20k-gpt_neox", "mlp.dense_4h_to_h", "fc2"),
        ("tiny-20k-opt", "model.decoder.layers.0.self_attn.out_proj", "o"),
        ("tiny-20k-opt", "model.decoder.layers.0.fc1", "fc1"),
    ],
)
def test_role_of_a_layer(size, layer, role):
    assert shape_of(size).role(layer) == role


@pytest.mark.parametrize("layer", ["lm_head", "q_proj_x", "", "model.layers.0", "xmlp.down_proj"])
def test_role_of_no_linear_layer_is_an_error(layer):
    with pytest.raises(ConfigError, match="is no linear layer of a llama block"):
        shape_of("tiny-20k").role(layer)


def test_attention_flops_follow_the_heads_where_they_are_not_the_width():
    shape = shape_of("qwen3-0.6b")  # 16 heads of 128 on a width of 1024
    linear = 28 * (1024 * 2048 + 2 * 1024 * 1024 + 2048 * 1024 + 3 * 1024 * 3072)
    assert shape.flops_per_token(512) == 6 * (linear + 151_936 * 1024 + 28 * 2048 * 512)


@pytest.mark.parametrize(("recipe", "expected"), [("w4a4:g16", 16), ("w4a16:g32", 32), ("w4a4:g1000", None)])
def test_group_length_of_the_weight(recipe, expected):
    shape = shape_of("tiny-20k")
    # one group where the group is longer than the axis: mean of in_features, weighted by parameters
    mean = (4 * 1024 * 32 + 2 * 2048 * 32 + 2048 * 64) / (4 * 1024 + 3 * 2048)
    assert shape.group_length(Recipe.parse(recipe), "weight") == pytest.approx(expected or mean)


def test_group_length_of_a_channel_is_the_weighted_mean_of_in_features():
    shape = shape_of("tiny-20k")
    channel, token = (shape.group_length(Recipe.parse("w4a4:channel"), side) for side in ("weight", "input"))
    assert channel == token == pytest.approx(38.4)


def test_group_length_where_nothing_has_one_is_none():
    shape = shape_of("tiny-20k")
    assert shape.group_length(Recipe.parse("w4a16:g32"), "input") is None
    assert shape.group_length(Recipe.parse("w=int4:tensor"), "weight") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_heads": 3}, "whole, even number"),
        ({"num_heads": 4, "num_kv_heads": 3}, "must divide"),
        ({"family": "lama"}, "unknown family 'lama'; did you mean 'llama'"),
        ({"hidden_size": 32.0}, "positive whole sizes"),
        ({"vocab_size": None}, "positive whole sizes"),
        ({"num_heads": 3, "num_kv_heads": 3, "head_dim": 8}, "whole, even number"),
        ({"num_layers": True}, "positive whole sizes"),
        ({"tie_embeddings": 1}, "true or false"),
        ({"rope_theta": float("nan")}, "positive numbers"),
        ({"norm_eps": "small"}, "positive numbers"),
        ({"head_dim": 33}, "head_dim=33: the size of a head must be a whole, even number"),
        ({"max_positions": 64}, "llama has no such option; it has head_dim, rope_theta, norm_eps"),
        ({"family": "opt", "rope_theta": 1e6}, "opt has no such option; it has max_positions"),
        ({"family": "gpt_neox", "head_dim": 64}, "gpt_neox has no such option"),
        ({"family": "gpt_neox", "num_heads": 2, "num_kv_heads": 1}, "gpt_neox has no grouped queries"),
        ({"family": "gpt_neox", "num_heads": 8, "num_kv_heads": 8}, "so must the 0.25 of it that rotates"),
    ],
)
def test_shape_that_cannot_be_says_which_field(change, message):
    with pytest.raises(ConfigError, match=message):
        ModelShape.from_json({**SIZES["tiny-20k"].to_json(), **change})


def test_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny-20k'"):
        shape_of("tiny-20")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-20k-qwen", "unknown family 'qwen'; did you mean 'qwen3'"),
        ("tiny-20k-gpt-neox", "unknown model size"),
        ("pythia-70m-llama", "makes no whole width"),
        ("paper-74m-opt", "opt has no such option"),
        ("none.json", "cannot read the model configuration none.json"),
    ],
)
def test_size_that_cannot_be_says_why(name, message):
    with pytest.raises(ConfigError, match=message):
        shape_of(name)
