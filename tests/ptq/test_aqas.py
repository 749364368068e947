"""AQAS's search against a plain float64 grid, and what it is worth with weights and inputs quantized."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.drawn import draw, layer, statistics
from ptq.trained import loss, trained, windows
from ptq.uneven import make

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, hadamard
from qscale.ptq.layers import Site
from qscale.ptq.methods.aqas import AQAS
from qscale.ptq.run import quantize_trained
from qscale.quantizers import make_quantizer


def _site(weights, x, spec, input_spec):
    layers = [layer(weight, spec) for weight in weights]
    if input_spec is not None:
        quantizer = make_quantizer(
            "absmax", QuantSpec.parse(input_spec), operand="input", shape=(x.shape[1],)
        )
        for one in layers:
            one.input = quantizer
    return Site(layers=layers, statistics=statistics(x))


def _error(weights, x, spec, input_spec, scale):
    s = scale.double()
    inputs = (x.double() / s).float()
    if input_spec is not None:
        inputs = fake_quant(inputs, input_spec)
    return sum(
        float(
            (
                inputs.double() @ fake_quant((w.double() * s).float(), spec).double().t()
                - x.double() @ w.double().t()
            )
            .square()
            .sum()
        )
        for w in weights
    )


def _grid(weights, x, grid):
    largest = torch.stack([w.abs() for w in weights]).double().amax((0, 1))
    inputs = x.double().abs().amax(0)
    for i in range(grid + 1):
        alpha = i / grid
        s = inputs**alpha / largest.clamp(min=1e-5) ** (1 - alpha)
        yield torch.where(inputs > 0, s.clamp(min=1e-5), 1.0).float()


@pytest.mark.parametrize(
    ("spec", "input_spec"),
    [
        ("int4:g8", "int8:token"),
        ("int4:channel", "int4:token"),
        ("dint4:g8", "int8:token"),
        ("int3:g8:asym", None),
        ("fp4_e2m1:channel", "fp4_e2m1:tensor"),
        ("nvfp4", "nvfp4"),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_the_search_is_that_of_a_plain_grid(spec, input_spec, seed):
    weight, x = draw(6, 16, seed=seed)
    weights = [weight, draw(6, 16, seed=seed + 10)[0]]
    candidates = [torch.ones(16), *_grid(weights, x, 20)]
    errors = [_error(weights, x, spec, input_spec, s) for s in candidates]
    best = min(range(len(errors)), key=errors.__getitem__)
    change = AQAS().transform(_site(weights, x, spec, input_spec))
    if best == 0:
        assert change is None
    else:
        torch.testing.assert_close(change.scale, candidates[best], rtol=1e-6, atol=0)
        assert errors[best] < errors[0]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["int2:g8", "dint4:channel", "int4:tensor", "mxfp4", "int4:g8@torchao"]),
    st.sampled_from(["int8:token", "int4:g8", "fp8_e4m3:tensor", None]),
    st.integers(1, 6),
    st.sampled_from([8, 32]),
    st.integers(0, 2**31),
)
def test_it_never_ends_worse_than_without(spec, input_spec, rows, width, seed):
    weight, x = draw(rows, width, seed=seed)
    if seed % 3 == 0:
        x[:, 0] = 0.0
    change = AQAS(grid=4).transform(_site([weight], x, spec, input_spec))
    one = torch.ones(width)
    errors = [
        _error([weight], x, spec, input_spec, s) for s in (one, one if change is None else change.scale)
    ]
    assert errors[1] <= errors[0] * (1 + 1e-5)


def test_it_searches_in_the_basis_of_the_rotation():
    weight, x = draw(6, 16)
    site = _site([weight], x, "int4:g8", "int4:token")
    site.layers[0].rotate = lambda rows: hadamard(rows, 16)

    def error(s):
        given = fake_quant(hadamard(x / s, 16), "int4:token").double()
        rounded = fake_quant(hadamard(weight * s, 16), "int4:g8").double()
        return float((given @ rounded.t() - x.double() @ weight.double().t()).square().sum())

    candidates = [torch.ones(16), *_grid([weight], x, 20)]
    best = min(candidates, key=error)
    change = AQAS().transform(site)
    torch.testing.assert_close(torch.ones(16) if change is None else change.scale, best, rtol=1e-6, atol=0)


def test_an_input_that_nothing_quantizes_stays():
    weight, x = draw(4, 16)
    site = _site([weight], x, "int4:g8", None)
    site.layers[0].quantizer = None
    assert AQAS().transform(site) is None


@pytest.mark.parametrize("recipe", ["w4a8:g32"])
def test_a_trained_model_loses_less_than_by_rounding_to_nearest(recipe):
    model = trained()
    report = quantize_trained(model, recipe, "aqas", windows(3, 32))
    plain = trained()
    quantize_trained(plain, recipe, "rtn", windows(3, 32))
    assert report.relmse < report.relmse_nearest
    assert loss(model) < loss(plain)


@pytest.mark.parametrize("family", ["qwen3", "gpt_neox", "opt"])
def test_every_family_has_a_smaller_error(family):
    from ptq.uneven import TOKENS

    report = quantize_trained(make(family), "w4a4:g32", "aqas", TOKENS)
    assert report.relmse < report.relmse_nearest


def test_the_command_takes_dint4_weights_and_the_length_of_the_task(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from qscale.cli import main

    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a small text" for i in range(9000)))
    arguments = ["ptq", "--model", tmp_path / "model", "--corpus", f"file:{tmp_path / 'text.txt'}"]
    arguments += ["--recipe", "w=dint4:g32,a=int8:token", "--method", "aqas", "--length", 16]
    arguments += ["--windows", 8, "--eval-windows", 8, "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="qscale")
    assert result.exit_code == 0, result.output
    end = json.loads(result.stdout.splitlines()[-1])
    assert end["method"] == "aqas" and end["calibration"]["length"] == 16
    assert end["recipe"] == "w=dint4:g32,a=int8:token" and end["relmse"] <= end["relmse_nearest"]
