"""Blocks read from a folder one at a time give what a model in memory gives; passes cut off go on."""

import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ptq.uneven import TOKENS, logits, make
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import qscale.ptq.pretrained  # noqa: F401 - it registers the layout
from qscale.cli import main
from qscale.errors import ConfigError, StoreError
from qscale.formats import Recipe
from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.ptq import partial as partials
from qscale.ptq import saving
from qscale.ptq.methods import Method
from qscale.ptq.partial import Partial
from qscale.ptq.run import pass_identity, quantize_blocks, quantize_trained
from qscale.ptq.sources import Folder, Memory
from qscale.training.evaluate import sequence_losses

HELD_OUT = np.random.RandomState(1).randint(0, 256, (11, 33))


def stored(tmp_path, family="llama", size="1MB", dtype=torch.float32):
    folder = tmp_path / f"model-{family}"
    make(family).to(dtype).save_pretrained(folder, max_shard_size=size)
    return folder


def command(
    folder, out, recipe="w4a8:g32", method="smoothquant(inputs=all)+gptq", layout="qscale", emit=None
):
    """What the command line does."""
    recipe, method, source = Recipe.parse(recipe), Method.parse(method), Folder(folder)
    with Partial(out, pass_identity(source, recipe, method, TOKENS, HELD_OUT)) as partial:
        report = quantize_blocks(
            source, recipe, method, TOKENS, held_out=HELD_OUT, partial=partial, emit=emit
        )
        saving.publish(partial, source.model, {"layers": report.to_json()["layers"]}, (), layout)
    return report


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "opt"])
@pytest.mark.parametrize("size", ["1MB", "20KB"])
def test_a_folder_gives_the_bits_of_a_model_in_memory(tmp_path, family, size):
    folder = stored(tmp_path, family, size)
    assert (folder / "model.safetensors").is_file() == (size == "1MB")
    source = Folder(folder)
    assert all(p.is_meta for block in source.blocks.values() for p in block.parameters())
    streamed = quantize_blocks(source, "w4a8:g32", "awq+gptq", TOKENS, held_out=HELD_OUT)
    assert all(p.is_meta for block in source.blocks.values() for p in block.parameters())
    model = make(family)
    before = sequence_losses(model, HELD_OUT)
    whole = quantize_trained(model, "w4a8:g32", "awq+gptq", TOKENS)
    assert [layer.to_json() for layer in streamed.layers] == [layer.to_json() for layer in whole.layers]
    np.testing.assert_allclose(streamed.before, before, rtol=1e-5)
    np.testing.assert_allclose(streamed.after, sequence_losses(model, HELD_OUT), rtol=1e-5)
    again = quantize_blocks(Memory(make(family)), "w4a8:g32", "awq+gptq", TOKENS, held_out=HELD_OUT)
    assert np.array_equal(again.before, streamed.before) and np.array_equal(again.after, streamed.after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_the_dtype_of_the_folder(tmp_path, dtype):
    report = command(stored(tmp_path, dtype=dtype), tmp_path / "out")
    assert report.relmse < report.relmse_nearest
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_one_block_is_in_memory_at_a_time(tmp_path):
    source = Folder(stored(tmp_path))
    seen = []

    def look(event):
        if event["event"] == "block":
            seen.append([not next(block.parameters()).is_meta for block in source.blocks.values()])

    quantize_blocks(source, "w4a16:g32", "rtn", TOKENS, emit=look)
    assert seen == [[True, False], [False, False]]


def test_nothing_of_a_block_stays_in_memory_when_it_is_gone(tmp_path):
    shape = replace(shape_of("tiny-20k"), num_layers=5)
    build(shape, context=32, seed=0).save_pretrained(tmp_path / "model")
    held = []

    def look(event):
        if event["event"] == "block":
            gc.collect()
            found = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_alive()}
            held.append(sum(found.values()))

    quantize_blocks(Folder(tmp_path / "model"), "w4a8:g32", "smoothquant(inputs=all)+gptq", TOKENS, emit=look)
    block = 4 * shape.N // 5
    assert len(held) == 5 and max(held[2:]) - min(held[2:]) < block / 4


def tensors_alive():
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu":
            yield one


def test_tied_embeddings_are_read_and_written_once(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    command(tmp_path / "model", tmp_path / "out", "w4a16:g32", "gptq", "plain")
    quantize_trained(model, "w4a16:g32", "gptq", TOKENS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(logits(loaded), logits(model))


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("at", ["before", "block-0", "states-0", "block-0.json", "block-1", "block-1.json"])
def test_a_pass_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path, monkeypatch, at):
    folder = stored(tmp_path)
    command(folder, tmp_path / "whole")
    real = partials._into_place

    def die(beside, path):
        real(beside, path)
        if path.name.startswith(at):
            raise _KilledError

    monkeypatch.setattr(partials, "_into_place", die)
    monkeypatch.setattr(Partial, "__exit__", lambda self, *_: self._close())  # a kill tidies nothing
    with pytest.raises(_KilledError):
        command(folder, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists() and (tmp_path / ".out-partial").is_dir()
    events = []
    command(folder, tmp_path / "out", emit=events.append)
    done = {"block-0.json": 1, "block-1": 1, "block-1.json": 2}.get(at, 0)
    assert [e["block"] for e in events if e["event"] == "block"] == list(range(done, 2))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / ".out-partial").exists()


def test_the_leftovers_of_another_command_are_refused_with_what_to_do(tmp_path, monkeypatch):
    folder, out = stored(tmp_path), tmp_path / "out"
    real = saving.publish
    monkeypatch.setattr(saving, "publish", lambda *_: (_ for _ in ()).throw(_KilledError))
    with pytest.raises(_KilledError):
        command(folder, out)
    monkeypatch.setattr(saving, "publish", real)
    with pytest.raises(ConfigError, match=r"another one \(other method\).*delete that folder"):
        command(folder, out, method="gptq")
    name = folder / "model.safetensors"
    tensors = load_file(name)
    save_file({k: v + 1 if k.endswith("norm.weight") else v for k, v in tensors.items()}, name)
    with pytest.raises(ConfigError, match=r"another one \(other model\)"):
        command(folder, out)
    save_file(tensors, name, metadata={"format": "pt"})
    command(folder, out)
    with pytest.raises(ConfigError, match="not empty"):
        command(folder, out)


def test_two_processes_do_not_write_one_folder(tmp_path):
    with (
        Partial(tmp_path / "out", {"a": 1}),
        pytest.raises(ConfigError, match="another process"),
        Partial(tmp_path / "out", {"a": 1}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_no_folder(tmp_path, monkeypatch):
    folder, out = stored(tmp_path), tmp_path / "out"
    real, calls = partials.save_file, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # the weights of the second block
            raise OSError(28, "No space left on device")
        real(*arguments, **options)

    monkeypatch.setattr(partials, "save_file", full)
    with pytest.raises(StoreError, match=r"cannot be written.*No space left"):
        command(folder, out)
    assert not out.exists() and not list((tmp_path / ".out-partial").glob("*.tmp"))
    monkeypatch.undo()
    monkeypatch.setattr(saving, "save_file", full)
    calls.clear()
    with pytest.raises(StoreError, match="No space left"):
        command(folder, out)
    assert not out.exists()
    monkeypatch.undo()
    command(folder, out)
    assert out.is_dir() and not (tmp_path / ".out-partial").exists()


def _without(folder, pattern):
    next(folder.glob(pattern)).unlink()


def _reshaped(folder):
    name = folder / "model.safetensors"
    tensors = load_file(name)
    key = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, key: tensors[key][:-1].clone()}, name)


def _without_tensor(folder):
    name = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(name).items() if "layers.1.mlp.up_proj" not in k}, name)


def _cut_off(folder):
    name = folder / "model.safetensors"
    name.write_bytes(name.read_bytes()[:-100])


def _not_a_number(folder, layer="model.layers.1.mlp.up_proj"):
    name = folder / "model.safetensors"
    tensors = load_file(name)
    tensors[f"{layer}.weight"][3, 4] = float("nan")
    save_file(tensors, name)


def _moved(folder):
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    names = sorted(set(table["weight_map"].values()))
    table["weight_map"]["lm_head.weight"] = next(
        n for n in names if n != table["weight_map"]["lm_head.weight"]
    )
    index.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("size", "spoil", "message"),
    [
        ("20KB", lambda f: _without(f, "model-00002*"), "a shard is missing"),
        ("20KB", _moved, "the shards are not of one model"),
        ("1MB", _reshaped, r"up_proj.weight has shape \[\d+, \d+\], the config asks for"),
        ("1MB", _without_tensor, "layers.1.mlp.up_proj.weight of the model is in no file"),
        ("1MB", _cut_off, "damaged or cut off"),
        ("1MB", _not_a_number, r"model\.layers\.1\.mlp\.up_proj holds a NaN"),
        ("1MB", lambda f: _not_a_number(f, "lm_head"), "lm_head holds a NaN"),
        ("1MB", lambda f: _without(f, "model.safetensors"), "neither model.safetensors nor"),
        ("1MB", lambda f: (f / "config.json").write_text("{"), "cannot make it"),
    ],
)
def test_a_folder_that_is_not_a_whole_model_is_refused(tmp_path, size, spoil, message):
    folder = stored(tmp_path, size=size)
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        command(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out-partial/*.tmp"))


def test_a_quantized_folder_is_refused(tmp_path):
    command(stored(tmp_path), tmp_path / "out")
    with pytest.raises(ConfigError, match="quantized already"):
        Folder(tmp_path / "out")


def test_layers_of_other_types_are_listed_or_refused():
    left = {found.layer: found.type for found in quantize_trained(make(), "w4a16:g32", "rtn", TOKENS).left}
    assert left == {"model.embed_tokens": "Embedding", "lm_head": "Linear"}
    config = GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    with pytest.raises(ConfigError, match="Conv1D"):
        quantize_trained(GPT2LMHeadModel(config), "w4a16:g32", "rtn", TOKENS)


@pytest.mark.parametrize(
    ("family", "recipe", "method"),
    [
        ("llama", "w4a8:g32", "gptq"),
        ("llama", "w4a8:g20", "smoothquant+awq+gptq"),
        ("gpt_neox", "w4a4:g32,rot=hadamard:32:signs", "smoothquant(inputs=all)+gptq"),
        ("opt", "w8a8:channel", "smoothquant(inputs=all)"),
        ("opt", "w8a8:g32", "outlier_tune"),
        ("llama", "w4a8:g32,q=clip(0.9)", "rtn"),
        ("qwen3", "w4a8:g32,kv=int8:g8", "gptq"),
        ("llama", "w4a16:g32,rot=hadamard:16", "gptq"),
        ("llama", "w4a8:g32,keep=first", "outlier_tune"),
    ],
)
def test_from_pretrained_gives_the_quantized_model_to_the_bit(tmp_path, family, recipe, method):
    model = make(family)
    quantize_trained(model, recipe, method, TOKENS)
    saving.save(model, tmp_path / "out", {}, layout="qscale")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(loaded), logits(model))
    saving.save(model, tmp_path / "auto", {})
    config = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "qscale"
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits(again), logits(model))


def test_the_command_when_interrupted_then_it_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a small text" for i in range(9000)))
    rest = ("--windows", "2", "--eval-windows", "4", "--spec", "int4:g32", "--out", str(tmp_path / "q"))
    arguments = [
        "ptq",
        "--model",
        str(tmp_path / "model"),
        "--corpus",
        f"file:{tmp_path / 'text.txt'}",
        *rest,
    ]
    finish = Partial.finish

    def finish_and_stop(*given):
        finish(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "finish", finish_and_stop)
        stopped = CliRunner().invoke(main, arguments)
    assert stopped.exit_code == 130 and "the same command goes on" in stopped.output
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0 and "going on after block 1" in again.output
