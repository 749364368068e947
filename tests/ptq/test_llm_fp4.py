"""LLM-FP4's searches against brute force with a rounding of the paper's own formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.drawn import draw, layer, statistics
from ptq.trained import loss, trained, windows
from ptq.uneven import TOKENS, logits, make

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq.inputs import Static
from qscale.ptq.layers import Site
from qscale.ptq.methods.llm_fp4 import LLMFP4
from qscale.ptq.run import quantize_trained
from qscale.quantizers import Absmax, QuantLinear

W4A4 = "w=fp4_e2m1:channel,a=fp4_e2m1:tensor"


def _fp(x, exponent, mantissa, bias):
    """The paper's rounding, float64: clip, the exponent of each value, a step of its own."""
    largest = (2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - bias)
    x = x.double().clamp(-largest, largest)
    e = (x.abs().log2() + bias).floor().clamp(min=1)
    step = 2.0 ** (e - mantissa - bias)
    return (x / step).round() * step


def _biases(largest, exponent, mantissa):
    b0 = 2**exponent - math.log2(largest) + math.log2(2 - 2.0**-mantissa) - 1
    return [b0, *(b0 * (0.01 + i * (1.2 - 0.01) / 100) for i in range(100))]


def _site(weights, x, spec="fp4_e2m1:channel", input_spec="fp4_e2m1:tensor"):
    layers = [layer(weight, spec) for weight in weights]
    for one in layers:
        one.input = None if input_spec is None else Absmax(QuantSpec.parse(input_spec))
    return Site(layers=layers, statistics=statistics(x))


@pytest.mark.parametrize(("exponent", "mantissa"), [(2, 1), (1, 2), (4, 3), (5, 2), (3, 2)])
def test_a_real_bias_is_a_scale(exponent, mantissa):
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    for bias in (0.3, 2.71, -1.4, 7.0):
        scale = 2.0 ** (2 ** (exponent - 1) - 1 - bias)
        got = fake_quant(x, f"fp_e{exponent}m{mantissa}:channel", scale=torch.tensor(scale))
        torch.testing.assert_close(got.double(), _fp(x, exponent, mantissa, bias), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scales_of_rows_are_those_of_brute_force(seed):
    weight, x = draw(5, 12, seed=seed)
    inputs = fake_quant(x, "fp4_e2m1:tensor").double()
    target = x.double() @ weight.double().t()
    totals = {}
    for exponent, mantissa in ((2, 1), (1, 2), (3, 0)):
        rows = []
        for row in range(5):
            biases = _biases(float(weight[row].abs().max()), exponent, mantissa)
            errors = [
                float((inputs @ _fp(weight[row], exponent, mantissa, b) - target[:, row]).square().sum())
                for b in biases
            ]
            rows.append((min(errors), biases[min(range(101), key=errors.__getitem__)]))
        totals[exponent, mantissa] = rows
    best = min(totals, key=lambda split: sum(error for error, _ in totals[split]))
    spec, scales = LLMFP4().weight_scales(weight, QuantSpec.parse("fp4_e2m1:channel"), inputs, target)
    assert (spec.row.exponent_bits, spec.row.mantissa_bits) == best
    bias = 2 ** (best[0] - 1) - 1
    wanted = torch.tensor([2.0 ** (bias - b) for _, b in totals[best]])
    torch.testing.assert_close(scales, wanted, rtol=1e-5, atol=0)


def test_the_input_scale_is_that_of_brute_force():
    weight, x = draw(5, 12)
    target = x.double() @ weight.double().t()
    errors = {}
    for exponent, mantissa in ((2, 1), (1, 2), (3, 0)):
        for b in _biases(float(x.abs().max()), exponent, mantissa):
            output = _fp(x, exponent, mantissa, b) @ weight.double().t()
            errors[exponent, b] = float((output - target).square().sum())
    (exponent, b) = min(errors, key=errors.__getitem__)
    error, spec, scale = LLMFP4().input_scale(
        x, QuantSpec.parse("fp4_e2m1:tensor"), [weight.double()], [target]
    )
    assert error == pytest.approx(min(errors.values()), rel=1e-5) and spec.row.exponent_bits == exponent
    assert scale == pytest.approx(2.0 ** (2 ** (exponent - 1) - 1 - b), rel=1e-5)


def _objective(weights, x, rounded, given):
    return sum(
        float((given.double() @ r.double().t() - x.double() @ w.double().t()).square().sum())
        for w, r in zip(weights, rounded, strict=True)
    )


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["fp4_e2m1", "fp4_e3m0", "fp6_e2m3", "fp8_e4m3"]),
    st.integers(1, 5),
    st.sampled_from([1, 6, 16]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_it_never_ends_worse_than_absmax_scales(name, rows, width, formats, seed):
    weight, x = draw(rows, width, tokens=20, seed=seed)
    weights = [weight, draw(2, width, seed=seed + 1)[0]]
    if seed % 3 == 0:
        x[:, 0], weights[0][0] = 0.0, 0.0
    step = LLMFP4(candidates=20, formats=formats)
    site = _site(weights, x, f"{name}:channel", f"{name}:tensor")
    before = _objective(
        weights, x, [fake_quant(w, f"{name}:channel") for w in weights], fake_quant(x, f"{name}:tensor")
    )
    change = step.transform(site)
    found = statistics(x).divided(change.scale)
    given_ = change.quantizer(found.rows)
    rounded = []
    for one in site.layers:
        one.weight, one.input = one.weight * change.scale, change.quantizer
        rounded.append(step.round(one, one.weight, found).weight)
    after = _objective([w * change.scale for w in weights], x / change.scale, rounded, given_)
    assert after <= before * (1 + 1e-6) + 1e-12


def test_shifts_are_powers_of_two_and_only_kept_where_they_help():
    weight, x = draw(6, 8)
    x = x * torch.tensor([1.0, 1e-2, 1, 1e-2, 3, 1, 1e-3, 30])
    scale = LLMFP4().transform(_site([weight], x)).scale
    assert torch.equal(scale.log2(), scale.log2().round()) and float(scale.max()) == 1.0
    assert float(scale.min()) >= 2.0**-3
    same = torch.full((20, 8), 2.0)
    assert torch.equal(LLMFP4().transform(_site([weight], same)).scale, torch.ones(8))


@pytest.mark.parametrize(
    ("spec", "input_spec"),
    [
        ("fp4_e2m1:g8", None),
        ("int4:channel", None),
        ("mxfp4", None),
        ("fp4_e2m1:channel", "fp4_e2m1:token"),
        ("fp4_e2m1:channel", "nvfp4"),
    ],
)
def test_other_scales_are_refused(spec, input_spec):
    with pytest.raises(SpecError, match="llm_fp4"):
        LLMFP4().check(_site([torch.ones(4, 32)], torch.ones(3, 32), spec, input_spec).layers[0])


@pytest.mark.parametrize("input_spec", [None, "int8:token"])
def test_inputs_of_other_formats_stay(input_spec):
    weight, x = draw(4, 16)
    site = _site([weight], x, input_spec=input_spec)
    LLMFP4().check(site.layers[0])
    assert LLMFP4().transform(site) is None


@pytest.mark.parametrize("recipe", [W4A4, "w=fp4_e2m1:channel"])
def test_a_trained_model_loses_less_than_by_rounding_to_nearest(recipe):
    model, plain = trained(), trained()
    report = quantize_trained(model, recipe, "llm_fp4", windows(3, 32))
    quantize_trained(plain, recipe, "rtn", windows(3, 32))
    assert report.relmse < 0.95 * report.relmse_nearest
    assert loss(model) < loss(plain)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_pass_leaves_static_scales_and_counts_them(family):
    models = [make(family), make(family)]
    reports = [quantize_trained(model, W4A4, "llm_fp4(candidates=30)", TOKENS) for model in models]
    report = reports[0]
    assert report.relmse < report.relmse_nearest
    layers = [m for m in models[0].modules() if isinstance(m, QuantLinear)]
    assert sum(isinstance(m, Static) for m in models[0].modules()) == len(
        {id(layer.input_quantizer) for layer in layers}
    )
    assert report.bits_per_weight > quantize_trained(make(family), W4A4, "rtn", TOKENS).bits_per_weight
    assert torch.equal(logits(models[0]), logits(models[1]))
