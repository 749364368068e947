"""Keys and values of whole models: where they are stored, what stays, what a pass says."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ptq.trained import loss, trained, windows
from ptq.uneven import TOKENS, logits, make
from transformers import AutoModelForCausalLM

from qscale.cli import main
from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.kernels import fake_quant
from qscale.models.attention import Recent
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.models.surgery import quantize_model
from qscale.ptq import saving
from qscale.ptq.cache.rotary import BeforeRotary
from qscale.ptq.methods import Method
from qscale.ptq.run import ptq_recipe, quantize_trained

FAMILIES = ("llama", "qwen3", "gpt_neox", "opt")
METHODS = (
    "kv",
    "kv(spec=int3:g8:asym,values=nf4:g8)",
    "kv(spec=int4:channel:asym,values=int4:token,keys=channel)",
    "kv(spec=int4:g8,keys=channel,recent=3)",
    "kv(rotation=before,recent=2)",
    "kv(rotation=after,keys=channel)",
    "qjl(outliers=2)",
    "turboquant",
    "turboquant(sketch=both,bits=2)",
    "turboesm",
)


def grouped():
    """Four heads of queries, two of keys."""
    shape = replace(shape_of("tiny-82k"), num_heads=4, num_kv_heads=2)
    return build(shape, context=32, seed=0).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_stores_keys_and_values_and_changes_nothing_else(family, method):
    model = make(family)
    before, weights = logits(model), copy.deepcopy(model.state_dict())
    report = quantize_trained(model, "w16a16", method, TOKENS)
    after = logits(model)
    assert 0 < float((after - before).square().mean()) < 0.6 * float(before.square().mean())
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert [cache.attention.rpartition(".")[2] for cache in report.caches] == [
        "attention" if family == "gpt_neox" else "self_attn"
    ] * 2
    assert all(0 < c.relmse_keys < 0.4 and 0 < c.relmse_values < 0.4 and c.relmse > 0 for c in report.caches)
    assert report.layers == () and report.bits_per_weight is None and report.recipe == "w16a16"


@pytest.mark.parametrize("method", METHODS)
def test_no_token_sees_those_after_it(method):
    """What stores keys may use no number of tokens that a cache does not have yet."""
    model = grouped()
    quantize_trained(model, "w16a16", method, TOKENS)
    other = TOKENS[:4].copy()
    other[:, 20:] = 255 - other[:, 20:]
    first, second = logits(model), logits(model, other)
    torch.testing.assert_close(first[:, :20], second[:, :20], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first[:, 20:], second[:, 20:])


@pytest.mark.parametrize("spec", ["int4:token", "int4:g8:asym", "nf4:g16", "mxfp4"])
def test_kv_by_token_has_the_bits_of_the_recipe_exact(spec):
    by_recipe, by_step = grouped(), grouped()
    quantize_model(by_recipe, f"kv={spec}")
    quantize_trained(by_step, None, f"kv(spec={spec})", TOKENS)
    assert torch.equal(logits(by_recipe), logits(by_step))


def _key_before_rotary(model, family):
    """Where keys are computed, and how to make ``(batch, heads, tokens, size)`` of what is found there."""
    block = model.get_submodule("gpt_neox.layers.0" if family == "gpt_neox" else "model.layers.0")
    if family == "gpt_neox":
        return block.attention, block.attention.query_key_value, lambda x: _heads(x, 96)[..., 32:64]
    if family == "qwen3":
        return block.self_attn, block.self_attn.k_norm, lambda x: x.transpose(1, 2)
    return block.self_attn, block.self_attn.k_proj, lambda x: _heads(x, 32)


def _heads(x, size):
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_before_the_rotary_embedding_keys_are_those_that_the_model_computes(family):
    model = make(family)
    quantize_trained(model, "w16a16", "kv(rotation=before)", TOKENS)
    attention, source, heads = _key_before_rotary(model, family)
    seen = {}
    attention.kv_quantizers["key"].coder.register_forward_pre_hook(
        lambda _, args: seen.update(stored=args[0])
    )
    source.register_forward_hook(lambda _, __, out: seen.update(made=heads(out)))
    logits(model)
    assert isinstance(attention.kv_quantizers["key"], BeforeRotary)
    torch.testing.assert_close(seen["stored"], seen["made"], rtol=1e-4, atol=1e-5)


def test_without_a_rotary_embedding_before_is_after():
    models = [make("opt") for _ in range(2)]
    for model, where in zip(models, ("before", "after"), strict=True):
        report = quantize_trained(model, "w16a16", f"kv(rotation={where})", TOKENS)
        assert ("no rotary" in "".join(report.caches[0].notes)) is (where == "before")
    assert torch.equal(logits(models[0]), logits(models[1]))


def _attention_by_hand(q, k, v, rounded_k, rounded_v, tokens, group):
    """Query by query, key by key, in float64."""
    out = np.zeros_like(q)
    count = q.shape[0]
    for at in range(count):
        held = at + 1
        stored = {part: max(0, held - tokens) // g * g for part, g in (("k", group), ("v", 1))}
        keys = np.where((np.arange(held) < stored["k"])[:, None], rounded_k[:held], k[:held])
        values = np.where((np.arange(held) < stored["v"])[:, None], rounded_v[:held], v[:held])
        scores = keys @ q[at] / math.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max())
        out[at] = weights / weights.sum() @ values
    return out


@pytest.mark.parametrize(("tokens", "group"), [(0, 4), (3, 1), (5, 4), (100, 1)])
def test_queries_find_recent_keys_as_they_are_by_hand(tokens, group):
    model = grouped()
    quantize_trained(model, "w16a16", "kv", TOKENS)
    from qscale.models.attention import attention

    module = model.model.layers[0].self_attn
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 14, 16, generator=generator)
    k, v = (torch.randn(2, 2, 14, 16, generator=generator) for _ in range(2))
    module.kv_recent = {"key": Recent(tokens=tokens, group=group), "value": Recent(tokens=tokens)}
    got = attention(module, q, k, v, None, scaling=16**-0.5)[0]
    rounded = [fake_quant(x, "int4:token").double().numpy() for x in (k, v)]
    plain = [x.double().numpy() for x in (k, v)]
    for head in range(4):
        wanted = _attention_by_hand(
            q[1, head].double().numpy(),
            *(x[1, head // 2] for x in (*plain, *rounded)),
            tokens,
            group,
        )
        np.testing.assert_allclose(got[1, :, head].numpy(), wanted, rtol=1e-4, atol=1e-5)
    mask = torch.ones(14, 14, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(attention(module, q, k, v, mask, scaling=16**-0.5)[0], got)
    large = torch.zeros(1, 1, 14, 14).masked_fill(~mask, torch.finfo(torch.float32).min)
    torch.testing.assert_close(attention(module, q, k, v, large, scaling=16**-0.5)[0], got)


def test_what_needs_whole_sequences_refuses_a_cache():
    for method in ("kv(recent=2)", "kv(rotation=before)"):
        model = grouped()
        quantize_trained(model, "w16a16", method, TOKENS)
        with pytest.raises(ConfigError, match="without a cache"):
            model.generate(
                torch.from_numpy(TOKENS[:1, :8]), max_new_tokens=2, do_sample=False, use_cache=True
            )


def test_a_later_block_is_calibrated_on_the_stored_ones_before():
    model, by_hand = grouped(), grouped()
    method = "kv(spec=int2:channel:asym,values=int2:token:asym,keys=channel)"
    quantize_trained(model, "w16a16", method, TOKENS)
    quantize_trained(by_hand, "w16a16", method, TOKENS)
    del by_hand.model.layers[1].self_attn.kv_quantizers  # as it was when the second block was looked at
    seen = []
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:

        def spy(query, key, value, **options):
            seen.append(key)
            return sdpa(query, key, value, **options)

        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        logits(by_hand, TOKENS)
    keys = seen[1].view(len(TOKENS), -1, *seen[1].shape[2:])[:, :: seen[1].shape[1] // 2]
    low, high = keys.amin((0, 2)).clamp(max=0), keys.amax((0, 2)).clamp(min=0)
    found = model.model.layers[1].self_attn.kv_quantizers["key"].scale[..., 0]
    torch.testing.assert_close(found, (high - low) / 3, rtol=1e-4, atol=1e-6)


def test_a_step_for_a_cache_goes_with_all_that_rounds_weights():
    plain, both = grouped(), grouped()
    first = quantize_trained(plain, "w4a16:g32", "smoothquant+gptq", TOKENS)
    second = quantize_trained(both, "w4a16:g32", "smoothquant+gptq+kv(spec=int8:token)", TOKENS)
    assert first.layers == second.layers and first.caches == () and first.bits_per_kv is None
    assert second.bits_per_weight == 4.5 and second.bits_per_kv == 8 + 16 / 16
    assert 0 < float((logits(both) - logits(plain)).abs().max()) < 0.05 * float(logits(plain).abs().max())


def test_blocks_that_are_kept_keep_their_keys():
    model = grouped()
    report = quantize_trained(model, "w4a16:g32,keep=first", "kv", TOKENS)
    assert [cache.attention for cache in report.caches] == ["model.layers.1.self_attn"]
    assert not hasattr(model.model.layers[0].self_attn, "kv_quantizers")


def test_bits_count_norms_tables_and_recent_tokens():
    def bits(method):
        report = quantize_trained(grouped(), None, method, TOKENS)  # heads of 16, two of keys; 32 tokens
        return report.bits_per_kv, report.to_json()["bits_of_tables"]

    assert bits("kv(spec=int4:g8:asym)") == (4 + 20 / 8, 0)
    assert bits("qjl(bits=2,values=int3:token)") == ((2 + 16 / 16 + 3 + 16 / 16) / 2, 0)
    assert bits("turboquant(bits=3)") == ((3 + 32 / 16 + 3 + 16 / 16) / 2, 0)
    tables = (2 * 8 * 16 + 2 * 16 * 16 * 16) / (2 * 2 * 16 * 32)
    assert bits("turboesm") == (4 + 32 / 16 + tables, tables)
    tables = 2 * 16 * 16 / (2 * 2 * 16 * 32)
    assert bits("kv(spec=int4:token,keys=channel)") == ((4 + 4 + 1) / 2 + tables, tables)
    late = sum(min(held, 4) for held in range(1, 33)) / sum(range(1, 33))
    assert bits("kv(recent=4)")[0] == pytest.approx(late * 32 + (1 - late) * 5)


def test_a_pass_is_deterministic_and_copies_are_apart():
    models = [grouped(), grouped()]
    reports = [quantize_trained(model, "w16a16", "turboquant(bits=2)", TOKENS) for model in models]
    assert reports[0].to_json() == reports[1].to_json()
    assert torch.equal(logits(models[0]), logits(models[1]))
    rotated = grouped()
    quantize_trained(rotated, "w16a16", "kv(rotation=before)", TOKENS)
    wanted, other = logits(rotated), copy.deepcopy(rotated)
    logits(rotated, TOKENS[:2, :5])
    assert torch.equal(logits(other), wanted)


def test_events_tell_each_attention():
    events = []
    quantize_trained(grouped(), "w4a16:g32", "kv", TOKENS, emit=events.append)
    found = [e for e in events if e["event"] == "cache"]
    assert [e["block"] for e in found] == [0, 1] and found[0]["attention"] == "model.layers.0.self_attn"
    json.dumps(found, allow_nan=False)


def test_the_pass_moves_with_bfloat16_weights():
    for method in METHODS:
        model = grouped().to(torch.bfloat16)
        report = quantize_trained(model, "w16a16", method, TOKENS)
        assert all(0 < cache.relmse < 0.6 for cache in report.caches)
        assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("recipe", "method", "error", "message"),
    [
        ("w16a16", "gptq", ConfigError, "quantizes no layer, and method gptq no keys"),
        ("w16a16", "rtn", ConfigError, "add kv"),
        (None, "gptq+kv", ConfigError, "gptq would have nothing to do"),
        ("w16a16", "smoothquant+kv", ConfigError, "smoothquant would have nothing to do"),
        ("w4a16:g32,kv=int4:token", "kv", ConfigError, "by the recipe already"),
        ("w16a16", "kv+qjl", ConfigError, "one of a cache"),
        ("w16a16", "kv+rtn", ConfigError, "one of a cache"),
        ("w16a16", "kv(spec=int4:tensor)", SpecError, "yet to come"),
        ("w16a16", "kv(values=nvfp4)", SpecError, "method kv: values nvfp4"),
        ("w16a16", "kv(spec=int9:token)", SpecError, "did you mean"),
        ("w16a16", "kv(keys=head)", ConfigError, "one of token, channel"),
        ("w16a16", "qjl(values=int4:tensor)", SpecError, "method qjl: values"),
        ("w16a16", "turboquant(bits=0)", ConfigError, "from 1 to 8"),
    ],
)
def test_what_does_not_go_is_refused(recipe, method, error, message):
    with pytest.raises(error, match=message):
        quantize_trained(grouped(), recipe, method, TOKENS)


def test_an_attention_that_is_not_looked_up_and_keys_that_overflow_are_refused():
    model = grouped()
    model.config._attn_implementation = "eager"
    with pytest.raises(ConfigError, match="method kv: the attention of LlamaForCausalLM is 'eager'"):
        quantize_trained(model, "w16a16", "kv", TOKENS)
    model = grouped()
    model.model.layers[1].self_attn.k_proj.weight.data.fill_(3e38)
    with pytest.raises(ConfigError, match=r"layers\.1\.self_attn\.key: .* not finite"):
        quantize_trained(model, "w16a16", "kv", TOKENS)


def test_recipes_of_layers_stay_recipes():
    assert ptq_recipe("w4a16:g32", Method.parse("kv")) == Recipe.parse("w4a16:g32")
    assert ptq_recipe(None, Method.parse("kv")) is None


def test_saved_weights_hold_nothing_of_keys_and_values(tmp_path):
    model, plain = grouped(), grouped()
    quantize_trained(model, "w4a16:g32", "rtn+turboesm", TOKENS)
    quantize_trained(plain, "w4a16:g32", "rtn", TOKENS)
    saving.save(model, tmp_path / "out", {}, layout="plain")
    assert torch.equal(logits(model), logits(plain))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(loaded), logits(plain))
    assert "qscale_sdpa" not in (tmp_path / "out" / "config.json").read_text()


# What methods do to a model that has learned something


def _after(method):
    model = trained(kv_heads=2)
    report = quantize_trained(model, "w16a16", method, windows(3, 32))
    return loss(model), report.to_json()


def test_the_table_of_the_normal_distribution_beats_rounding_to_nearest_at_equal_bits():
    """As TurboQuant claims; without a sketch, which pays in inner products alone."""
    for bits in (2, 3):
        (_, nearest), (_, table) = (
            _after(f"kv(spec=int{bits}:token)"),
            _after(f"turboquant(bits={bits},sketch=none)"),
        )
        assert table["bits_per_kv"] == nearest["bits_per_kv"]
        for part in ("relmse_keys", "relmse_values", "relmse_attention"):
            assert table[part] < nearest[part]


def test_more_bits_cost_less():
    start = loss(trained(kv_heads=2))
    for few, many in (
        ("kv(spec=int2:token)", "kv(spec=int6:token)"),
        ("qjl(bits=1,values=int2:token)", "qjl(bits=32,values=int6:token)"),
        ("turboquant(bits=1)", "turboquant(bits=6)"),
        ("turboesm(bits=1)", "turboesm(bits=5)"),
    ):
        (worse, first), (better, second) = _after(few), _after(many)
        assert second["relmse_attention"] < 0.2 * first["relmse_attention"], few
        assert abs(better - start) < 0.5 * abs(worse - start), few


def test_keys_by_channel_and_recent_tokens_beat_keys_by_token_at_two_bits():
    """As KIVI claims."""
    by_token = _after("kv(spec=int2:token:asym)")
    by_channel = _after("kv(spec=int2:g16:asym,values=int2:token:asym,keys=channel)")
    assert by_channel[0] < by_token[0]
    assert by_channel[1]["relmse_attention"] < by_token[1]["relmse_attention"]


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="qscale")


def test_the_command_quantizes_keys_and_values_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a small text" for i in range(9000)))
    options = ("ptq", "--model", tmp_path / "model", "--corpus", f"file:{tmp_path / 'text.txt'}")
    options += ("--windows", 4, "--eval-windows", 8, "--recipe", "w16a16")
    result = call(*options, "--method", "kv(spec=int3:token)", "--out", tmp_path / "q", "--json")
    assert result.exit_code == 0, result.output
    *events, end = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["block", "block", "cache", "cache"]
    assert end["bits_per_kv"] == 3.5 and end["bits_per_weight"] is None and end["delta"] is not None
    assert end["relmse_keys"] > 0 and "caches" not in end
    note = json.loads((tmp_path / "q" / "qscale.json").read_text())
    assert len(note["caches"]) == 2 and note["layers"] == [] and note["method"] == "kv(spec=int3:token)"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "q").eval()
    assert torch.equal(logits(loaded), logits(make()))
    plain = call(*options, "--method", "turboquant")
    assert plain.exit_code == 0 and "bits a key or value" in plain.output and "a weight" not in plain.output
    refused = call(*options, "--method", "gptq")
    assert refused.exit_code == 2 and "quantizes no layer" in refused.output
