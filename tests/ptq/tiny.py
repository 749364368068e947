"""A small model that has learned some text, for tests of what methods are worth."""

import copy
from functools import cache

import numpy as np
import torch
from ptq.trained import text_of_rules

from qscale.models.families import build
from qscale.models.ladder import shape_of

LENGTH = 64


@cache
def _text():
    return text_of_rules(3, 400_000)


def windows(count, first=0):
    """Windows of the text, the same every time."""
    text = _text()
    starts = (np.arange(first, first + count) * 7919 * LENGTH) % (len(text) - LENGTH)
    return np.stack([text[start : start + LENGTH] for start in starts])


@cache
def _trained(family, steps):
    torch.manual_seed(0)
    model = build(shape_of("tiny-20k").in_family(family), context=LENGTH, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 6e-3 * min(1, (step + 1) / 20, 2 * (1 - step / steps))
        tokens = torch.from_numpy(windows(16, first=16 * step))
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def trained(family="llama", steps=300):
    """The model after a few seconds of training."""
    return copy.deepcopy(_trained(family, steps))


@torch.no_grad()
def loss(model, count=64):
    """Nats per token on other windows."""
    tokens = torch.from_numpy(windows(count, first=10**6))
    return float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
