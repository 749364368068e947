"""Shapes from a config.json: as transformers writes it, and what is refused."""

import json

import pytest

from qscale.errors import ConfigError
from qscale.models.families import FAMILIES
from qscale.models.ladder import ModelShape, shape_of

LLAMA = {  # as Llama 2 wrote it: no num_key_value_heads, no rope_theta
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
}
PYTHIA = {  # as Pythia 70M wrote it
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
OPT = {  # as OPT 125M wrote it
    "model_type": "opt",
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
QWEN3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


@pytest.fixture
def read(tmp_path):
    def from_data(data):
        path = tmp_path / "config.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return shape_of(str(path))

    return from_data


@pytest.mark.parametrize(("data", "size"), [(PYTHIA, "pythia-70m"), (OPT, "opt-125m"), (QWEN3, "qwen3-0.6b")])
def test_files_of_released_models_are_their_named_sizes(read, data, size):
    assert read(data) == shape_of(size)


def test_llama_without_keys_that_came_later(read):
    assert read(LLAMA) == ModelShape(
        hidden_size=64,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        vocab_size=300,
        norm_eps=1e-5,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes_for_a_shape_reads_back_as_that_shape(tmp_path, family):
    shape = shape_of(f"tiny-46k-{family}")
    config = FAMILIES[family].config(shape, 2048)
    config.to_json_file(tmp_path / "config.json", use_diff=False)
    assert shape_of(str(tmp_path / "config.json")) == shape


@pytest.mark.parametrize("size", ["paper-74m", "qwen3-8b"])
def test_options_and_grouped_queries_read_back_too(tmp_path, size):
    shape = shape_of(size)
    FAMILIES[shape.family].config(shape, 2048).to_json_file(tmp_path / "config.json", use_diff=False)
    assert shape_of(str(tmp_path / "config.json")) == shape


V5 = {"rope_theta": 5e5, "rope_type": "default"}
REFUSED = {
    "model-type": ({**LLAMA, "model_type": "mistral"}, "unknown family 'mistral'; known: llama"),
    "no-model-type": ({}, "it has no model_type"),
    "not-a-mapping": ([1], "it has no model_type"),
    "type-of-model-type": ({"model_type": ["llama"]}, "unknown family"),
    "not-json": ("{", "it is not JSON"),
    "missing": ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "the key 'vocab_size' is missing"),
    "text": ({**LLAMA, "hidden_size": "64"}, "hidden_size='64' is not a whole number"),
    "fraction": ({**LLAMA, "hidden_size": 64.5}, "hidden_size=64.5 is not a whole number"),
    "epsilon": ({**LLAMA, "rms_norm_eps": "small"}, "rms_norm_eps='small' is not a number"),
    "heads": ({**LLAMA, "num_attention_heads": 5}, "the size of a head must be a whole, even number"),
    "tie": ({**LLAMA, "tie_word_embeddings": "yes"}, "tie_word_embeddings='yes' is not true or false"),
    "activation": ({**LLAMA, "hidden_act": "gelu"}, "hidden_act='gelu': llama here has 'silu'"),
    "biases": ({**LLAMA, "attention_bias": True}, "attention_bias=True: llama here has False"),
    "llama3-rope": ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "are scaled"),
    "old-rope": ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}, "are scaled"),
    "new-rope": ({**LLAMA, "rope_parameters": {**V5, "rope_type": "yarn"}}, "are scaled"),
    "rope-by-layer": ({**LLAMA, "rope_parameters": {"full_attention": V5}}, "are scaled"),
    "rope-text": ({**LLAMA, "rope_scaling": "linear"}, "is not a mapping"),
    "partial": ({**LLAMA, "partial_rotary_factor": 0.5}, "turn 0.5 of a head; llama here turns 1.0"),
    "quantized": ({**LLAMA, "quantization_config": {"bits": 4}}, "before it was quantized"),
    "whole-rotary": ({**PYTHIA, "rotary_pct": 1.0}, "turn 1.0 of a head; gpt_neox here turns 0.25"),
    "serial": ({**PYTHIA, "use_parallel_residual": False}, "use_parallel_residual=False"),
    "no-biases": ({**PYTHIA, "attention_bias": False}, "attention_bias=False"),
    "post-norm": ({**OPT, "do_layer_norm_before": False}, "do_layer_norm_before=False"),
    "narrow": ({**OPT, "word_embed_proj_dim": 512}, "word_embed_proj_dim=512"),
    "sliding": ({**QWEN3, "use_sliding_window": True}, "use_sliding_window=True"),
    "sliding-layers": ({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
    "no-head-dim": ({k: v for k, v in QWEN3.items() if k != "head_dim"}, "the key 'head_dim' is missing"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_shape_cannot_say_is_refused_in_one_line_with_the_file(read, data, message):
    with pytest.raises(ConfigError) as caught:
        read(data)
    assert message in str(caught.value)
    assert "config.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_plain_rotary_positions_of_either_version_give_one_shape(read):
    old, new = read({**LLAMA, "rope_theta": 500000}), read({**LLAMA, "rope_parameters": V5})
    assert old == new and old.rope_theta == 5e5
