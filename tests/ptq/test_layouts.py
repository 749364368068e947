"""Codes and scales of the compressed-tensors layout give back every bit, by our own reader and theirs."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.uneven import TOKENS, logits, make
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq import saving
from qscale.ptq.layouts import chosen
from qscale.ptq.layouts.block_floats import block_float_tensors
from qscale.ptq.layouts.compressed import codes_of
from qscale.ptq.run import quantize_trained
from qscale.quantizers import QuantLinear


def unpacked(words, bits, width):
    """By Python integers, a word at a time."""
    rows = []
    for row in words.tolist():
        whole = sum((word % 2**32) << (32 * i) for i, word in enumerate(row))
        rows.append([((whole >> (bits * i)) % 2**bits) - 2 ** (bits - 1) for i in range(width)])
    return np.array(rows)


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def blocks(tensors, layer, each):
    """A weight of small floats under scales of a byte, in the library's order of operations."""
    scale = tensors[f"{layer}.weight_scale"]
    if f"{layer}.weight" in tensors:
        values = tensors[f"{layer}.weight"].float().numpy()
    else:
        packed = tensors[f"{layer}.weight_packed"].numpy()
        codes = np.stack([packed % 16, packed // 16], 2).reshape(len(packed), -1)
        values = np.array(E2M1 + [-x for x in E2M1], np.float32)[codes]
    if scale.dtype == torch.uint8:
        steps = np.exp2(scale.numpy().astype(np.float32) - 127)
    else:
        steps = scale.float().numpy() / tensors[f"{layer}.weight_global_scale"].numpy()
    assert steps.dtype == values.dtype == np.float32
    return torch.from_numpy(values * np.repeat(steps, each, 1)).bfloat16()


def read(folder):
    """The weights of a folder of the layout, in float64, rounded once to the dtype of the scales."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    found = {}
    for group in config["config_groups"].values():
        for layer in group["targets"]:
            scale = tensors[f"{layer}.weight_scale"]
            if group["format"] in ("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"):
                found[layer] = blocks(tensors, layer, group["weights"]["group_size"])
                continue
            if group["weights"]["type"] == "float":
                codes = tensors[f"{layer}.weight"].double().numpy()
            else:
                bits = group["weights"]["num_bits"]
                rows, width = tensors[f"{layer}.weight_shape"].tolist()
                codes = unpacked(tensors[f"{layer}.weight_packed"], bits, width)
                assert codes.shape == (rows, width)
                if not group["weights"]["symmetric"]:
                    zero = unpacked(tensors[f"{layer}.weight_zero_point"].t(), bits, rows).T
                    codes = codes - np.repeat(zero, width // zero.shape[1], 1)
            each = codes.shape[1] // scale.shape[1]
            product = codes * np.repeat(scale.double().numpy(), each, 1)
            found[layer] = torch.from_numpy(product).to(scale.dtype)
    return found


CASES = [
    ("w=int4:g32", "gptq", torch.float32),
    ("w=int4:g16:asym", "gptq", torch.float32),
    ("w=int4:channel:full", "awq+gptq", torch.float32),
    ("w=int8:g32", "rtn", torch.float32),
    ("w=int8:channel:asym", "rtn", torch.float32),
    ("w=int2:g8", "gptq", torch.float32),
    ("w=fp8_e4m3:channel", "gptq", torch.float32),
    ("w=int4:g32:scale_bf16", "gptq", torch.bfloat16),
    ("w=int4:g32:scale_fp16", "gptq", torch.float16),
    ("w=int4:g32@chen2025,keep=first", "gptq", torch.float32),
    ("w=nvfp4", "rtn", torch.bfloat16),
    ("w=nvfp4", "awq+gptq", torch.bfloat16),
    ("w=nvfp4:onelevel", "gptq", torch.bfloat16),
    ("w=nvfp4@compressed_tensors", "rtn", torch.bfloat16),
    ("w=mxfp4", "gptq", torch.bfloat16),
    ("w=mxfp8_e4m3", "awq+gptq", torch.bfloat16),
    ("w=mxfp4,down_proj.weight=nvfp4,o_proj.weight=mxfp8_e4m3", "rtn", torch.bfloat16),
]


@pytest.mark.parametrize(("recipe", "method", "dtype"), CASES)
def test_codes_and_scales_give_back_every_weight_to_the_bit(tmp_path, recipe, method, dtype):
    model = make().to(dtype)
    quantize_trained(model, recipe, method, TOKENS)
    saving.save(model, tmp_path / "out", {}, layout="compressed-tensors")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    found = read(tmp_path / "out")
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        assert torch.equal(found[name], layer.weight), name
        if dtype == torch.bfloat16:  # zeros with their signs
            assert torch.equal(found[name].view(torch.int16), layer.weight.view(torch.int16)), name


@pytest.mark.parametrize(("recipe", "method", "dtype"), CASES)
def test_the_library_gives_the_quantized_model_to_the_bit(tmp_path, recipe, method, dtype):
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors")
    make().to(dtype).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    quantize_trained(model, recipe, method, TOKENS)
    saving.save(model, tmp_path / "out", {}, layout="compressed-tensors")
    if "asym" in recipe:  # the library makes room for unpacked zero points, unless it gives plain weights
        options = CompressedTensorsConfig(dequantize=True)
        with pytest.warns(UserWarning, match="loading attributes"):
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", quantization_config=options)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    loaded.eval()
    assert torch.equal(logits(loaded), logits(model))
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLinear):
            assert torch.equal(loaded.get_submodule(name).weight, layer.weight), name
    saving.save(model, tmp_path / "auto", {})
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "auto").eval()), logits(model))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["int4:g8", "int2:g8:asym", "int8:g8", "int4:channel:asym", "fp8_e4m3:channel"]),
    st.sampled_from([1e-30, 1.0, 1e30]),
    st.integers(0, 2**31),
)
def test_every_rounded_weight_has_codes(spec, size, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 24, generator=generator) * size
    weight[0] = 0.0
    weight[1, :8] = weight[1, :8].abs()
    rounded = fake_quant(weight, spec)
    codes = codes_of(rounded, QuantSpec.parse(spec))
    each = 24 // codes.scale.shape[1]
    zero = 0 if codes.zero is None else codes.zero.double().repeat_interleave(each, 1)
    product = (codes.codes.double() - zero) * codes.scale.double().repeat_interleave(each, 1)
    assert torch.equal(product.float(), rounded)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nvfp4", "nvfp4:onelevel", "mxfp4", "mxfp4:rceil", "mxfp8_e4m3", "mxfp4:b32"]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    st.integers(0, 2**31),
)
def test_every_rounded_weight_of_small_floats_has_codes(spec, size, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 64, generator=generator) * torch.randn(5, 64, generator=generator).exp() * size
    weight[0] = 0.0
    weight[1, ::2] = -0.0
    rounded = fake_quant(weight.bfloat16(), spec)
    parsed = QuantSpec.parse(spec)
    if not rounded.isfinite().all():
        assert block_float_tensors(rounded, parsed) is None
        return
    found = block_float_tensors(rounded, parsed)
    tensors = {f"x.{name}": tensor for name, tensor in found.items()}
    made = blocks(tensors, "x", 16 if spec.startswith("nvfp4") else 32)
    assert torch.equal(made.view(torch.int16), rounded.view(torch.int16))


def test_small_floats_that_do_not_fit_have_no_codes():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 64, generator=generator).bfloat16()
    for text in ("nvfp4", "mxfp4", "mxfp8_e4m3"):
        spec = QuantSpec.parse(text)
        assert block_float_tensors(weight, spec) is None
        assert block_float_tensors(fake_quant(weight.float(), text), spec) is None
        assert block_float_tensors(fake_quant(weight[:, :40], text), spec) is None
        assert block_float_tensors(fake_quant(weight, text).clone().fill_(torch.nan), spec) is None
        zeros = block_float_tensors(torch.zeros_like(weight), spec)
        assert all(torch.isfinite(x.float()).all() for x in zeros.values())


def test_codes_of_four_bits_lie_two_in_a_byte_the_first_in_the_low_half():
    weight = torch.tensor([E2M1 + [-x for x in E2M1]]).bfloat16()
    found = block_float_tensors(weight * 0.25, QuantSpec.parse("nvfp4:onelevel"))
    assert found["weight_packed"].tolist() == [[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]
    assert found["weight_scale"].float().tolist() == [[0.25]]
    assert found["weight_global_scale"].tolist() == [1.0]
    found = block_float_tensors(torch.cat([weight, weight], 1) * 0.25, QuantSpec.parse("mxfp4"))
    assert found["weight_scale"].tolist() == [[125]]


def test_weights_that_are_not_on_the_grid_have_none():
    assert codes_of(torch.randn(4, 32), QuantSpec.parse("int4:g32")) is None
    for spec in ("int3:g32", "nf4:g32", "mxfp4", "int4:tensor", "int4:g20", "fp8_e5m2:channel"):
        weight = fake_quant(torch.randn(4, 32), spec)
        assert codes_of(weight, QuantSpec.parse(spec)) is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("w4a8:g32", "holds weights alone, and the input of model.layers.0"),
        ("w4a16:g32,rot=hadamard:32", "rotated: use layout qscale"),
        ("w=int3:g32", r"q_proj \(int3:g32\)"),
        ("w=nvfp4", "mxfp8_e4m3 of bfloat16 models"),
    ],
)
def test_what_the_layout_does_not_hold_is_refused_or_goes_elsewhere(tmp_path, recipe, message):
    model = make()
    quantize_trained(model, recipe, "rtn", TOKENS)
    with pytest.raises(ConfigError, match=message):
        saving.save(model, tmp_path / "out", {}, layout="compressed-tensors")
    assert list(tmp_path.iterdir()) == []
    saving.save(model, tmp_path / "auto", {})
    layout = json.loads((tmp_path / "auto" / "qscale.json").read_text())["layout"]
    assert layout == ("plain" if recipe in ("w=int3:g32", "w=nvfp4") else "qscale")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "auto").eval()
    assert torch.equal(logits(loaded), logits(model))


def test_a_layer_off_the_grid_stays_as_weights_beside_packed_ones(tmp_path):
    model = make()
    quantize_trained(model, "w4a16:g32,down_proj.weight=int3:g32", "rtn", TOKENS)
    saving.save(model, tmp_path / "out", {})
    targets = read(tmp_path / "out").keys()
    assert len(targets) == 12 and not any(name.endswith("down_proj") for name in targets)
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(loaded), logits(model))


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match="known: auto, compressed-tensors"):
        chosen("gguf", [], lambda _: {})
