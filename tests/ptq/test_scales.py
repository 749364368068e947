"""Scales found group by group, and columns rounded with them, have the bits of fake_quant."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import specs

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq.scales import GroupScales


@settings(max_examples=80, deadline=None)
@given(
    specs(dialects=["qscale"], group_sizes=st.integers(1, 40)),
    st.integers(1, 5),
    st.integers(1, 70),
    st.integers(0, 2**31),
)
def test_rounding_all_groups_has_the_bits_of_fake_quant_exact(spec, rows, width, seed):
    if spec.strategy == "token":
        return
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * 10.0 ** (seed % 7 - 3)
    weight[seed % rows, : width // 2] = 0.0
    nearest = str(spec).replace(":stochastic", "")
    assert torch.equal(GroupScales(weight, spec).round_all(weight), fake_quant(weight, nearest))


def test_the_scale_of_the_tensor_stays_that_of_the_weight_given():
    weight = torch.randn(4, 32)
    scales = GroupScales(weight, QuantSpec.parse("nvfp4"))
    grown = weight[:, :16] * 1.0
    grown[0, 0] = 2 * weight.abs().max()  # feedback made it grow beyond the weight
    found = scales.find(grown)
    assert float(found.scale[0]) == pytest.approx(float(weight.abs().max()) / 6, rel=1e-6)
    assert torch.equal(found.scale[1:], scales.find(weight[:, :16]).scale[1:])


def test_a_search_never_leaves_a_larger_error_of_its_norm():
    weight = torch.randn(8, 64)
    weight[:, 3] *= 6
    spec = QuantSpec.parse("int3:g32")
    errors = [
        (GroupScales(weight, spec, search=search).round_all(weight) - weight).abs().pow(2.4).sum(1)
        for search in (False, True)
    ]
    assert bool((errors[1] <= errors[0]).all()) and float(errors[1].sum()) < 0.99 * float(errors[0].sum())


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("int4:g32@torchao", {}, "dialect 'torchao' finds scales and rounds in one"),
        ("mxfp4", {"search": True}, "cannot be shrunk"),
        ("int4:tensor", {"ratio": 0.9}, "cannot be shrunk"),
    ],
)
def test_what_cannot_be_held_is_refused(spec, options, message):
    with pytest.raises(SpecError, match=message):
        GroupScales(torch.ones(2, 64), QuantSpec.parse(spec), **options)
