"""Parameter counts against hand counts, and group lengths by recipe."""

import pytest

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.ladder import SIZES, ModelShape, shape_of


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
    ("millions", "layers", "hidden", "ffn", "heads", "kv"),
    [
        (74.317824, 12, 768, 2048, 16, 4),
        (144.703488, 12, 1024, 3072, 16, 4),
        (297.271296, 12, 1536, 4096, 24, 6),
        (594.542592, 24, 1536, 4096, 24, 6),
        (973.078528, 16, 2048, 8192, 32, 8),
        (2818.572288, 28, 3072, 8192, 24, 8),
    ],
)
def test_n_linear_of_the_shapes_of_arxiv_2505_14302(millions, layers, hidden, ffn, heads, kv):
    shape = ModelShape(
        hidden_size=hidden, intermediate_size=ffn, num_layers=layers, num_heads=heads, num_kv_heads=kv
    )
    assert shape.n_linear == round(millions * 1e6)


def test_tiny_ladder_spans_twenty_thousand_to_a_million():
    counts = [shape.N for shape in SIZES.values()]
    assert counts == sorted(counts)
    assert counts[0] < 21_000
    assert counts[-1] > 980_000


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
        ({"family": "lama"}, "unknown family 'lama'"),
    ],
)
def test_shape_that_cannot_be_says_which_field(change, message):
    with pytest.raises(ConfigError, match=message):
        ModelShape.from_json({**SIZES["tiny-20k"].to_json(), **change})


def test_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tiny-20k'"):
        shape_of("tiny-20")
