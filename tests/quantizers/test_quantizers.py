"""Every quantizer, forward and gradients, against plain torch written from the formulas of the sources."""

import math

import pytest
import torch

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.quantizers import LSQ, QUANTIZERS, Clip, Quest, make_quantizer

#: Widths that groups of 16 divide, and that they do not.
WIDTHS = {"whole": 48, "ragged": 40}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def made(method, spec, operand, shape):
    parsed = QuantSpec.parse(spec)
    return make_quantizer(method, parsed, operand=operand, shape=shape if operand == "weight" else shape[-1:])


def each_group(function, *tensors):
    """A function of groups of 16, applied group by group, results put together along the last axis."""
    return torch.cat(
        [
            function(i, *parts)
            for i, parts in enumerate(zip(*(t.split(16, -1) for t in tensors), strict=True))
        ],
        -1,
    )


def differentiate(quantizer, x):
    """y, and the gradients of x and the quantizer's parameters."""
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    grad = torch.randn(y.shape, generator=seeded(9))
    y.backward(grad)
    return y.detach(), grad, leaf.grad, [p.grad for p in quantizer.parameters()]


@pytest.fixture(params=WIDTHS)
def x(request):
    return torch.randn(6, WIDTHS[request.param], generator=seeded(0))


def scales(x, denominator):
    return each_group(lambda _, g: g.abs().amax(-1, keepdim=True) / denominator, x)


def per_element(of_groups, width):
    return of_groups.repeat_interleave(16, -1)[..., :width]


def test_absmax_passes_all_of_the_gradient(x):
    y, grad, of_x, _ = differentiate(made("absmax", "int4:g16", "weight", x.shape), x)
    s = per_element(scales(x, 7), x.shape[-1])
    assert torch.equal(y, (x / s).round().clamp(-7, 7) * s)
    assert torch.equal(of_x, grad)


@pytest.mark.parametrize(("spec", "denominator", "low"), [("int4:g16", 7, -7), ("int4:g16@chen2025", 8, -8)])
def test_clip_passes_what_is_not_clipped(x, spec, denominator, low):
    y, grad, of_x, _ = differentiate(made("clip(0.75)", spec, "input", x.shape), x)
    s = per_element(scales(x, denominator) * 0.75, x.shape[-1])
    code = (x / s).round()
    assert torch.equal(y, code.clamp(low, 7) * s)
    assert torch.equal(of_x, grad * ((code >= low) & (code <= 7)))
    assert (of_x == 0).any()


def test_clip_of_one_is_absmax(x):
    assert torch.equal(
        Clip(QuantSpec.parse("int4:g16"), 1.0)(x), made("absmax", "int4:g16", "input", x.shape)(x)
    )


@pytest.mark.parametrize("method", ["lwc", "lac"])
@pytest.mark.parametrize("start", [1.0, 0.7])
def test_learned_clip_gives_gamma_the_gradient_of_its_scales(x, method, start):
    operand = "weight" if method == "lwc" else "input"
    quantizer = made(method, "int4:g16@chen2025", operand, x.shape)
    groups = 3
    assert quantizer.gamma.shape == ((6 * groups,) if method == "lwc" else (groups,))
    assert (quantizer.gamma == 1).all()
    with torch.no_grad():
        quantizer.gamma.fill_(start)
    y, grad, of_x, (of_gamma,) = differentiate(quantizer, x)
    absmax = scales(x, 1).double()
    gamma = torch.full((6, groups), start, dtype=torch.float64, requires_grad=True)
    s = per_element(gamma * absmax / 8, x.shape[-1])
    code = (x.double() / s.detach()).round()
    inside = (code >= -8) & (code <= 7)
    straight = torch.where(inside, x.double() / s + (code - x.double() / s).detach(), code.clamp(-8, 7))
    wanted = straight * s
    wanted.backward(grad.double())
    torch.testing.assert_close(y, wanted.detach().float())
    assert torch.equal(of_x, grad * inside)
    expected = gamma.grad.flatten() if method == "lwc" else gamma.grad.sum(0)
    torch.testing.assert_close(of_gamma, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operand", ["weight", "input"])
@pytest.mark.parametrize(("spec", "low"), [("int4:g16", -7), ("int4:g16:full", -8), ("int2:g16", -1)])
def test_lsq_by_the_formula_of_its_source(x, spec, low, operand):
    quantizer = made("lsq", spec, operand, x.shape)
    high = 1 if "int2" in spec else 7
    y, grad, of_x, (of_alpha,) = differentiate(quantizer, x)
    width, gs = x.shape[-1], 1 / math.sqrt((x.numel() if operand == "weight" else x.shape[-1]) * high)
    means = each_group(lambda _, g: g.abs().mean(-1, keepdim=True), x)
    means = means if operand == "weight" else means.mean(0)
    torch.testing.assert_close(quantizer.alpha.view(means.shape).detach(), 2 * means / math.sqrt(high))
    alpha = per_element(quantizer.alpha.detach().view(means.shape), width).expand_as(x)
    ratio = x / alpha
    torch.testing.assert_close(y, ratio.round().clamp(low, high) * alpha)
    inside = (ratio >= low) & (ratio <= high)
    assert torch.equal(of_x, grad * inside)
    slope = torch.where(inside, ratio.round() - ratio, ratio.clamp(low, high))
    expected = each_group(lambda _, g: g.sum(-1, keepdim=True), grad * gs * slope)
    expected = expected.flatten() if operand == "weight" else expected.sum(0)
    torch.testing.assert_close(of_alpha, expected, rtol=1e-4, atol=1e-5)


def test_lsq_below_its_floor_stays_there_and_has_no_gradient():
    quantizer = LSQ(QuantSpec.parse("int4:g16"), (16,))
    quantizer(torch.zeros(2, 16))
    assert (quantizer.alpha == torch.tensor(1e-5)).all()
    with torch.no_grad():
        quantizer.alpha.fill_(-1.0)
    x = torch.full((1, 16), 3e-5)
    y, _, _, (of_alpha,) = differentiate(quantizer, x)
    torch.testing.assert_close(y, x)
    assert (of_alpha == 0).all()


def test_lsq_starts_once_and_goes_on_from_a_state():
    spec, first = QuantSpec.parse("int4:g16"), torch.randn(4, 32, generator=seeded(1))
    one, two = LSQ(spec, (32,)), LSQ(spec, (32,))
    one(first)
    started = one.alpha.clone()
    one(10 * first)
    assert torch.equal(one.alpha, started)
    two.load_state_dict(one.state_dict())
    two(10 * first)
    assert torch.equal(two.alpha, started)


GAUSSIAN = {2: 1.4935346200015913, 4: 2.513930578568423}


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_quest_by_the_formula_of_its_source(x, bits):
    y, grad, of_x, _ = differentiate(made("quest", f"int{bits}:g16", "input", x.shape), x)
    std = per_element(each_group(lambda _, g: g.square().mean(-1, keepdim=True).sqrt(), x), x.shape[-1])
    scale = GAUSSIAN[bits] * std + 1e-8
    step = 2 * scale / (2**bits - 1)
    xq = (x.clamp(-scale, scale) / step + 0.5).round() * step - step / 2
    torch.testing.assert_close(y, xq, rtol=1e-5, atol=1e-6)
    trusted = (xq - x).abs() <= std * GAUSSIAN[bits] / (2**bits - 1)
    assert torch.equal(of_x, grad * trusted)
    assert not trusted.all() or bits > 2


def test_quest_rounds_as_the_dialect_does_but_for_the_last_bits():
    from qscale.kernels.dialects import quest

    x = torch.randn(64, 128, generator=seeded(2))
    leaf = x.clone().requires_grad_()
    y = Quest(QuantSpec.parse("int4:token"))(leaf)
    y.sum().backward()
    theirs = quest.trust(x, 4)
    torch.testing.assert_close(y.detach(), theirs.y, rtol=1e-5, atol=1e-6)
    assert torch.equal(leaf.grad != 0, theirs.mask)


@pytest.mark.parametrize("bits", [2, 4])
def test_statsq_by_the_formula_of_its_source(x, bits):
    y, grad, of_x, _ = differentiate(made("statsq", f"int{bits}:g16", "weight", x.shape), x)
    s = per_element(2 * each_group(lambda _, g: g.abs().mean(-1, keepdim=True), x), x.shape[-1])
    n = 2 ** (bits - 1)
    wanted = s * ((x / s).clamp(-1, 1 - 1e-6).mul(n).sub(0.5).round() + 0.5) / n
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(of_x, grad)


@pytest.mark.parametrize(
    ("spec", "n", "shift", "values"),
    [("int2:g16:full", 2.0, 0.5, [-0.75, -0.25, 0.25, 0.75]), ("int2:g16", 1.5, 0.0, [-2 / 3, 0.0, 2 / 3])],
)
def test_seq_by_the_formula_of_its_source(x, spec, n, shift, values):
    quantizer = made("seq", spec, "weight", x.shape)
    quantizer(x)
    torch.testing.assert_close(quantizer.alpha.view(6, 3).detach(), scales(x, 1))
    with torch.no_grad():
        quantizer.alpha.mul_(0.6)
    y, grad, of_x, (of_alpha,) = differentiate(quantizer, x)
    alpha = per_element(quantizer.alpha.detach().view(6, 3), x.shape[-1])
    ratio = x / alpha
    code = ((ratio.clamp(-0.99, 0.99) * n - shift).round() + shift) / n
    torch.testing.assert_close(y, code * alpha)
    assert {round(v, 4) for v in (y / alpha).flatten().tolist()} == {round(v, 4) for v in values}
    inside = ratio.abs() <= 0.99
    assert torch.equal(of_x, grad * inside)
    slope = torch.where(inside, code - ratio, ratio.sign() * (0.75 if n == 2 else 1.0))
    expected = each_group(lambda _, g: g.sum(-1, keepdim=True), grad * slope) / math.sqrt(x.numel())
    torch.testing.assert_close(of_alpha, expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", QUANTIZERS)
def test_every_quantizer_names_what_serves_where_it_does_not(method):
    call = f"{method}(0.9)" if method == "clip" else method
    with pytest.raises(SpecError, match=r"serve|has no kernel"):
        made(call, "int4:g16@aten" if method != "absmax" else "int4:g8@quest", "weight", (4, 16))


def test_stochastic_rounding_draws_anew_in_training_and_to_nearest_in_evaluation(x):
    quantizer = make_quantizer(
        "absmax", QuantSpec.parse("int4:g16:stochastic"), operand="input", shape=(48,), name="a"
    )
    first, second = quantizer(x), quantizer(x)
    assert not torch.equal(first, second)
    quantizer.eval()
    assert torch.equal(quantizer(x), made("absmax", "int4:g16", "input", x.shape)(x))
    assert int(quantizer.calls) == 2
    again = make_quantizer(
        "absmax", QuantSpec.parse("int4:g16:stochastic"), operand="input", shape=(48,), name="a"
    )
    assert torch.equal(again(x), first)
    again.load_state_dict(quantizer.state_dict())
    quantizer.train()
    assert torch.equal(again(x), quantizer(x))
    other = make_quantizer(
        "absmax", QuantSpec.parse("int4:g16:stochastic"), operand="input", shape=(48,), name="b"
    )
    assert not torch.equal(other(x), first)
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(torch.ones_like(x))
    assert (leaf.grad == 1).all()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("method", ["absmax", "clip(0.9)", "lac", "lsq", "quest"])
def test_inputs_without_elements_and_single_tokens(method, rows):
    quantizer = made(method, "int4:g16", "input", (48,))
    y, _, of_x, _ = differentiate(quantizer, torch.randn(2, rows, 48, generator=seeded(3)))
    assert y.shape == of_x.shape == (2, rows, 48)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["absmax", "clip(0.9)", "lsq", "quest", "lac"])
def test_sixteen_bit_inputs_stay_so(method, dtype):
    x = torch.randn(3, 40, generator=seeded(4)).to(dtype).requires_grad_()
    quantizer = made(method, "int4:g16", "input", x.shape)
    y = quantizer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert all(p.grad.dtype == torch.float32 for p in quantizer.parameters())
