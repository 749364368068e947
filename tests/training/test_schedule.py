"""The learning rate, step by step."""

import pytest
from run_configs import run_config

from qscale.training.schedule import branch_rate, trunk_rate


def test_warm_up_then_constant_then_linear_to_zero():
    config = run_config()
    rates = [branch_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10:81] == [1.0] * 71
    assert rates[80:] == pytest.approx([1 - i / 20 for i in range(20)])
    assert [trunk_rate(config, step) for step in range(80)] == rates[:80]


def test_one_minus_sqrt_has_the_published_values():
    # facts of arXiv 2405.18392: half at a quarter of the cooldown, 0.2 at 64 %
    config = run_config(tokens=500 * 128, cooldown_shape="1-sqrt")
    assert branch_rate(config, 400 + 25) == pytest.approx(0.5)
    assert branch_rate(config, 400 + 64) == pytest.approx(0.2)
