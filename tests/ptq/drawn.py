"""Layers and inputs for tests of methods."""

import torch

from qscale.formats import QuantSpec
from qscale.ptq.layers import Layer
from qscale.ptq.statistics import NEEDS, Statistics
from qscale.quantizers import make_quantizer


def layer(weight, spec="int4:g32", name="block.0.fc1", method="absmax"):
    quantizer = make_quantizer(method, QuantSpec.parse(spec), operand="weight", shape=tuple(weight.shape))
    return Layer(name=name, weight=weight.clone(), quantizer=quantizer.eval())


def statistics(x):
    found = Statistics(width=x.shape[1], needs=NEEDS)
    found.add(x)
    return found


def draw(rows, width, tokens=64, seed=0):
    """A weight, and inputs whose channels are correlated and of many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x = x * torch.exp(torch.randn(width, generator=generator))
    return torch.randn(rows, width, generator=generator), x
