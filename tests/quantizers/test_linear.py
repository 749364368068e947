"""The quantized layer: its gradients, what it keeps, and inputs in common."""

import copy

import pytest
import torch
from torch import nn

from qscale.formats import QuantSpec
from qscale.quantizers import Absmax, QuantLinear, Rotated, Shared, make_quantizer

SPEC = QuantSpec.parse("int4:g16")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def layer(method="absmax", *, block=None, bias=False, spec=SPEC):
    linear = nn.Linear(40, 24, bias=bias)
    with torch.no_grad():
        for p in linear.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(p.ndim)))
    weight = make_quantizer(method, spec, operand="weight", shape=(24, 40))
    inputs = make_quantizer("absmax", SPEC, operand="input", shape=(40,))
    if block:
        weight, inputs = Rotated(weight, block), Rotated(inputs, block)
    return QuantLinear.from_linear(linear, weight, inputs)


def tokens(*shape):
    return torch.randn(*(shape or (2, 5)), 40, generator=seeded(7))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block", [None, 8])
@pytest.mark.parametrize("method", ["absmax", "clip(0.8)", "lwc", "lsq", "quest", "statsq"])
def test_layer_has_the_bits_and_gradients_of_quantizing_and_multiplying(method, block, bias):
    one = layer(method, block=block, bias=bias)
    two = copy.deepcopy(one)
    x, y = tokens().requires_grad_(), tokens().requires_grad_()
    grad = torch.randn(2, 5, 24, generator=seeded(8))
    a = one(x)
    b = nn.functional.linear(two.input_quantizer(y), two.weight_quantizer(two.weight), two.bias)
    a.backward(grad)
    b.backward(grad)
    assert torch.equal(a, b)
    torch.testing.assert_close(x.grad, y.grad)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_backward_keeps_no_quantized_weight():
    saved = []

    def pack(t):
        saved.append(t)
        return t

    one = layer()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        one(tokens().requires_grad_())
    assert [t.shape for t in saved if t.shape == one.weight.shape] == [one.weight.shape]
    assert any(t.data_ptr() == one.weight.data_ptr() for t in saved)


@pytest.mark.parametrize("block", [None, 8])
@pytest.mark.parametrize("method", ["clip(0.8)", "lsq", "quest"])
def test_backward_keeps_one_of_the_plain_and_the_quantized_tensors(method, block):
    inputs = make_quantizer(method, SPEC, operand="input", shape=(40,))
    inputs = Shared(Rotated(inputs, block) if block else inputs, 2)
    users = [layer(method, block=block) for _ in range(2)]
    for user in users:
        user.input_quantizer = inputs
    saved = []
    x = tokens().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        results = [user(x) for user in users]
    large = {t.data_ptr() for t in saved if t.numel() >= x.numel()}
    assert len(large) == 1 + len(users)  # an input, and the weights themselves
    assert {user.weight.data_ptr() for user in users} < large
    sum(r.sum() for r in results).backward()
    assert x.grad is not None


def test_weight_that_changes_before_backward_is_an_error():
    one = layer()
    y = one(tokens())
    with torch.no_grad():
        one.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_random_weight_is_the_same_in_backward():
    one = layer(spec=QuantSpec.parse("int2:g16:stochastic"))
    x = tokens().requires_grad_()
    grad = torch.randn(2, 5, 24, generator=seeded(8))
    one(x).backward(grad)
    again = layer(spec=QuantSpec.parse("int2:g16:stochastic"))
    torch.testing.assert_close(x.grad, grad @ again.weight_quantizer(again.weight).detach())


@pytest.mark.parametrize("method", ["absmax", "lwc"])
def test_evaluation_computes_the_weight_once_until_it_changes(method):
    one = layer(method, block=8).eval()
    calls = []
    one.weight_quantizer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = one(tokens())
        assert torch.equal(one(tokens()), first)
        assert len(calls) == 1
        assert torch.equal(one.train()(tokens()), first)
        one.eval()
        one.weight.mul_(1.5)
        changed = one(tokens())
        assert not torch.equal(changed, first)
        for p in one.weight_quantizer.parameters():
            p.mul_(0.5)
        again = one(tokens())
        assert torch.equal(again, changed) == (method == "absmax")
        assert torch.equal(one.train()(tokens()), again)
    assert torch.equal(one.eval()(tokens()), again)  # with gradients nothing is kept


@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
@pytest.mark.parametrize("method", ["clip(0.8)", "lwc", "lsq", "quest", "statsq"])
def test_compiled_layers_are_one_graph_with_the_bits_of_eager(method):
    def layers():
        inputs = {"lwc": "lac", "statsq": "absmax"}.get(method, method)
        shared = Shared(make_quantizer(inputs, SPEC, operand="input", shape=(40,)), 2)
        users = nn.ModuleList([layer(method) for _ in range(2)])
        for user in users:
            user.input_quantizer = shared
        return users

    torch.compiler.reset()
    eager, traced, calls = layers(), layers(), []
    with torch.no_grad():
        eager[0](tokens()), traced[0](tokens())
        eager[1](tokens()), traced[1](tokens())

    def backend(graph, _):
        calls.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    x, y = tokens().requires_grad_(), tokens().requires_grad_()
    compiled = torch.compile(lambda t: sum(user(t) for user in traced), fullgraph=True, backend=backend)
    a, b = sum(user(x) for user in eager), compiled(y)
    assert calls.count("autograd_function_apply") == 3  # two weights, and their input once
    a.square().sum().backward()
    b.square().sum().backward()
    assert torch.equal(a, b)
    torch.testing.assert_close(x.grad, y.grad)
    for p, q in zip(eager.parameters(), traced.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_shared_input_is_quantized_once_for_all_its_users():
    calls = []
    inner = Absmax(SPEC)
    inner.register_forward_hook(lambda *_: calls.append(1))
    shared = Shared(inner, 3)
    x = tokens().requires_grad_()
    results = [shared(x) for _ in range(3)]
    assert len(calls) == 1
    assert results[0] is results[2]
    assert shared._seen is None
    sum(r.sum() for r in results).backward()
    assert (x.grad == 3).all()
    shared(x)
    shared(tokens())
    assert len(calls) == 3
    with torch.no_grad():
        x.add_(1)
        assert torch.equal(shared(x), inner(x))
        before = shared(x)
        x.add_(1)
        assert not torch.equal(shared(x), before)
    copy.deepcopy(shared)
    assert shared(x).requires_grad
