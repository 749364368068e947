"""What is saved is what was measured, and nothing is left half written."""

import json

import pytest
from click.testing import CliRunner
from ptq.uneven import TOKENS, logits, make
from run_configs import run_config
from transformers import AutoModelForCausalLM

from qscale.cli import main
from qscale.errors import ConfigError, StoreError
from qscale.ptq import saving
from qscale.ptq.run import quantize_trained
from qscale.quantizers import QuantLinear
from qscale.training import checkpoint, paths


@pytest.mark.parametrize(
    ("family", "recipe", "method"),
    [
        ("llama", "w4a16:g32", "awq+gptq"),
        ("gpt_neox", "w4a16:g32,rot=hadamard:32:signs", "smoothquant(inputs=all)+gptq"),
        ("opt", "w4a16:g32", "outlier_tune"),
        ("qwen3", "w=fp4_e2m1:channel", "llm_fp4"),
        ("llama", "w3a16:g32,rot=hadamard:32", "aqas+low_rank(rank=2,lrec=3)+lrq(steps=5)"),
    ],
)
def test_a_saved_model_computes_what_the_quantized_one_does(tmp_path, family, recipe, method):
    model = make(family)
    quantize_trained(model, recipe, method, TOKENS)
    wanted = logits(model)
    saving.save(model, tmp_path / "out", {"method": method}, layout="plain")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert float((logits(loaded) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    assert json.loads((tmp_path / "out" / "qscale.json").read_text()) == {
        "method": method,
        "layout": "plain",
        "without": [],
    }
    with pytest.raises(ConfigError, match="not empty"):
        saving.save(model, tmp_path / "out", {})


def test_a_model_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    model = make()
    quantize_trained(model, "w4a16:g32", "rtn", TOKENS)
    monkeypatch.setattr(saving, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(StoreError, match="disk full"):
        saving.save(model, tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="qscale")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a small text" for i in range(9000)))
    return tmp_path


def test_the_command_prints_paired_losses_and_saves(folder):
    options = ("--corpus", f"file:{folder / 'text.txt'}", "--windows", 8, "--eval-windows", 16, "--json")
    result = call("ptq", "--model", folder / "model", "--spec", "int3:g32", "--out", folder / "q", *options)
    assert result.exit_code == 0, result.output
    *events, end = [json.loads(line) for line in result.stdout.splitlines()]
    assert end["event"] == "end" and len([e for e in events if e["event"] == "layer"]) == 14
    assert end["delta"] == pytest.approx(end["after"]["loss"] - end["before"]["loss"])
    assert end["delta_se"] > 0 and end["bits_per_weight"] == 3.5 and end["length"] == 32
    note = json.loads((folder / "q" / "qscale.json").read_text())
    assert note["method"] == "gptq" and note["recipe"] == "w3a16:g32" and len(note["layers"]) == 14
    again = call("ptq", "--model", folder / "q", "--method", "rtn", "--spec", "int8:channel", *options)
    assert again.exit_code == 0, again.output
    before = json.loads(again.stdout.splitlines()[-1])["before"]["loss"]
    assert before == pytest.approx(end["after"]["loss"], rel=1e-6)
    plain = call("ptq", "--model", folder / "model", "--recipe", "w4a8:g32", *options[:-1])
    assert plain.exit_code == 0 and "+-" in plain.output and "bits a weight" in plain.output


def test_the_command_rotates_too(folder):
    make(tied=True).save_pretrained(folder / "tied")
    options = ("--corpus", f"file:{folder / 'text.txt'}", "--windows", 4, "--eval-windows", 8, "--json")
    ends = []
    for recipe, method in (("w3a16:g32", "quarot+gptq"), ("w4a4:g16", "quarot+smoothrot+rrs(group=8)")):
        out = folder / recipe.partition(":")[0]
        made = ("--recipe", recipe, "--method", method, "--out", out, "--layout", "plain")
        result = call("ptq", "--model", folder / "tied", *made, *options)
        assert result.exit_code == 0, result.output
        ends.append(json.loads(result.stdout.splitlines()[-1]))
        assert ends[-1]["method"] == method
        assert not AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings
    again = call("ptq", "--model", folder / "w3a16", "--spec", "int8:channel", *options)
    before = json.loads(again.stdout.splitlines()[-1])["before"]["loss"]
    assert before == pytest.approx(ends[0]["after"]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("llm_fp4(candidates=10)", "w=fp4_e2m1:channel,a=fp4_e2m1:tensor"),
        ("gptq+low_rank(rank=2,lrec=4)", "w3a8:g32"),
        ("lrq(steps=4)", "w3a8:g32"),
    ],
)
def test_the_command_runs_methods_that_search_and_learn(folder, method, recipe):
    options = ("--corpus", f"file:{folder / 'text.txt'}", "--windows", 8, "--eval-windows", 8, "--json")
    result = call(
        *("ptq", "--model", folder / "model", "--method", method, "--recipe", recipe),
        *("--out", folder / "q", *options),
    )
    assert result.exit_code == 0, result.output
    end = json.loads(result.stdout.splitlines()[-1])
    assert end["method"] == method and end["recipe"] == recipe and end["delta"] is not None
    loaded = AutoModelForCausalLM.from_pretrained(folder / "q")
    assert any(isinstance(layer, QuantLinear) for layer in loaded.modules()) == ("a16" not in recipe)


def test_the_last_weights_of_a_run_are_a_model(folder):
    model, config = make(), run_config(context=32)
    run = folder / "run"
    checkpoint.save_weights(paths.final_weights(run), model)
    (run / "config.json").write_text(json.dumps(config.to_json()))
    options = ("--corpus", f"file:{folder / 'text.txt'}", "--windows", 4, "--eval-windows", 8, "--json")
    ends = []
    for path in (run, folder / "model"):
        result = call("ptq", "--model", path, "--spec", "int3:g32", *options)
        assert result.exit_code == 0, result.output
        ends.append(json.loads(result.stdout.splitlines()[-1]))
    assert ends[0] == ends[1]
    (run / "config.json").write_text(json.dumps({**config.to_json(), "tokenizer": "file:0123456789abcdef"}))
    result = call("ptq", "--model", run, "--spec", "int3:g32", *options)
    assert result.exit_code == 2 and "was trained with tokenizer 'file:0123456789abcdef'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--spec int4:g128, or --recipe"),
        (("--spec", "int4:g128", "--method", "gtpq"), "did you mean 'gptq'"),
        (("--spec", "int4:g128", "--method", "awq,gptq"), "steps joined by +"),
        (("--spec", "w4a4:g32"), "this is a --recipe"),
        (("--recipe", "int4:g32"), "as a recipe it is w=int4:g32"),
        (
            ("--recipe", "w4a8:g32", "--layout", "compressed-tensors", "--out", "new"),
            "w4a8:g32 quantizes inputs: use --layout qscale",
        ),
        (("--spec", "int4:g128", "--length", "99"), "at most 32 tokens"),
        (("--spec", "int4:g32", "--method", "outlier_tune", "--out", "new"), "has no bias"),
    ],
)
def test_bad_usage_is_one_line(folder, arguments, message, monkeypatch):
    monkeypatch.chdir(folder)
    result = call("ptq", "--model", "model", "--corpus", "file:text.txt", *arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
    assert not (folder / "new").exists()


def test_a_folder_without_a_model_is_refused(tmp_path):
    result = call("ptq", "--model", tmp_path, "--spec", "int4:g32")
    assert result.exit_code == 2 and "is no model" in result.output


def test_a_study_is_refused_with_the_name_of_a_run(folder):
    checkpoint.save_weights(paths.final_weights(folder / "study" / "runs" / "0123"), make())
    result = call("ptq", "--model", folder / "study", "--spec", "int4:g32")
    assert result.exit_code == 2 and f"such as {folder / 'study' / 'runs' / '0123'}" in result.output


@pytest.mark.parametrize(
    ("method", "recipe", "layout", "used", "without"),
    [
        ("rtn", "w4a16:g32", "auto", "compressed-tensors", []),
        ("rtn", "w4a8:g32", "auto", "qscale", []),
        ("rtn", "w4a8:g32", "plain", "plain", ["inputs"]),
        ("rtn", "w4a16:g32,kv=int4:token", "plain", "plain", ["keys and values"]),
        ("rtn", "w4a16:g32,kv=int4:token", "qscale", "qscale", []),
        ("quarot", "w4a16:g32", "plain", "plain", []),
        ("kv", "w16a16", "auto", "plain", ["keys and values"]),
        ("rtn+kv", "w4a8:g32", "plain", "plain", ["inputs", "keys and values"]),
    ],
)
def test_the_command_says_what_a_saved_model_lacks(folder, method, recipe, layout, used, without):
    options = ("--corpus", f"file:{folder / 'text.txt'}", "--windows", 2, "--eval-windows", 4)
    model = ("ptq", "--model", folder / "model", "--method", method, "--recipe", recipe, "--layout", layout)
    model += options
    result = call(*model, "--out", folder / "q", "--json")
    assert result.exit_code == 0, result.output
    end = json.loads(result.stdout.splitlines()[-1])
    note = json.loads((folder / "q" / "qscale.json").read_text())
    assert (end["layout"], end["without"]) == (note["layout"], note["without"]) == (used, without)
    plainly = call(*model, "--out", folder / "again")
    assert f"again, layout {used}" in plainly.stdout
    assert ("its loss is not the one above" in plainly.stdout) == bool(without)
    assert " and ".join(without) in plainly.stdout
