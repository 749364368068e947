"""A small model that has learned something, for tests of what methods do to a trained one."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from qscale.models.families import build
from qscale.models.ladder import shape_of

LENGTH = 64
_STEPS, _RATE = 120, 6e-3


@lru_cache(maxsize=1)
def windows():
    """Windows of a text of 64 words, each with four likely successors; the last 64 are held out."""
    random = np.random.RandomState(0)
    words = [random.randint(97, 123, random.randint(2, 7)).tolist() for _ in range(64)]
    successors = random.randint(0, 64, (64, 4))
    text, word = [], 0
    while len(text) < 1100 * LENGTH:
        word = successors[word, random.randint(4)] if random.rand() < 0.8 else random.randint(64)
        text += [*words[word], 32]
    return np.array(text[: 1100 * LENGTH], dtype=np.int64).reshape(-1, LENGTH)


@lru_cache(maxsize=1)
def trained_weights():
    """Weights of a Llama of two blocks, four heads of queries and two of keys."""
    model = untrained()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    data = windows()[:-64]
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, step / 10, 1.5 * (1 - step / _STEPS))
        optimizer.zero_grad()
        loss_of(model, torch.from_numpy(data[(step * 16 + np.arange(16)) % len(data)])).backward()
        optimizer.step()
    return model.state_dict()


def untrained():
    """As it begins."""
    shape = replace(shape_of("tiny-82k"), num_heads=4, num_kv_heads=2)
    return build(shape, context=LENGTH, seed=0)


def trained():
    """A copy of the trained model, in evaluation."""
    model = untrained()
    model.load_state_dict(trained_weights())
    return model.eval()


def loss_of(model, tokens):
    """Nats per token."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model):
    """Nats per token of windows that were not trained on."""
    return float(loss_of(model, torch.from_numpy(windows()[-64:])))
