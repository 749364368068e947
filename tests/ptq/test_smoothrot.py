"""SmoothRot: its formula, its search against a plain one, and the rotation that follows."""

import pytest
import torch
from ptq.drawn import draw, layer, statistics
from ptq.rotating import FAMILIES, make
from ptq.uneven import TOKENS, logits

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, hadamard
from qscale.ptq.layers import Layer, Rounded, Site
from qscale.ptq.methods.rtn import RTN
from qscale.ptq.methods.smoothrot import SmoothRot, output_loss
from qscale.ptq.run import quantize_trained
from qscale.quantizers import Absmax, QuantLinear, Rotated, signs_of


def _site(weight, x, signs, spec="int4:g8", inputs="int4:token", role="fc2"):
    rotated = Rotated(Absmax(QuantSpec.parse(spec)), 16, signs)
    one = Layer(
        name="b.0.fc2",
        weight=weight.clone(),
        quantizer=rotated.quantizer,
        rotate=rotated.basis,
        unrotate=rotated.from_basis,
    )
    quantizer = None if inputs is None else Rotated(Absmax(QuantSpec.parse(inputs)), 16, signs)
    return Site(layers=[one], statistics=statistics(x), role=role, quantizer=quantizer)


def _scale(x, weight, alpha):
    largest = weight.abs().amax(0).double().clamp(min=1e-5)
    return (x.abs().amax(0).double() ** alpha / largest ** (1 - alpha)).clamp(min=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.7, 1.0])
def test_scales_are_their_formula_with_magnitudes_of_weights(alpha):
    weight, x = draw(5, 16)
    weight[:, 3] = -weight[:, 3].abs()  # the largest is negative: the authors' code takes the least of these
    change = SmoothRot(alpha=alpha).transform(_site(weight, x, None))
    torch.testing.assert_close(change.scale.double(), _scale(x, weight, alpha), rtol=1e-6, atol=0)
    assert change.shift is None
    assert SmoothRot().transform(_site(weight, x, None, role="o")) is None


def _plain_search(weight, x, signs, spec, inputs):
    """Every alpha by matrix products: smoothed, rotated, rounded."""
    errors = {}
    for alpha in [0.5] + [i / 20 for i in range(21)]:
        s = _scale(x, weight, alpha).float()
        a, w = hadamard(x / s, 16, signs), hadamard(weight * s, 16, signs)
        a = a if inputs is None else fake_quant(a, inputs)
        y = a.double() @ fake_quant(w, spec).double().t()
        errors[alpha] = float((y - x.double() @ weight.double().t()).square().sum())
    return errors


@pytest.mark.parametrize("inputs", ["int4:token", None])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_a_plain_one_and_never_worse_than_its_start(inputs, seed):
    weight, x = draw(6, 16, seed=seed)
    x[:, 5] *= 40
    signs = signs_of("s", 16)
    errors = _plain_search(weight, x, signs, "int4:g8", inputs)
    best = min(errors, key=errors.__getitem__)
    site = _site(weight, x, signs, inputs=inputs)
    change = SmoothRot(search=True).transform(site)
    torch.testing.assert_close(change.scale.double(), _scale(x, weight, best), rtol=1e-6, atol=0)
    for start in (0.0, 0.33, 0.5, 1.0):
        found = output_loss(site, SmoothRot(alpha=start, search=True).transform(site))
        assert found <= output_loss(site, SmoothRot(alpha=start).transform(site))
    assert output_loss(site, change) == pytest.approx(errors[best], rel=1e-4)


def test_an_input_that_is_always_zero_keeps_its_scale():
    weight, x = draw(4, 16)
    x[:, 2] = 0.0
    assert float(SmoothRot(search=True).transform(_site(weight, x, None)).scale[2]) == 1.0
    one = Site(layers=[layer(weight, "int4:g8")], statistics=statistics(x), role="fc2")
    assert float(SmoothRot().transform(one).scale[2]) == 1.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["smoothrot", "quarot+smoothrot(search=true)"])
def test_smoothing_and_rotations_leave_what_the_model_computes(family, method, monkeypatch):
    def keep(_self, _layer, weight, _statistics):
        return Rounded(weight=weight, bits=32.0)

    monkeypatch.setattr(RTN, "round", keep)
    model = make(family)
    before = logits(model)
    report = quantize_trained(model, "w2a16:g32", method, TOKENS)
    # a gate or a ReLU lets factors through, an exact GELU does not
    folded = [one.folded for one in report.layers if one.role == "fc2"]
    assert folded == [family != "gpt_neox"] * 2
    assert all(one.folded is None for one in report.layers if one.role != "fc2")
    assert float((logits(model) - before).abs().max()) < 2e-5 * float(before.abs().max())


def test_by_itself_it_rotates_the_inputs_of_fc2_alone():
    model = make()
    quantize_trained(model, "w4a4:g32", "smoothrot", TOKENS)
    rotated = [n for n, m in model.named_modules() if isinstance(m, Rotated)]
    assert rotated == [f"model.layers.{i}.mlp.down_proj.input_quantizer" for i in (0, 1)]


def test_with_quarot_it_smooths_before_the_one_rotation_there_is_exact():
    """By hand: what the last layer of a block gives for its inputs."""
    model, seen = make(), []
    quantize_trained(model, "w4a4:g32", "quarot+smoothrot", TOKENS)
    down = model.model.layers[1].mlp.down_proj
    assert isinstance(down, QuantLinear) and type(down.input_quantizer) is Rotated
    down.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    logits(model)
    x, y = seen[0]
    signs = signs_of("quarot.0.model.layers.1.mlp.down_proj", 64)
    wanted = fake_quant(hadamard(x, 64, signs), "int4:g32") @ down.weight.t()
    assert torch.equal(y, wanted.detach())
