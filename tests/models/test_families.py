"""Every family: counts against the real model, first weights, quantized layers, and a short training run."""

import numpy as np
import pytest
import torch
from run_configs import run_config
from torch import nn

from qscale.data import corpus as corpora
from qscale.errors import ConfigError
from qscale.models.families import FAMILIES, build, family_of
from qscale.models.ladder import ModelShape, shape_of
from qscale.models.surgery import quantize_model
from qscale.quantizers import QuantLinear
from qscale.training import loop, paths

BASE = {"intermediate_size": 96, "num_layers": 3, "num_heads": 4, "num_kv_heads": 4, "vocab_size": 300}
SHAPES = {
    **{f"{name}-plain": {"family": name, "hidden_size": 64} for name in FAMILIES},
    **{f"{name}-tied": {"family": name, "hidden_size": 32, "tie_embeddings": True} for name in FAMILIES},
    "llama-gqa": {"family": "llama", "hidden_size": 64, "num_kv_heads": 2},
    "llama-heads": {"family": "llama", "hidden_size": 24, "num_heads": 3, "num_kv_heads": 3, "head_dim": 12},
    "qwen3-gqa-heads": {"family": "qwen3", "hidden_size": 50, "num_kv_heads": 1, "head_dim": 20},
    "opt-positions": {"family": "opt", "hidden_size": 48, "max_positions": 77},
}
NAMED = ("paper-2.8b", "pythia-12b", "pythia-14m", "opt-13b", "opt-125m", "qwen3-0.6b", "qwen3-14b")
ALL = {
    **{name: ModelShape(**{**BASE, **fields}) for name, fields in SHAPES.items()},
    **{name: shape_of(name) for name in NAMED},
}


def on_meta(shape):
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(family_of(shape.family).config(shape, 64))


@pytest.mark.parametrize("shape", ALL.values(), ids=ALL)
def test_counts_are_those_of_the_real_model(shape):
    model = on_meta(shape)
    total = sum(p.numel() for p in model.parameters())
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings().weight
    tables[id(head)] = head.numel()
    assert (shape.N, shape.N_total) == (total - sum(tables.values()), total)


@pytest.mark.parametrize("shape", ALL.values(), ids=ALL)
def test_linears_are_those_of_each_real_block(shape):
    model = on_meta(shape)
    blocks = model.get_submodule(family_of(shape.family).blocks)
    assert len(blocks) == shape.num_layers
    declared = {x.name: (x.inputs, x.outputs, x.bias) for x in shape.linears()}
    for block in (blocks[0], blocks[-1]):
        found = {
            name: (m.in_features, m.out_features, m.bias is not None)
            for name, m in block.named_modules()
            if isinstance(m, nn.Linear)
        }
        assert found == declared
    inside = sum(isinstance(m, nn.Linear) for m in blocks.modules())
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == inside + 1, "and the head"


@pytest.fixture(params=FAMILIES)
def shape(request):
    return shape_of(f"tiny-20k-{request.param}")


def test_quantize_model_finds_the_linears_of_the_blocks_and_no_others(shape):
    model = build(shape, context=16, seed=0)
    replaced = quantize_model(model, "w4a4:g32")
    blocks = family_of(shape.family).blocks
    expected = {f"{blocks}.{i}.{x.name}" for i in range(shape.num_layers) for x in shape.linears()}
    assert set(replaced) == expected
    assert {name for name, m in model.named_modules() if isinstance(m, QuantLinear)} == expected
    assert {shape.role(name) for name in replaced} == {"qkv", "o", "fc1", "fc2"}


def test_first_weights_depend_on_the_seed_and_not_on_threads(shape):
    before = torch.get_num_threads()
    models = []
    try:
        for threads, seed in ((1, 0), (2, 0), (1, 1)):
            torch.set_num_threads(threads)
            torch.manual_seed(threads)
            models.append(build(shape, context=16, seed=seed))
    finally:
        torch.set_num_threads(before)
    one, two, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) == (one[name].ndim == 1) for name in one)


def test_first_weights_have_the_deviations_of_the_rule(shape):
    model = build(shape, context=16, seed=0)
    writers = {"llama": 64, "qwen3": 64, "gpt_neox": 96, "opt": 96}[shape.family]
    seen = set()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == (0 if name.endswith("bias") else 1)).all(), name
            continue
        last = name.split(".")[-2]
        if "embed" in last:
            wanted = 0.02
        elif last in ("o_proj", "out_proj", "dense"):
            wanted = 32**-0.5 / 2
        elif last in ("down_proj", "fc2", "dense_4h_to_h"):
            wanted = writers**-0.5 / 2
        else:
            wanted = 32**-0.5
        seen.add(wanted)
        assert p.std().item() == pytest.approx(wanted, rel=0.12), name
    assert len(seen) == 4


def test_no_dropout_and_no_token_is_padding(shape):
    model = build(shape, context=16, seed=0)
    tokens = torch.arange(16)[None]
    one, two = (model(input_ids=tokens, use_cache=False).logits for _ in range(2))
    assert model.training
    assert torch.equal(one, two)
    one.sum().backward()
    table = model.get_input_embeddings().weight.grad
    assert (table[:16].abs().sum(1) > 0).all()


def test_gpt_neox_adds_attention_and_ffn_to_the_same_stream():
    model = build(shape_of("tiny-20k-gpt_neox"), context=16, seed=0)
    block = model.gpt_neox.layers[0]
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    angles = model.gpt_neox.rotary_emb(x, torch.arange(5)[None])
    assert angles[0].shape[-1] == 8, "a quarter of the 32 features of a head"
    with torch.no_grad():
        block.attention.dense.weight.zero_()
        expected = x + block.mlp(block.post_attention_layernorm(x))
        out = block(x, attention_mask=None, position_embeddings=angles)
        torch.testing.assert_close(out[0] if isinstance(out, tuple) else out, expected)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = ["group", "scale", "round", "code", "bits", "clip", "loss"]
    rng = np.random.default_rng(0)
    (folder / "text.txt").write_text("\n".join(" ".join(rng.choice(words, 9)) for _ in range(9000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSCALE_CACHE", str(folder / "cache"))
        return corpora.load(f"file:{folder / 'text.txt'}")


def test_each_family_trains_and_its_w4a4_branch_too(shape, corpus, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fields = {
        "model": shape,
        "corpus_sha256": corpus.sha256,
        "tokens": 60 * 256,
        "batch_sequences": 4,
        "context": 64,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "eval_windows": 16,
    }
    plain, quantized = (
        run_config(**fields),
        run_config(**fields, mode="cooldown", recipe="w4a4:g32"),
    )
    try:
        assert loop.run_trunk(plain, [plain.branch_step], tmp_path / "trunk", corpus)
        baseline = loop.run_branch(plain, tmp_path / "plain", tmp_path / "trunk", corpus)
        losses = paths.eval_losses(tmp_path / "plain")
        pair = {"baseline": baseline, "baseline_losses": losses}
        record = loop.run_branch(quantized, tmp_path / "w4a4", tmp_path / "trunk", corpus, **pair)
    finally:
        torch.set_num_threads(threads)
    assert baseline.loss < np.log(256) - 2, "learned"
    assert (record.N, record.N_total) == (shape.N, shape.N_total)
    assert np.isfinite(record.delta) and record.delta != 0
    assert record.config["model"]["family"] == shape.family


def test_a_context_beyond_the_learned_positions_is_refused():
    shape = ModelShape(**{**BASE, "family": "opt", "hidden_size": 64, "max_positions": 64})
    assert run_config(model=shape, context=64, tokens=6400).model.longest_context == 64
    with pytest.raises(ConfigError, match="context=128: opt learns 64 positions"):
        run_config(model=shape)


def test_an_unknown_family_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'gpt_neox'\? known: llama, qwen3, gpt_neox, opt"):
        family_of("gpt-neo")
