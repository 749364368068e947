"""A small model that was trained on text of simple rules, and the same one with outliers."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from qscale.models.families import build
from qscale.models.ladder import shape_of

_LENGTH = 32


def text_of_rules(seed, count):
    """Bytes of sentences: words of a Zipf vocabulary, each of which prefers a few followers."""
    words = np.random.RandomState(0)
    letters = np.frombuffer(b"etaoinshrdlu", dtype=np.uint8)
    vocabulary = [bytes(words.choice(letters, words.randint(2, 8))) for _ in range(60)]
    follows = words.randint(0, 60, (60, 4))
    draw, word, made = np.random.RandomState(seed), 0, []
    while sum(map(len, made)) < count:
        made.append(vocabulary[word] + b" ")
        word = follows[word, min(draw.geometric(0.5) - 1, 3)] if draw.rand() < 0.9 else draw.randint(60)
    return np.frombuffer(b"".join(made)[:count], dtype=np.uint8).astype(np.int64)


def windows(seed, count):
    """Tokens, ``(count, length)``."""
    return text_of_rules(seed, count * _LENGTH).reshape(count, _LENGTH)


@cache
def _trained(family, kv_heads):
    shape = replace(shape_of("tiny-82k"), num_heads=4, num_kv_heads=kv_heads).in_family(family)
    model = build(shape, context=_LENGTH, seed=0)
    steps, batch = 150, 16
    tokens = torch.from_numpy(windows(1, steps * batch)).view(steps, batch, _LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    model.train()
    for batch_tokens in tokens:
        loss = model(input_ids=batch_tokens, labels=batch_tokens, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def trained(family="llama", kv_heads=4):
    """The model, with weights of its own."""
    return copy.deepcopy(_trained(family, kv_heads))


@torch.no_grad()
def with_outliers(model, factor=30.0):
    """Some channels behind norms and in the FFN become ``factor`` times as large; weights make up for it."""
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        for norm, readers in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            norm.weight[3:5] *= factor
            for reader in readers:
                reader.weight[:, 3:5] /= factor
        mlp.up_proj.weight[7] *= factor
        mlp.down_proj.weight[:, 7] /= factor
    return model


@torch.no_grad()
def loss(model, seed=2, count=64):
    """Nats per token of held-out text."""
    tokens = torch.from_numpy(windows(seed, count))
    return float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
