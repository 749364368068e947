"""Errors of outputs, by hand."""

import numpy as np
import pytest
import torch
from ptq.uneven import TOKENS, make, unevenly
from torch import nn
from transformers import BertConfig, BertModel, WhisperConfig, WhisperModel

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq.layers import Layer
from qscale.ptq.methods.gptq import GPTQ
from qscale.ptq.outputs import output_errors
from qscale.ptq.statistics import Statistics
from qscale.quantizers import Absmax


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    return BertModel(config)


def test_errors_are_those_of_outputs_taken_by_hand():
    model, ids = bert().eval(), torch.arange(40).reshape(4, 10)
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    found = output_errors(model, "w4a16:g32", [{"input_ids": ids, "attention_mask": mask}])
    name = "encoder.layer.0.attention.self.query"
    seen = []
    layer = model.get_submodule(name)
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = fake_quant(layer.weight, "int4:g32")
        x = seen[0][mask.bool()].double()
        y = nn.functional.linear(x, layer.weight.double(), layer.bias.double())
        error = (x @ (weight - layer.weight).double().t()).square().sum() / y.square().sum()
        for module in model.encoder.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(fake_quant(module.weight, "int4:g32"))
        rounded = model(input_ids=ids, attention_mask=mask).last_hidden_state
    last = (rounded - plain)[mask.bool()].double().square().sum() / plain[mask.bool()].double().square().sum()
    assert found.layers[name] == pytest.approx(float(error), rel=1e-5)
    assert found.last == pytest.approx(float(last), rel=1e-5)
    assert len(found.layers) == 12


def test_features_and_decoders_work_too():
    config = WhisperConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    whisper = WhisperModel(config)
    features = torch.randn(2, 8, 40)
    coarse, fine = (
        output_errors(whisper.encoder, recipe, [{"input_features": features}]).last
        for recipe in ("w3a16:channel", "w8a16:channel")
    )
    assert 0 < fine < 0.1 * coarse
    batch = {"input_features": features, "decoder_input_ids": torch.ones(2, 5, dtype=torch.long)}
    assert output_errors(whisper, "w4a16:channel", [batch]).last > 0
    causal = output_errors(make().model, "w4a8:g32", [{"input_ids": torch.from_numpy(TOKENS)}])
    assert causal.last > 0 and len(causal.layers) == 14


def test_no_batch_and_outputs_that_overflow_are_refused():
    with pytest.raises(ConfigError, match="at least one batch"):
        output_errors(bert(), "w4a16:g32", [])
    with pytest.raises(ConfigError, match="must be trained"):
        output_errors(bert(), "w4a4:g32,q=lsq", [])
    model = bert()
    model.encoder.layer[0].output.dense.weight.data.fill_(float("inf"))
    with pytest.raises(ConfigError, match="not finite"):
        output_errors(model, "w8a16:channel", [{"input_ids": torch.arange(8)[None]}])


def padded(seed=0):
    ids = torch.from_numpy(np.random.RandomState(seed).randint(0, 64, (24, 32)))
    mask = torch.ones_like(ids)
    mask[::2, 20:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("recipe", ["w3a16:g32", "w4a8:channel", "w4a16:g20,rot=hadamard:16:signs"])
@pytest.mark.parametrize("method", ["gptq", "awq", "smoothquant(inputs=all)+gptq", "low_rank(rank=4)"])
def test_methods_leave_less_error_of_layers_calibrated_one_by_one(recipe, method):
    model = unevenly(bert())
    batch = padded()
    before = [parameter.clone() for parameter in model.parameters()]
    plain = output_errors(model, recipe, [batch])
    found = output_errors(model, recipe, [batch], method=method)
    assert found.layers.keys() == plain.layers.keys()
    assert found.last < plain.last
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_layers_are_calibrated_on_inputs_of_the_model_itself_without_padding():
    """By hand, of a layer whose own input nothing that is quantized changes."""
    model = unevenly(bert())
    calibration, other = padded(), padded(seed=1)
    name = "encoder.layer.0.attention.self.key"
    layer = model.get_submodule(name)
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**calibration)
    handle.remove()
    statistics = Statistics(width=32, needs={"moments"})
    statistics.add(seen[0][calibration["attention_mask"].bool()])
    weight = layer.weight.detach()
    quantizer = Absmax(QuantSpec.parse("int3:g32"))
    wanted = GPTQ().round(Layer(name=name, weight=weight, quantizer=quantizer), weight, statistics).weight
    found = output_errors(model, "w3a16:g32", [other], method="gptq", calibration=[calibration])
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**other)
        x = seen[1][other["attention_mask"].bool()]
        error = (x @ (wanted - weight).t()).double().square().sum() / layer(x).double().square().sum()
    assert found.layers[name] == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize("method", ["quarot+gptq", "lrq", "gptq+kv"])
def test_steps_that_need_more_than_a_layer_are_refused(method):
    with pytest.raises(ConfigError, match=r"one by one.*such as awq\+gptq"):
        output_errors(bert(), "w4a16:g32", [{"input_ids": torch.arange(8)[None]}], method=method)
