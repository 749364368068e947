"""Parameters of an architecture are those of the real model, and a typical shape is near its size."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qscale.errors import ConfigError
from qscale.models.ladder import SIZES
from qscale.planning import Architecture

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "vocab_size": 320}
CONFIGS = {
    "llama": GROUPED,
    "llama-biases": {**GROUPED, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {**GROUPED, "model_type": "llama", "tie_word_embeddings": True},
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 32},
    "olmo2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 32},
    "phi3": {**GROUPED, "pad_token_id": 0},
    "gpt_neox": {**SMALL, "vocab_size": 320},
    "opt": {
        **SMALL,
        "ffn_dim": 256,
        "vocab_size": 320,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 40,
    },
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 3, "vocab_size": 320, "n_positions": 40},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_real_model(name, tmp_path):
    kind = CONFIGS[name].get("model_type", name)
    values = {key: value for key, value in CONFIGS[name].items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(kind, **values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    found = Architecture.from_config(tmp_path)
    assert found.N_total == sum(p.numel() for p in model.parameters())
    embeddings = (torch.nn.Embedding,)
    tables = {id(p): p.numel() for m in model.modules() if isinstance(m, embeddings) for p in m.parameters()}
    head = model.get_output_embeddings().weight
    assert found.tables == sum((tables | {id(head): head.numel()}).values())
    linears = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    weights = sum(m.weight.numel() for m in linears if m.weight is not head)
    assert found.n_linear == weights
    names = {name.split(".", 1)[1] for name, _ in model.named_modules() if "." in name}
    for _, layer, _ in found.layers():
        assert any(layer.split(".", 1)[1] in name for name in names), layer


@pytest.mark.parametrize("name", ["paper-595m", "pythia-1b", "opt-1.3b", "qwen3-0.6b"])
def test_the_runner_and_the_planner_count_alike(name, tmp_path):
    shape = SIZES[name]
    from qscale.models.families import family_of

    family_of(shape.family).config(shape, 2048).save_pretrained(tmp_path)
    found = Architecture.from_config(tmp_path / "config.json")
    assert (found.N, found.N_total, found.n_linear) == (shape.N, shape.N_total, shape.n_linear)
    assert found.kv_heads == shape.num_kv_heads and found.head_size == shape.head_size


@given(st.floats(1e6, 1e13), st.sampled_from([0.125, 0.25, 1.0]))
def test_a_typical_shape_has_about_the_size_that_was_asked_for(size, share):
    found = Architecture.typical(size, kv_share=share)
    assert abs(found.N / size - 1) < (0.2 if size > 1e8 else 0.5)
    assert found.is_typical and found.head_size * found.kv_heads <= found.hidden


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": None}, "known: gemma2"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"hidden_size": "64"}, "hidden_size='64' is not a whole positive number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"tie_word_embeddings": "no"}, "is not true or false"),
    ],
)
def test_a_configuration_that_cannot_be_counted_says_why(change, message):
    with pytest.raises(ConfigError, match=message):
        Architecture.from_config({"model_type": "llama", **GROUPED, **change})


def test_files_that_are_no_configuration_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the model configuration"):
        Architecture.from_config(tmp_path / "none.json")
    for text, message in (("[]", "no object"), ("{", "not JSON"), ("[" * 10_000, "not JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            Architecture.from_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **GROUPED}))
    assert Architecture.from_config(tmp_path).name == tmp_path.name


def test_sizes_that_are_no_sizes_are_refused():
    for bad in (0, 1e5, float("nan"), float("inf"), -1e9):
        with pytest.raises(ConfigError, match="typical shape"):
            Architecture.typical(bad)
