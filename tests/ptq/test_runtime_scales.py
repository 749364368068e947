"""RRS and GranQ against plain loops, and where they are put."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.rotating import FAMILIES, make
from ptq.uneven import TOKENS, logits

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.ptq.inputs import Divided, RuntimeScaled, wrapped
from qscale.ptq.methods import Method
from qscale.ptq.run import quantize_trained
from qscale.quantizers import Absmax, QuantLinear, Rotated


def _quantizer(spec):
    return Absmax(QuantSpec.parse(spec))


def _int4_token(row):
    """Symmetric INT4 of one token: 7 is the largest magnitude; ties to even."""
    step = np.float32(np.abs(row).max() / np.float32(7))
    return row if step == 0 else (np.clip(np.rint(row / step), -8, 7) * step).astype(np.float32)


def _rrs(x, group):
    """One channel and one token after another."""
    out = np.empty_like(x)
    for number, sequence in enumerate(x):
        tokens, width = sequence.shape
        s = [max([abs(float(sequence[t, j])) for t in range(tokens)] + [1e-5]) for j in range(width)]
        order = sorted(range(width), key=lambda j: (-s[j], j))
        scale = np.empty(width, dtype=np.float32)
        for start in range(0, width, group):
            members = order[start : start + group]
            for j in members:
                scale[j] = max(s[k] for k in members)
        for t in range(tokens):
            out[number, t] = _int4_token(sequence[t] / scale) * scale
    return out


def _draw(*shape, seed=0):
    draw = np.random.RandomState(seed)
    return (draw.standard_normal(shape) * np.exp(2 * draw.standard_normal(shape[-1]))).astype(np.float32)


@pytest.mark.parametrize("group", [1, 3, 8, 128])
@pytest.mark.parametrize("seed", range(3))
def test_rrs_is_a_plain_loop_exact(group, seed):
    x = _draw(3, 5, 20, seed=seed)
    x[:, :, 4] = 0.0
    x[0, :, 7] = x[0, :, 8]  # a tie
    got = RuntimeScaled(_quantizer("int4:token"), "sequence", group)(torch.from_numpy(x))
    assert np.array_equal(got.numpy(), _rrs(x, group))


def test_the_loop_would_show_another_group():
    x = _draw(2, 5, 20)
    got = RuntimeScaled(_quantizer("int4:token"), "sequence", 4)(torch.from_numpy(x))
    assert not np.array_equal(got.numpy(), _rrs(x, 5))


def test_granq_is_a_grid_for_each_channel_of_the_batch_exact():
    x = _draw(3, 5, 20)
    x[:, :, 4] = 0.0
    wanted = np.empty_like(x)
    s = np.maximum(np.abs(x).reshape(-1, 20).max(0), np.float32(1e-5))
    step = np.float32(np.abs(x / s).max() / np.float32(7))
    for index in np.ndindex(3, 5):
        for j in range(20):
            scaled = x[(*index, j)] / s[j]
            wanted[(*index, j)] = np.float32(np.clip(np.rint(scaled / step), -8, 7) * step) * s[j]
    got = RuntimeScaled(_quantizer("int4:tensor"), "batch")(torch.from_numpy(x))
    assert np.array_equal(got.numpy(), wanted)


def test_sequences_do_not_see_each_other_and_a_batch_does():
    x = torch.from_numpy(_draw(2, 6, 16))
    other = x.clone()
    other[1] *= 50
    for over, same in (("sequence", True), ("batch", False)):
        module = RuntimeScaled(_quantizer("int4:token"), over)
        assert torch.equal(module(x)[0], module(other)[0]) == same


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["int4:token", "int8:g4", "mxfp4", "int4:tensor:asym"]),
    st.sampled_from(["sequence", "batch"]),
    st.integers(1, 40),
    st.sampled_from([(7,), (3, 7), (2, 3, 7), (0, 7), (2, 0, 7)]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_shape_comes_back_with_no_more_than_its_rounding(spec, over, group, shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = RuntimeScaled(_quantizer(spec), over, group)(x)
    assert y.shape == x.shape and y.dtype == dtype
    if x.numel():
        assert float((y - x).float().abs().max()) <= 0.6 * float(x.float().abs().max())


def test_a_nan_spoils_its_channels_scale_and_zeros_stay_zeros():
    module = RuntimeScaled(_quantizer("int4:token"), "sequence", 4)
    assert not module(torch.zeros(2, 3, 8)).any()
    x = torch.ones(1, 3, 8)
    x[0, 1, 2] = float("nan")
    assert bool(module(x).isnan().any())


def test_a_wrapper_goes_behind_factors_and_rotations():
    inner = _quantizer("int4:g8")
    divided = Divided(Rotated(inner, 8, None), torch.full((8,), 2.0))
    new = wrapped(divided, lambda q: RuntimeScaled(q, "batch"))
    assert isinstance(new, Divided) and isinstance(new.quantizer.quantizer, RuntimeScaled)
    assert divided.quantizer.quantizer is inner  # the old one serves others still
    x = torch.from_numpy(_draw(2, 3, 8))
    wanted = RuntimeScaled(inner, "batch")(Rotated(None, 8, None)(x / 2.0))
    assert torch.equal(new(x), wanted)
    for module in (None, divided, Divided(None, torch.ones(8)), Rotated(None, 8, None)):
        assert wrapped(module, lambda q: q) is module


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_of_every_family_gets_one(family):
    model = make(family)
    quantize_trained(model, "w8a8:g32", "quarot+rrs(group=8)", TOKENS)
    for layer in (m for m in model.modules() if isinstance(m, QuantLinear)):
        found = [m for m in layer.input_quantizer.modules() if isinstance(m, RuntimeScaled)]
        assert len(found) == 1 and found[0].group == 8
    q = [m for n, m in model.named_modules() if n.endswith(("q_proj", "k_proj"))]
    assert all(a.input_quantizer is b.input_quantizer for a, b in zip(q[::2], q[1::2], strict=True))
    assert bool(logits(model).isfinite().all())


def test_after_smoothing_too():
    model = make("gpt_neox")  # exact GELU: factors of fc2 stay at the input
    quantize_trained(model, "w8a8:g32", "quarot+smoothrot+rrs", TOKENS)
    module = model.gpt_neox.layers[0].mlp.dense_4h_to_h.input_quantizer
    assert isinstance(module, Divided) and isinstance(module.quantizer, Rotated)
    assert isinstance(module.quantizer.quantizer, RuntimeScaled)


@pytest.mark.parametrize("method", ["rrs", "granq", "quarot+rrs+gptq"])
def test_a_recipe_without_quantized_inputs_is_refused_before_anything_is_done(method):
    model = make()
    before = model.lm_head.weight.clone()
    with pytest.raises(ConfigError, match="quantizes no inputs"):
        quantize_trained(model, "w4a16:g32", method, TOKENS)
    assert torch.equal(model.lm_head.weight, before)
    quantize_trained(model, "w4a16:g32,fc2.input=int8:g32", "granq", TOKENS)


def test_texts_round_trip():
    for text in ("quarot+rrs(group=8)+gptq", "granq", "quarot(online=false,seed=3)+smoothrot(search=true)"):
        assert str(Method.parse(text)) == text
    with pytest.raises(ConfigError, match="steps that rotate, that transform, one that rounds"):
        Method.parse("rrs+quarot")
