"""What ``qscale ptq`` makes of input that does not go: one line that says what to do, and no folder."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ptq.uneven import TOKENS, make
from run_configs import run_config
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from qscale.cli import main
from qscale.errors import SpecError
from qscale.ptq import partial as partials
from qscale.ptq import saving
from qscale.ptq.methods import METHODS
from qscale.ptq.run import quantize_trained
from qscale.training import checkpoint, paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make().save_pretrained("model")
    Path("text.txt").write_text("\n".join(f"line {i} of a small text" for i in range(3000)))
    return tmp_path


def call(model="model", *arguments, spec="int4:g32"):
    options = ("--spec", spec, "--corpus", "file:text.txt", "--windows", "4", "--eval-windows", "4")
    return CliRunner().invoke(main, ["ptq", "--model", model, *options, "--out", "new", *arguments])


def assert_refused(result, *parts, code=2):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and len(result.output.strip().splitlines()) <= 3, result.output
    for part in parts:
        assert part in result.output, result.output
    assert not Path("new").exists() and not Path(".new-partial").exists()


def test_too_little_text_says_how_much_there_is(folder):
    assert_refused(call("model", "--windows", "99999"), "calibration windows of 32 tokens", "--windows")
    assert_refused(call("model", "--eval-windows", "99999"), "held-out sequences of 32 tokens")
    Path("text.txt").write_text("a few words")
    assert call().exit_code == 2 and not Path("new").exists()


def test_tokens_that_the_model_does_not_have_are_refused(folder):
    result = call("model", "--tokenizer", "bpe:300")
    assert_refused(result, "has 300 tokens, the model 256", "--tokenizer file:PATH")


def test_a_run_wants_its_own_tokenizer(folder):
    checkpoint.save_weights(paths.final_weights(folder / "run"), make())
    (folder / "run" / "config.json").write_text(json.dumps(run_config(context=32).to_json()))
    result = call("run", "--tokenizer", "bpe:300")
    assert_refused(result, "was trained with tokenizer 'bytes'", "in tokens of 'bpe:300@")


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.layers.1.mlp.down_proj", "model.norm"])
def test_a_weight_that_is_no_number_names_its_layer(folder, name):
    model = make()
    model.get_submodule(name).weight.data.view(-1)[5] = float("nan")
    model.save_pretrained("broken")
    assert_refused(call("broken"), f"the weight of layer {name} holds a NaN or an infinity")


@pytest.mark.parametrize("name", sorted(name for name, step in METHODS.items() if step.kind != "cache"))
def test_a_group_that_does_not_divide_the_width_has_a_shorter_last_one_or_is_refused(name):
    """Widths are 32 and 64: groups of 20 leave 12 and 4 columns over."""
    text = {"rrs": "rrs(group=20)", "lrq": "lrq(steps=1)"}.get(name, name)
    if name in ("llm_fp4", "bnb_nf4", "bnb_int8"):
        with pytest.raises(SpecError, match=r"int4:g20: .*; use \w+:\w+"):
            quantize_trained(make(), "w4a8:g20", text, TOKENS[:4])
        return
    model = make()
    report = quantize_trained(model, "w4a8:g20", text, TOKENS[:4])
    assert 0 < report.relmse < 1 and len(report.layers) == 14


@pytest.mark.parametrize("method", ["gptq(damping=0.0)", "gptq(damping=0.0,act_order=true)"])
def test_moments_that_are_singular_are_damped_more_and_that_is_said(folder, method):
    model = make()
    for block in model.model.layers:
        block.input_layernorm.weight.data[3] = 0.0  # a dead channel
        block.mlp.gate_proj.weight.data[5] = block.mlp.gate_proj.weight.data[6]  # two that are one
        block.mlp.up_proj.weight.data[5] = block.mlp.up_proj.weight.data[6]
    model.save_pretrained("twin")
    result = call("twin", "--method", method)
    assert result.exit_code == 0, result.output
    assert "damping raised from 0 to" in result.output
    layers = json.loads(Path("new/qscale.json").read_text())["layers"]
    assert any("damping raised" in note for layer in layers for note in layer["notes"])
    assert all(layer["relmse"] < 1.001 * layer["relmse_nearest"] for layer in layers)


def test_a_model_of_other_layers_alone_is_refused_by_their_types(folder):
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained("gpt2")
    assert_refused(call("gpt2"), "no layer of GPT2LMHeadModel can be quantized", "Conv1D")


def test_layers_of_other_types_beside_linear_ones_stay_and_are_listed():
    model = make()
    up = model.model.layers[0].mlp.up_proj
    other = Conv1D(up.out_features, up.in_features)
    other.weight.data.copy_(up.weight.data.t())
    model.model.layers[0].mlp.up_proj = other
    kept = other.weight.detach().clone()
    report = quantize_trained(model, "w4a16:g32", "gptq", TOKENS)
    left = {each.layer: each.type for each in report.left}
    assert left["model.layers.0.mlp.up_proj"] == "Conv1D" and len(report.layers) == 13
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, kept)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (np, "save"),
        (partials, "save_file"),
        (saving, "save_file"),
        (partials, "_sync"),
        (saving.shutil, "copyfile"),
    ],
)
def test_a_full_disk_leaves_no_folder_and_the_same_command_goes_on(folder, monkeypatch, owner, name):
    Path("model/special_tokens_map.json").write_text("{}")  # a file that is copied along
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _full)
        result = call()
    assert result.exit_code != 0 and "No space left" in result.output
    assert not Path("new").exists()
    if Path(".new-partial").exists():
        assert "finished blocks are kept in '.new-partial'" in result.output
    assert call().exit_code == 0
    assert Path("new/config.json").is_file() and not Path(".new-partial").exists()
    shutil.rmtree("new")
