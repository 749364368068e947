"""Scales and options that the caller gives: special values under them, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from bits import assert_same_bits
from kernels.gradients import differentiated, upstream

from qscale.errors import BackendError, SpecError
from qscale.kernels import fake_quant


def test_given_scale_when_x_has_nan_and_infinity_then_they_stay_alone(implementation):
    x = torch.tensor([[math.nan, math.inf, -math.inf, 1.0, -0.2]])
    y, grad_x, _ = differentiated(implementation, x, "int4:channel", [torch.tensor(1.0)], gradient="clipped")
    assert_same_bits(y, torch.tensor([[math.nan, 7.0, -7.0, 1.0, 0.0]]))
    assert (grad_x[0, :3] == 0).all()
    assert_same_bits(grad_x[0, 3:], upstream(x)[0, 3:])


@pytest.mark.parametrize("scale", [0.0, -0.0])
def test_given_scale_when_it_is_zero_then_every_element_is(implementation, scale):
    x = torch.tensor([[1.0, -2.0, 0.0, 3e38]])
    for spec in ("int4:channel", "fp8_e4m3:channel", "nf4:channel"):
        y = differentiated(implementation, x, spec, [torch.tensor(scale)], gradient="clipped")[0]
        assert (y == 0).all()


# Errors


def refused(message: str, spec: str, error: type[Exception] = SpecError, **options) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fake_quant(torch.ones(2, 40), spec, **options)


ONE = torch.ones(())


@pytest.mark.parametrize(
    ("message", "spec", "options"),
    [
        ("points of shape [3, 2] beside x of shape [2, 40]; wanted [2, 3], or what can be expanded to it",
         "int4:g16", {"scale": torch.ones(3, 2)}),
        ("of shape [2, 3] beside x of shape [80]; wanted [1]", "int4:tensor", {"scale": torch.ones(2, 3)}),
        ("of shape [4] beside x of shape [2, 40]; wanted [1, 3]", "int4:b16", {"scale": torch.ones(4)}),
        ("of shape [5] beside x", "int4:g16:asym", {"scale": ONE, "zero_point": torch.ones(5)}),
        ("int4:g16 rounds without chance: a seed goes with :stochastic", "int4:g16", {"seed": 1}),
        ("unknown gradient 'ste'; known: straight_through, clipped, lsq, trust", "int4:g16",
         {"gradient": "ste"}),
        ("nvfp4: a given scale is the whole of it; give the spec with :onelevel", "nvfp4", {"scale": ONE}),
        ("int4:g16:scale_e4m3: a given scale is the whole of it", "int4:g16:scale_e4m3", {"scale": ONE}),
        ("int4:g16:asym: a zero point is given and no scale", "int4:g16:asym", {"zero_point": ONE}),
        ("int4:g16: a zero point is given with the scale where the spec is :asym", "int4:g16",
         {"scale": ONE, "zero_point": ONE}),
        ("int4:g16:asym: a zero point is given with the scale", "int4:g16:asym", {"scale": ONE}),
        ("int4:g8@torchao: dialect 'torchao' has its own scales, rounding and gradient", "int4:g8@torchao",
         {"gradient": "clipped"}),
        ("int4:g8@torchao: dialect 'torchao' has its own scales", "int4:g8@torchao", {"scale": ONE}),
        ("fake_quant has no kernel for int4:g8@quest", "int4:g8@quest", {"scale": ONE}),
    ],
)  # fmt: skip
def test_fake_quant_when_options_do_not_go_together_then_the_error_says_which(message, spec, options):
    refused(message, spec, **options)


def test_fake_quant_when_the_dtype_has_no_kernel_then_options_change_nothing():
    with pytest.raises(BackendError, match="needs float32, bfloat16 or float16"):
        fake_quant(torch.ones(4, dtype=torch.float64), "int4:g4", scale=ONE)
