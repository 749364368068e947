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


def test_model_without_statsq_and_a_wide_radius_are_refused(model):
    with pytest.raises(ConfigError, match=r"q=statsq/absmax"):
        Annealing(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match=r"radius=0\.7"):
        Annealing(model, radius=0.7)
