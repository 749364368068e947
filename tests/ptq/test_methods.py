"""Texts of methods, and what each step does to one layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.drawn import draw, layer, statistics

from qscale.errors import ConfigError, SpecError
from qscale.kernels import hadamard
from qscale.ptq.layers import Rounded, Site
from qscale.ptq.methods import METHODS, Method
from qscale.ptq.methods.low_rank import LowRank
from qscale.ptq.methods.outlier_tune import OutlierTune
from qscale.ptq.methods.pb_llm import PBLLM
from qscale.ptq.methods.smoothquant import SmoothQuant
from qscale.ptq.statistics import output_error


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("rtn", "rtn"),
        ("gptq(damping=0.01)", "gptq"),
        ("awq+rtn", "awq"),
        ("smoothquant(alpha=0.50) + gptq( act_order = true )", "smoothquant+gptq(act_order=true)"),
        ("gptq+low_rank(rank=4,weighted=false)", "gptq+low_rank(rank=4,weighted=false)"),
        ("low_rank", "low_rank"),
        ("aqas+llm_fp4+low_rank(lrec=5)+lrq", "aqas+llm_fp4+low_rank(lrec=5)+lrq"),
        ("rtn+lrq(steps=500,rate=0.0005)", "lrq"),
        ("pb_llm(low=0.8,saliency=hessian)", "pb_llm(low=0.8,saliency=hessian)"),
    ],
)
def test_texts_are_made_canonical_and_round_trip(text, canonical):
    method = Method.parse(text)
    assert str(method) == canonical
    assert Method.parse(canonical) == method


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_steps_round_trip(data):
    steps = []
    for kind in ("rotate", "transform", "round", "correct", "tune"):
        of_kind = [step for step in METHODS.values() if step.kind == kind]
        steps += data.draw(
            st.lists(st.sampled_from(of_kind), max_size=1 if kind == "round" else 2, unique=True)
        )
    if steps:
        made = Method(tuple(step() for step in steps))
        assert Method.parse(str(made)) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gtpq", "did you mean 'gptq'"),
        ("", "cannot be read"),
        ("gptq(actorder=true)", "did you mean 'act_order'"),
        ("gptq(damping=-1)", "from 0 to"),
        ("gptq(damping=nan)", "from 0 to"),
        ("gptq(act_order=1)", "true or false"),
        ("gptq(block=1.5)", "a whole number"),
        ("gptq(block)", "parameter=value"),
        ("smoothquant(inputs=some)", "one of norms, all, fc2"),
        ("gptq+rtn", "one that rounds"),
        ("low_rank+gptq", "one that rounds"),
        ("lrq+low_rank", "one that rounds"),
        ("lrq+rtn", "one that rounds"),
        ("awq+awq", "each step once"),
        ("rtn(x=1)", "it has none"),
        ("gptq(block=1,block=2)", "twice"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Method.parse(text)


def test_needs_are_those_of_the_steps():
    assert Method.parse("rtn").needs == ()
    assert Method.parse("smoothquant+gptq").needs == ("moments", "range")


def test_smoothing_is_its_formula_and_leaves_products():
    weight, x = draw(5, 8)
    x[:, 2] = 0.0
    other = torch.randn(3, 8)
    site = Site(layers=[layer(weight), layer(other)], statistics=statistics(x), role="qkv")
    s = SmoothQuant(alpha=0.3).transform(site).scale.double()
    largest = torch.maximum(weight.abs().amax(0), other.abs().amax(0)).double()
    wanted = x.abs().amax(0).double() ** 0.3 / largest**0.7
    wanted[2] = 1.0
    torch.testing.assert_close(s, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close((x.double() / s) @ (weight * s).t(), x.double() @ weight.double().t())
    assert SmoothQuant().transform(Site(layers=site.layers, statistics=site.statistics, role="o")) is None


def test_outlier_tune_brings_every_channel_into_one_range():
    weight, x = draw(5, 8)
    x = x + torch.linspace(-5, 5, 8)
    x[:, 1] = 3.0  # never changes
    change = OutlierTune().transform(Site(layers=[layer(weight)], statistics=statistics(x)))
    moved = (x - change.shift) / change.scale
    ends = torch.stack([moved.amin(0), moved.amax(0)])
    keep = torch.arange(8) != 1
    torch.testing.assert_close(
        ends[:, keep], torch.tensor([[-1.0], [1.0]]).expand(2, 7), rtol=1e-5, atol=1e-5
    )
    assert float(moved[:, 1].abs().max()) == 0.0


def test_low_rank_is_the_best_of_its_rank():
    weight, x = draw(6, 8)
    found = statistics(x)
    rounded = Rounded(weight=layer(weight).nearest(weight), bits=4.5)
    corrected = LowRank(rank=2).correct(layer(weight), weight, rounded, found)
    lost = float(output_error(corrected.weight - weight, found.moments).sum())
    # Eckart and Young: what is left of X E^T are its smaller singular values
    values = torch.linalg.svdvals(x.double() @ (weight - rounded.weight).double().t())
    assert lost == pytest.approx(float(values[2:].square().sum()), rel=1e-4)
    assert corrected.bits == 4.5 + 16 * 2 * 14 / 48
    full = LowRank(rank=100).correct(layer(weight), weight, rounded, found)
    torch.testing.assert_close(full.weight, weight, rtol=1e-4, atol=1e-4)
    assert "rank 6 in place of 100" in full.notes[0]


@pytest.mark.parametrize("saliency", ["magnitude", "hessian"])
@pytest.mark.parametrize("low", [0.0, 0.7, 1.0])
def test_pb_llm_makes_the_part_asked_for_binary(low, saliency):
    weight, x = draw(6, 64)
    one = layer(weight, "int8:g32")
    step = PBLLM(low=low, saliency=saliency, feedback=False)
    rounded = step.round(one, weight, statistics(x))
    if low == 1.0:
        for part, plain in zip(rounded.weight.split(32, dim=1), weight.split(32, dim=1), strict=True):
            mean = plain.mean(1, keepdim=True)
            size = (plain - mean).abs().mean(1, keepdim=True)
            wanted = mean + torch.where(plain >= mean, size, -size)
            torch.testing.assert_close(part, wanted, rtol=1e-5, atol=1e-6)
    if low == 0.0:
        assert torch.equal(rounded.weight, one.nearest(weight))
    assert rounded.bits == pytest.approx(low + 8 * (1 - low) + 1 + 16 / 32 + 32 / 32)


def test_pb_llm_with_feedback_is_never_worse_than_without():
    for seed in range(8):
        weight, x = draw(4, 48, seed=seed)
        found, one = statistics(x), layer(weight, "int8:g32")
        errors = [
            output_error(PBLLM(feedback=feedback).round(one, weight, found).weight - weight, found.moments)
            for feedback in (False, True)
        ]
        assert bool((errors[1] <= errors[0] * (1 + 1e-12)).all())


@pytest.mark.parametrize("name", ["gptq", "pb_llm"])
def test_a_quantizer_with_other_scales_is_refused(name):
    one = layer(torch.randn(4, 32), "int4:g32", method="quest")
    with pytest.raises(SpecError, match="absmax or clip"):
        Method.parse(name).check(one)
    with pytest.raises(SpecError, match="torchao"):
        Method.parse(name).check(layer(torch.randn(4, 32), "int4:g32@torchao"))


def test_rotated_products_are_the_plain_ones():
    weight, x = draw(5, 16)
    torch.testing.assert_close(
        hadamard(x, 16) @ hadamard(weight, 16).t(), x @ weight.t(), rtol=1e-4, atol=1e-3
    )
