"""A pass over small models: what it leaves, and that what must not change does not."""

import copy

import numpy as np
import pytest
import torch
from ptq.uneven import TOKENS, logits, make
from torch import nn

from qscale.errors import ConfigError, SpecError
from qscale.models.surgery import quantize_model
from qscale.ptq.layers import Rounded
from qscale.ptq.methods.rtn import RTN
from qscale.ptq.run import quantize_trained
from qscale.quantizers import QuantLinear

FAMILIES = ("llama", "qwen3", "gpt_neox", "opt")


def _layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}


@pytest.fixture
def unrounded(monkeypatch):
    """Weights that are changed by a method, and left as they are where they would be rounded."""

    def keep(_self, _layer, weight, _statistics):
        return Rounded(weight=weight, bits=32.0)

    monkeypatch.setattr(RTN, "round", keep)


@pytest.mark.parametrize(
    "recipe", ["w4a16:g32", "w4a4:g12", "w4a8:channel,rot=hadamard:16", "mxfp4", "w8a8:g32@torchao"]
)
def test_rtn_gives_the_bits_of_the_recipe_exact(recipe):
    surgery, passed = make(), make()
    quantize_model(surgery, recipe)
    report = quantize_trained(passed, recipe, "rtn", TOKENS)
    assert torch.equal(logits(surgery.eval()), logits(passed))
    assert all(layer.weight_quantizer is None for layer in _layers(passed).values())
    assert all(layer.relmse == layer.relmse_nearest for layer in report.layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method",
    [
        "smoothquant(inputs=all)",
        "outlier_tune",
        "outlier_tune(symmetrize=false)",
        "awq(clip=false)",
        "smoothquant+awq(clip=false)",
    ],
)
def test_changes_of_inputs_leave_what_the_model_computes(family, method, unrounded):
    model = make(family)
    before = logits(model)

    report = quantize_trained(model, "w2a16:g32", method, TOKENS)
    assert any(layer.folded for layer in report.layers) or "outlier" in method
    after = logits(model)
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())


def test_a_rotation_leaves_what_the_model_computes(unrounded):

    model = make()
    before = logits(model)
    quantize_trained(model, "w2a16:g32,rot=hadamard:32:signs", "smoothquant", TOKENS)
    after = logits(model)
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "recipe", ["w3a16:g32", "w4a8:g20", "w3a16:g32,rot=hadamard:32", "w=nvfp4", "w=int3:g32:asym"]
)
def test_gptq_leaves_less_error_than_rounding_to_nearest(family, recipe):
    model, plain = make(family), make(family)
    before = logits(model)
    report = quantize_trained(model, recipe, "gptq", TOKENS)
    quantize_trained(plain, recipe, "rtn", TOKENS)
    assert report.relmse < 0.9 * report.relmse_nearest
    errors = [float((logits(m) - before).square().mean()) for m in (plain, model)]
    assert errors[1] < errors[0]


def test_smoothing_goes_into_norms_and_linear_layers_that_can_take_it():
    report = quantize_trained(make("llama"), "w8a8:g32", "smoothquant(inputs=all)", TOKENS)
    assert [layer.folded for layer in report.layers[:7]] == [True] * 7
    # exact GELU between the two: only the input can be divided
    neox = quantize_trained(make("gpt_neox"), "w8a8:g32", "smoothquant(inputs=all)", TOKENS)
    assert {layer.role: layer.folded for layer in neox.layers}["fc1"] is True
    assert {layer.layer.rpartition(".")[2]: layer.folded for layer in neox.layers}["dense_4h_to_h"] is False


def test_a_norm_that_another_layer_reads_too_takes_nothing():
    """Queries are left unquantized: a norm that took the factor would change them."""
    model = make()
    before = logits(model)
    report = quantize_trained(model, "w8a8:g32,q_proj.weight=none,q_proj.input=none", "smoothquant", TOKENS)
    by_name = {layer.layer.rpartition(".")[2]: layer.folded for layer in report.layers}
    assert "q_proj" not in by_name and by_name["k_proj"] is False and by_name["gate_proj"] is True
    assert float((logits(model) - before).abs().max()) < 0.1 * float(before.abs().max())


def test_a_pass_is_deterministic_and_keeps_what_it_does_not_quantize():
    models = [make(), make()]
    kept = copy.deepcopy(models[0])
    reports = [quantize_trained(model, "w4a4:g32,keep=first", "awq+gptq", TOKENS) for model in models]
    assert reports[0].to_json() == reports[1].to_json()
    assert torch.equal(logits(models[0]), logits(models[1]))
    assert all(layer.layer.startswith("model.layers.1.") for layer in reports[0].layers)
    first = [m.state_dict() for m in (kept.model.layers[0], models[0].model.layers[0])]
    assert all(torch.equal(first[0][key], first[1][key]) for key in first[0])
    assert torch.equal(kept.lm_head.weight, models[0].lm_head.weight)


def test_a_later_block_is_calibrated_on_the_quantized_ones_before():
    """By hand: the second block's Hessian from a model whose first block is quantized already."""
    model, by_hand = make(), make()
    quantize_trained(model, "w2a16:g32", "gptq", TOKENS)
    quantize_trained(by_hand, "w2a16:g32,keep=last", "gptq", TOKENS)
    seen = []
    name = "model.layers.1.self_attn.q_proj"
    by_hand.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(by_hand, TOKENS)
    from qscale.formats import QuantSpec
    from qscale.ptq.layers import Layer
    from qscale.ptq.methods.gptq import GPTQ
    from qscale.ptq.statistics import Statistics
    from qscale.quantizers import Absmax

    statistics = Statistics(width=32, needs={"moments"})
    statistics.add(torch.cat(seen))
    weight = by_hand.get_submodule(name).weight.detach()
    layer = Layer(name=name, weight=weight, quantizer=Absmax(QuantSpec.parse("int2:g32")))
    wanted = GPTQ().round(layer, weight, statistics).weight
    assert float((wanted == model.get_submodule(name).weight).float().mean()) > 0.99


def test_bits_count_scales_zero_points_and_what_stays_at_inputs():
    assert quantize_trained(make(), "w=int4:g32:asym", "gptq", TOKENS).bits_per_weight == 4 + 20 / 32
    assert quantize_trained(make(), "w=mxfp4", "rtn", TOKENS).bits_per_weight == 4.25
    report = quantize_trained(make("gpt_neox"), "w4a16:g32", "smoothquant(inputs=fc2)", TOKENS)
    last = next(layer for layer in report.layers if layer.layer.endswith("dense_4h_to_h"))
    assert last.bits == 4.5 + 16 * 96 / last.elements


def test_events_tell_each_block_and_layer():
    events = []
    quantize_trained(make(), "w4a16:g32", "gptq", TOKENS, emit=events.append)
    assert [e["block"] for e in events if e["event"] == "block"] == [0, 1]
    assert len([e for e in events if e["event"] == "layer"]) == 14


def test_a_weight_that_is_not_finite_names_its_layer_and_nothing_is_quantized():
    model = make()
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.up_proj holds a NaN"):
        quantize_trained(model, "w4a16:g32", "gptq", TOKENS)
    assert not _layers(model)


@pytest.mark.parametrize(
    ("recipe", "method", "error", "message"),
    [
        ("w4a4:g32,q=lsq", "gptq", ConfigError, "lsq must be trained"),
        ("w4a16:g32,q=quest", "gptq", SpecError, "absmax or clip"),
        ("w4a16:g32@torchao", "gptq", SpecError, "needs dialect qscale"),
    ],
)
def test_recipes_that_do_not_go_are_refused(recipe, method, error, message):
    with pytest.raises(error, match=message):
        quantize_trained(make(), recipe, method, TOKENS)
    with pytest.raises(ConfigError, match="not empty"):
        quantize_trained(make(), "w4a16:g32", "rtn", TOKENS[:0])


def test_a_quantized_model_and_one_without_blocks_are_refused():
    model = make()
    quantize_trained(model, "w4a16:g32", "rtn", TOKENS)
    with pytest.raises(ConfigError, match="quantized already"):
        quantize_trained(model, "w4a16:g32", "rtn", TOKENS)
    with pytest.raises(ConfigError, match="0 lists of blocks"):
        quantize_trained(nn.Sequential(nn.Linear(4, 4)), "w4a16:g32", "rtn", TOKENS)


def test_the_pass_moves_with_bfloat16_weights():
    model = make().to(torch.bfloat16)
    report = quantize_trained(model, "w4a8:g32", "smoothquant+gptq", TOKENS)
    assert report.relmse < report.relmse_nearest
    assert {layer.weight.dtype for layer in _layers(model).values()} == {torch.bfloat16}


def test_windows_come_from_the_training_split_and_are_the_same_every_time(tmp_path, monkeypatch):
    from qscale.data import corpus as corpora
    from qscale.errors import CorpusError
    from qscale.ptq.run import calibration_windows

    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {i} of a small text" for i in range(9000)))
    corpus = corpora.load(f"file:{text}")
    windows = calibration_windows(corpus, 6, 50)
    assert windows.shape == (6, 50) and np.array_equal(windows, calibration_windows(corpus, 6, 50))
    train = corpus.train.tobytes()
    assert all(bytes(row.astype(np.uint8)) in train for row in windows)
    with pytest.raises(CorpusError, match="fewer than"):
        calibration_windows(corpus, 10**6, 50)
    with pytest.raises(ConfigError, match="at least one of each"):
        calibration_windows(corpus, 0, 50)
