"""Small models of every kind that rotations have to serve."""

from dataclasses import replace

from ptq.uneven import unevenly

from qscale.models.families import build
from qscale.models.ladder import shape_of
from qscale.ptq.blocks import find_blocks

FAMILIES = ("llama", "qwen3", "gpt_neox", "opt")


def make(family="llama", *, tied=False, heads=4, kv_heads=None, width=32, layers=2):
    """A model with uneven norms and four heads."""
    shape = replace(shape_of("tiny-20k"), hidden_size=width, num_heads=heads, num_layers=layers)
    shape = replace(shape, num_kv_heads=kv_heads or heads, tie_embeddings=tied).in_family(family)
    return unevenly(build(shape, context=32, seed=0))


def rotate(model, method):
    """The whole model, as a pass does it block by block."""
    method.rotate_outer(model)
    for name, block in find_blocks(model).items():
        method.rotate_block(model, name, block)
