"""Rotations of a model: what it computes stays, and what is saved is a model of its architecture."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ptq.rotating import FAMILIES, make, rotate
from ptq.uneven import TOKENS, logits
from scipy.linalg import hadamard as sylvester
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from qscale.errors import ConfigError, SpecError
from qscale.models.families import FAMILIES as KNOWN
from qscale.models.surgery import quantize_model
from qscale.ptq import saving
from qscale.ptq.blocks import find_blocks
from qscale.ptq.layers import Rounded
from qscale.ptq.methods import Method
from qscale.ptq.methods.quarot import QuaRot
from qscale.ptq.methods.rtn import RTN
from qscale.ptq.residual import NormForm, form_of, layout_of, turn_of
from qscale.ptq.run import quantize_trained
from qscale.quantizers import QuantLinear, Rotated, signs_of

CASES = [
    (family, tied, kv_heads)
    for family in FAMILIES
    for tied in (False, True)
    for kv_heads in ((4, 2) if family in ("llama", "qwen3") else (4,))
]


def _rotated(model, method="quarot"):
    rotate(model, Method.parse(method))
    return model


def _distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture
def unrounded(monkeypatch):
    """Weights that are rotated, and left as they are where they would be rounded."""

    def keep(_self, _layer, weight, _statistics):
        return Rounded(weight=weight, bits=32.0)

    monkeypatch.setattr(RTN, "round", keep)


@pytest.mark.parametrize(("family", "tied", "kv_heads"), CASES)
def test_a_rotated_model_computes_what_it_did(family, tied, kv_heads):
    # RMS norms of transformers compute in float32 whatever comes: their models are no better than that
    exact = 1e-12 if family in ("gpt_neox", "opt") else 1e-5
    for dtype, tolerance in ((torch.float64, exact), (torch.float32, 2e-5)):
        model = make(family, tied=tied, kv_heads=kv_heads).to(dtype)
        before, weights = logits(model), {n: p.clone() for n, p in model.named_parameters() if p.ndim == 2}
        _rotated(model)
        assert _distance(logits(model), before) < tolerance
        after = dict(model.named_parameters())
        assert all(not torch.allclose(after[name], weight, atol=1e-3) for name, weight in weights.items())
        assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("family", "width", "heads"), [("llama", 24, 3), ("opt", 20, 5), ("gpt_neox", 48, 3)]
)
def test_widths_and_heads_that_are_no_powers_of_two_go_too(family, width, heads, unrounded):
    model = make(family, width=width, heads=heads)
    before = logits(model)
    quantize_trained(model, "w2a16:channel", "quarot", TOKENS)
    assert _distance(logits(model), before) < 2e-5


@pytest.mark.parametrize("width", [32, 24, 36, 6, 94])
@pytest.mark.parametrize("keep_mean", [False, True])
def test_a_turn_is_orthogonal_and_keeps_the_mean_where_it_shall(width, keep_mean):
    turn = turn_of(width, "a name", keep_mean=keep_mean)
    R = turn(torch.eye(width, dtype=torch.float64))
    torch.testing.assert_close(R @ R.t(), torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(turn(torch.eye(width)).double(), R, rtol=0, atol=1e-6)
    means = R.sum(1)  # of e_j R, times the width
    assert (float((means - 1).abs().max()) < 1e-12) == keep_mean
    # nearly as even as a Hadamard matrix
    assert float(R.abs().amax(1).mean()) < (2 if keep_mean else 1 + 1e-9) / math.sqrt(turn.block)


def test_a_turn_is_that_of_scipys_matrix_and_a_householder_reflection():
    n = 32
    H = sylvester(n) / math.sqrt(n) @ np.diag(signs_of("x", n).double().numpy())
    x = np.random.RandomState(0).standard_normal((3, n))
    np.testing.assert_allclose(turn_of(n, "x")(torch.from_numpy(x)).numpy(), x @ H.T, atol=1e-12)
    ones = np.ones(n) / math.sqrt(n)
    d = H @ ones - ones
    P = np.eye(n) - 2 * np.outer(d, d) / (d @ d)
    kept = turn_of(n, "x", keep_mean=True)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(kept, x @ (P @ H).T, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["quarot+smoothquant(inputs=all)+awq(clip=false)", "quarot+outlier_tune"])
def test_other_changes_follow_and_leave_what_the_model_computes(family, method, unrounded):
    model = make(family)
    before = logits(model)
    quantize_trained(model, "w2a16:g32", method, TOKENS)
    assert _distance(logits(model), before) < 5e-5


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_stream_between_blocks_is_the_plain_one_rotated(family):
    plain, rotated = make(family).double(), _rotated(make(family).double())
    seen = []
    for model in (plain, rotated):
        block = list(find_blocks(model).values())[1]
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        logits(model)
    turn = turn_of(32, "quarot.0", keep_mean=family == "opt")
    assert _distance(seen[1], turn(seen[0])) < 1e-5


def test_values_are_rotated_head_by_head():
    plain, rotated = make(kv_heads=2), make(kv_heads=2)
    before = plain.model.layers[0].self_attn.v_proj.weight.detach().double().view(2, 8, 32)
    _rotated(rotated)
    # the input basis and the gain first, by hand
    gain = plain.model.layers[0].input_layernorm.weight.detach().double()
    turned = turn_of(32, "quarot.0")(before * gain)
    H = torch.from_numpy(sylvester(8) / math.sqrt(8)) * signs_of("quarot.0.values", 8).double()
    wanted = torch.einsum("ij,hjk->hik", H, turned).reshape(16, 32)
    got = rotated.model.layers[0].self_attn.v_proj.weight.detach().double()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_one_block_at_a_time_is_the_same_with_the_others_without_storage():
    """What a pass that reads blocks from disk does."""
    whole, parts = make("opt"), make("opt")
    _rotated(whole)
    blocks = find_blocks(parts)
    away = {name: copy.deepcopy(block) for name, block in blocks.items()}
    for block in blocks.values():
        block.to("meta")
    step = QuaRot()
    step.rotate_outer(parts)
    for name, block in reversed(away.items()):
        step.rotate_block(parts, name, block)
    outer = {n: p for n, p in parts.state_dict().items() if not p.is_meta}
    wanted = whole.state_dict()
    assert outer and all(torch.equal(p, wanted[n]) for n, p in outer.items())
    for name, block in away.items():
        assert all(torch.equal(p, wanted[f"{name}.{n}"]) for n, p in block.state_dict().items())


@pytest.mark.parametrize(("family", "tied", "kv_heads"), CASES)
def test_rotations_at_run_time_leave_what_the_model_computes(family, tied, kv_heads, unrounded):
    model = make(family, tied=tied, kv_heads=kv_heads)
    before = logits(model)
    quantize_trained(model, "w2a16:g32", "quarot", TOKENS)
    online = [m for m in model.modules() if isinstance(m, QuantLinear) and m.input_quantizer is not None]
    assert len(online) == 4 and {m.input_quantizer.head for m in online} == {None, 8}
    assert _distance(logits(model), before) < 2e-5


def test_a_rotation_of_the_recipe_stays_the_only_one_of_its_layers(unrounded):
    model = make()
    before = logits(model)
    quantize_trained(model, "w2a16:g32,rot=hadamard:16", "quarot", TOKENS)
    found = {
        id(m): m.block
        for layer in model.modules()
        if isinstance(layer, QuantLinear)
        for m in layer.input_quantizer.modules()
        if isinstance(m, Rotated)
    }
    assert set(found.values()) == {16}
    assert _distance(logits(model), before) < 2e-5


def test_layers_that_stay_unquantized_are_rotated_in_their_weights_alone(unrounded):
    model = make()
    before = logits(model)
    quantize_trained(model, "w2a16:g32,o_proj.weight=none,keep=first", "quarot", TOKENS)
    online = [n for n, m in model.named_modules() if isinstance(m, Rotated)]
    assert online == ["model.layers.1.mlp.down_proj.input_quantizer"]
    assert _distance(logits(model), before) < 2e-5


@pytest.mark.parametrize(("family", "tied", "kv_heads"), CASES)
def test_a_saved_model_is_one_of_its_architecture(tmp_path, family, tied, kv_heads):
    plain = _rotated(make(family, tied=tied, kv_heads=kv_heads))
    wanted = logits(plain)
    plain.save_pretrained(tmp_path / "rotated")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "rotated").eval()
    assert torch.equal(logits(loaded), wanted) and not loaded.config.tie_word_embeddings

    quantized = make(family, tied=tied, kv_heads=kv_heads)
    quantize_trained(quantized, "w3a16:g32", "quarot+gptq", TOKENS)
    wanted = logits(quantized)
    # turned back is what was rotated at run time
    saving.save(quantized, tmp_path / "quantized", {}, layout="plain")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized").eval()
    assert _distance(logits(loaded), wanted) < 1e-4


def test_bfloat16_weights_move_by_their_rounding_alone():
    model = make().to(torch.bfloat16)
    before = logits(make().to(torch.bfloat16).float())
    assert _distance(logits(_rotated(model).float()), before) < 0.1


@pytest.mark.parametrize(
    ("norm", "form"),
    [
        (LlamaRMSNorm(12), NormForm(offset=0, centred=False)),
        (GemmaRMSNorm(12), NormForm(offset=1, centred=False)),
        (nn.LayerNorm(12), NormForm(offset=0, centred=True)),
        (nn.LayerNorm(12, bias=False), NormForm(offset=0, centred=True)),
    ],
)
def test_what_a_norm_computes_is_found_out(norm, form):
    before = copy.deepcopy(norm.state_dict())
    assert norm.weight.requires_grad
    assert form_of("norm", norm) == form
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_a_gain_that_is_stored_less_one_is_taken_out():
    """A Llama whose norms are those of Gemma."""
    model = make()
    for parent, name in [(model.model, "norm")] + [
        (block, name)
        for block in model.model.layers
        for name in ("input_layernorm", "post_attention_layernorm")
    ]:
        norm = GemmaRMSNorm(32)
        norm.weight.data.copy_(getattr(parent, name).weight.detach() - 1)
        setattr(parent, name, norm)
    before = logits(model)
    _rotated(model)
    assert _distance(logits(model), before) < 2e-5
    assert not model.model.norm.weight.detach().any()


class _OddNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True) * self.weight


def _behind(model):
    model.model.decoder.layers[1].do_layer_norm_before = False


def _more(model):
    model.model.layers[1].pre_feedforward_layernorm = LlamaRMSNorm(32)


def _between(model):
    model.model.project_in = nn.Linear(32, 32)


def _odd(model):
    model.model.layers[0].input_layernorm = _OddNorm()


def _mixed(model):
    model.model.layers[0].input_layernorm = nn.LayerNorm(32)


def _nameless(model):
    del model.model.layers[1].self_attn.head_dim


def _zero(model):
    model.model.decoder.final_layer_norm.weight.data[3] = 0.0


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("opt", _behind, r"layers\.1 has its norms behind its layers"),
        ("llama", _more, r"layers\.1 .* has parts with other names"),
        ("llama", _between, r"more in it than .*model\.project_in"),
        ("llama", _odd, "neither an RMS norm nor a layer norm"),
        ("llama", _mixed, "compute different things"),
        ("llama", _nameless, "does not say how long its heads are"),
        ("opt", _zero, "in channel 3 its gain is 0"),
    ],
)
def test_an_architecture_that_cannot_be_rotated_is_refused_and_left_alone(family, change, message):
    model = make(family, tied=True)
    change(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        quantize_trained(model, "w4a4:g32", "quarot", TOKENS)
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert not any(isinstance(m, QuantLinear) for m in model.modules())
    assert model.config.tie_word_embeddings


def test_an_odd_width_has_no_rotation():
    with pytest.raises(SpecError, match="no even block"):
        turn_of(33, "x")


def test_every_family_has_a_layout():
    assert set(KNOWN) == set(FAMILIES)
    for family in KNOWN:
        for name, block in find_blocks(make(family)).items():
            layout = layout_of(name, block)
            roles = {role: {x for n, x in _linears(family) if n == role} for role in ("o", "fc2")}
            assert roles == {"o": {layout.o}, "fc2": {layout.fc2}}


def _linears(family):
    from qscale.models.ladder import shape_of

    shape = replace(shape_of("tiny-20k")).in_family(family)
    return [(linear.role, linear.name) for linear in KNOWN[family].linears(shape)]


def test_the_seed_alone_decides():
    models = [_rotated(make(), text) for text in ("quarot", "quarot(seed=0)", "quarot(seed=1)")]
    weights = [model.lm_head.weight for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2], atol=1e-2)


def test_surgery_of_a_rotated_model_is_that_of_the_pass():
    """By hand: rotate, replace, rotate inputs."""
    by_hand, passed = make(), make()
    method = Method.parse("quarot")
    rotate(by_hand, method)
    quantize_model(by_hand, "w4a4:g16")
    for name, block in find_blocks(by_hand).items():
        method.rotate_inputs(by_hand, name, block)
    quantize_trained(passed, "w4a4:g16", "quarot", TOKENS)
    assert torch.equal(logits(by_hand), logits(passed))
