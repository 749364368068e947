"""Which weights annealing lets move, and that the others do not."""

import pytest
import torch
from torch import nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.quantizers import Annealing, QuantLinear, StatsQ


@pytest.fixture
def model():
    linear = nn.Linear(40, 8, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(8, 40, generator=torch.Generator().manual_seed(0)))
    return nn.Sequential(QuantLinear.from_linear(linear, StatsQ(QuantSpec.parse("int3:g16")), None))


def test_free_weights_are_those_near_a_boundary_between_two_codes(model):
    mask, n = Annealing(model, radius=0.1).free_mask(model[0]), 4
    for row, free in zip(model[0].weight.tolist(), mask.tolist(), strict=True):
        for start in range(0, 40, 16):
            group = row[start : start + 16]
            s = 2 * sum(map(abs, group)) / len(group)
            for value, is_free in zip(group, free[start : start + 16], strict=True):
                u = min(max(value / s, -1), 1 - 1e-6) * n - 0.5
                assert is_free == any(abs(u - (i + 0.5)) <= 0.1 for i in range(-n, n - 1))
    assert 0 < mask.float().mean() < 1


def test_frozen_weights_stay_under_momentum_and_decay(model):
    weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model(torch.ones(2, 40)).square().sum().backward()
    optimizer.step()
    annealing = Annealing(model, radius=0.1)
    assert (annealing.begun, annealing.free_fraction) == (False, 1.0)
    annealing.begin()
    free, before = annealing.free_mask(model[0]), weight.detach().clone()
    assert annealing.free_fraction == pytest.approx(free.float().mean().item())
    for _ in range(2):
        model(torch.ones(2, 40)).square().sum().backward()
        annealing.mask_gradients()
        assert (weight.grad[~free] == 0).all()
        assert (weight.grad[free] != 0).any()
        optimizer.step()
        annealing.restore()
        assert torch.equal(weight[~free], before[~free])
        assert (weight[free] != before[free]).all()


def test_masks_of_a_checkpoint_stand_though_free_weights_have_moved(model):
    first = Annealing(model, radius=0.1)
    first.begin()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert state["0.weight_quantizer.free"].sum() > 0
    weight, free = model[0].weight, state["0.weight_quantizer.free"]
    with torch.no_grad():
        weight[free] += 0.3
    assert not torch.equal(first.free_mask(model[0]), free)
    again = Annealing(model, radius=0.1)
    model.load_state_dict({**model.state_dict(), "0.weight_quantizer.free": free})
    again.begin(settled=True)
    frozen = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    again.restore()
    assert torch.equal(weight, torch.where(free, frozen + 1, frozen))


def test_model_without_statsq_and_a_wide_radius_are_refused(model):
    with pytest.raises(ConfigError, match=r"q=statsq/absmax"):
        Annealing(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match=r"radius=0\.7"):
        Annealing(model, radius=0.7)
