"""AWQ's searches against plain float64 evaluations with the inputs themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq.drawn import draw, layer, statistics

from qscale.kernels import fake_quant
from qscale.ptq.layers import Site
from qscale.ptq.methods.awq import AWQ
from qscale.ptq.statistics import output_error


def _best_scale(weights, x, spec):
    """The grid of the authors, output errors by matrix products with the inputs."""
    x64, mean = x.double(), x.double().abs().mean(0)
    errors, scales = [], []
    for step in range(20):
        s = mean.pow(step / 20).clamp(min=1e-4)
        s = (s / (s.max() * s.min()).sqrt()).float()
        error = 0.0
        for w in weights:
            rounded = fake_quant(w * s, spec).double() / s.double()
            error += float((x64 @ (rounded - w.double()).t()).square().sum())
        errors.append(error)
        scales.append(s)
    return errors, scales


@pytest.mark.parametrize("spec", ["int4:g8", "int3:g6", "int4:g8:asym", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("seed", range(3))
def test_the_scale_search_is_that_of_a_plain_grid(spec, seed):
    weight, x = draw(6, 16, seed=seed)
    other = torch.randn(3, 16)
    errors, scales = _best_scale([weight, other], x, spec)
    site = Site(layers=[layer(weight, spec), layer(other, spec)], statistics=statistics(x))
    change = AWQ().transform(site)
    best = min(range(20), key=errors.__getitem__)
    if best == 0:
        assert change is None
    else:
        torch.testing.assert_close(change.scale, scales[best], rtol=1e-6, atol=0)
        assert errors[best] < errors[0]


@pytest.mark.parametrize("spec", ["int3:g8", "int3:g6", "int2:channel"])
def test_the_clip_search_is_that_of_a_plain_grid(spec):
    weight, x = draw(5, 16)
    weight[:, 4] *= 5
    one = layer(weight, spec)
    got = AWQ().limit(one, statistics(x))
    length = one.spec.group_length(16)
    wanted = weight.clone()
    for row in range(5):
        for start in range(0, 16, length):
            at = slice(start, min(start + length, 16))
            w, inputs = weight[row, at], x[:, at].double()
            limits = [w.abs().max() * (1 - i / 20) for i in range(10)]
            errors = [
                float(
                    (inputs @ (fake_quant(w.clamp(-c, c), f"{one.spec.format}:channel") - w).double())
                    .square()
                    .sum()
                )
                for c in limits
            ]
            c = limits[min(range(10), key=errors.__getitem__)]
            wanted[row, at] = w.clamp(-c, c)
    assert not torch.equal(wanted, weight)
    errors = [
        float((x.double() @ (fake_quant(w, spec) - weight).double().t()).square().sum())
        for w in (weight, wanted)
    ]
    if errors[1] < errors[0]:
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
    else:
        assert got is None


def test_queries_and_keys_are_not_clipped():
    weight, x = draw(4, 16)
    assert AWQ().limit(layer(weight, "int2:channel", name="b.0.q_proj"), statistics(x)) is None
    assert AWQ(clip=False).limit(layer(weight, "int2:channel"), statistics(x)) is None


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(
        ["int2:g8", "int4:g7", "int3:channel:asym", "int4:tensor", "mxfp4", "nvfp4", "int4:g8@torchao"]
    ),
    st.integers(1, 6),
    st.sampled_from([8, 32, 48]),
    st.integers(0, 2**31),
)
def test_it_never_ends_worse_than_it_began(spec, rows, width, seed):
    weight, x = draw(rows, width, seed=seed)
    if seed % 3 == 0:
        x[:, 0] = 0.0
    found = statistics(x)
    site = Site(layers=[layer(weight, spec)], statistics=found)
    before = float(output_error(site.layers[0].nearest(weight) - weight, found.moments).sum())
    change = AWQ().transform(site)
    scale = torch.ones(width) if change is None else change.scale
    scaled = layer(weight * scale, spec)
    limited = AWQ().limit(scaled, found.divided(scale))
    last = scaled.nearest(scaled.weight if limited is None else limited)
    after = float(output_error(last.double() / scale - weight, found.moments).sum())
    assert after <= before * (1 + 1e-6)
