"""bitsandbytes' rounding as steps: its outputs bit for bit, and the bits that it keeps."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from bits import assert_same_bits
from golden_cases import cases
from ptq.drawn import draw, layer, statistics
from ptq.trained import loss, trained, windows
from ptq.uneven import TOKENS, make

from qscale.errors import ConfigError, SpecError
from qscale.kernels import fake_quant
from qscale.ptq.methods.bnb import BnbInt8, BnbNF4
from qscale.ptq.run import quantize_trained

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install bitsandbytes",
)
GOLDEN = [
    case
    for case in cases()
    if case.peer == "bitsandbytes" and case.format == "nf4" and case.input != "special"
]


def _nf4(weight, block, **options):
    one = layer(weight.float(), f"nf4:g{block}")
    one.dtype = weight.dtype
    BnbNF4().check(one)
    return BnbNF4(**options).round(one, weight.float(), statistics(torch.ones(1, weight.shape[1])))


@needs_library
@pytest.mark.skipif(not GOLDEN, reason="no folder shared/golden beside the repository")
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.id)
def test_nf4_has_the_bits_of_the_library_exact(case):
    got = _nf4(case.inputs()["x"], case.group_size).weight.to(case.dtype)
    wanted = case.outputs()["y"]
    if case.dtype == torch.bfloat16:  # whether subnormal values stay depends on the CPU
        tiny = torch.finfo(case.dtype).smallest_normal
        got, wanted = (torch.where(y.abs() < tiny, torch.zeros_like(y), y) for y in (got, wanted))
    assert_same_bits(got, wanted)


@needs_library
@pytest.mark.parametrize("shape", [(6, 128), (5, 48), (1, 7), (3, 200)])
def test_nf4_is_that_of_flat_blocks_and_bits_are_those_kept(shape):
    weight = draw(*shape)[0]
    rounded = _nf4(weight, 64)
    wanted = fake_quant(weight.reshape(1, -1), "nf4:g64@bitsandbytes").view(shape)
    assert_same_bits(rounded.weight, wanted)
    count = weight.numel()
    stored = 8 * -(-count // 2) + 32 * -(-count // 64)
    assert rounded.bits == stored / count


@needs_library
def test_double_quantization_takes_fewer_bits_and_moves_little():
    weight = draw(256, 128)[0]
    plain, double = _nf4(weight, 64), _nf4(weight, 64, double=True)
    assert plain.bits == 4.5 and double.bits == 4 + 8 / 64 + (32 * 2 + 32) / weight.numel()
    assert 0 < float((plain.weight - double.weight).abs().max()) < 0.02 * float(weight.abs().max())


@needs_library
def test_int8_is_its_formula():
    weight = draw(7, 40)[0]
    weight[2] = 0.0
    rounded = BnbInt8().round(layer(weight, "int8:channel"), weight, statistics(torch.ones(1, 40)))
    half = weight.numpy().astype(np.float16).astype(np.float64)
    largest = np.abs(half).max(1, keepdims=True)
    codes = np.rint(half * 127 / np.where(largest > 0, largest, 1))
    np.testing.assert_allclose(rounded.weight, codes * largest / 127, rtol=1e-6, atol=0)
    assert rounded.bits == 8 + 32 / 40


@needs_library
def test_other_specs_are_refused():
    for step, spec in ((BnbNF4(), "int4:g64"), (BnbNF4(), "nf4:g48"), (BnbInt8(), "int8:g32")):
        with pytest.raises(SpecError, match=step.name):
            step.check(layer(torch.ones(4, 64), spec))
    with pytest.raises(ConfigError, match="beyond float16"):
        BnbInt8().round(layer(torch.ones(2, 4)), torch.full((2, 4), 1e6), statistics(torch.ones(1, 4)))


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    for method, spec in (("bnb_nf4", "w=nf4:g64"), ("bnb_int8", "w8a16:channel")):
        with pytest.raises(ConfigError, match="pip install bitsandbytes"):
            quantize_trained(make(), spec, method, TOKENS)


@needs_library
def test_a_trained_model_loses_little_by_int8_and_more_by_nf4():
    losses = [loss(trained())]
    for method, spec in (("bnb_int8", "w8a16:channel"), ("bnb_nf4", "w=nf4:g64"), ("rtn", "w2a16:g64")):
        model = trained()
        report = quantize_trained(model, spec, method, windows(3, 8))
        assert report.method == method
        losses.append(loss(model))
    assert abs(losses[1] - losses[0]) < 2e-3 < losses[2] - losses[0] < losses[3] - losses[0]
