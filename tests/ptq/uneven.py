"""Small models with uneven norms and channels, for tests of passes."""

from dataclasses import replace

import numpy as np
import torch

from qscale.models.families import build
from qscale.models.ladder import shape_of

TOKENS = np.random.RandomState(0).randint(0, 256, (12, 32))


def make(family="llama", seed=0, tied=False):
    """A model whose norms, biases and channels are as uneven as those of a trained one."""
    shape = replace(shape_of("tiny-20k"), tie_embeddings=tied).in_family(family)
    return unevenly(build(shape, context=32, seed=seed), seed)


def unevenly(model, seed=0):
    """Draw gains and biases of a model anew, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.3 * noise if name.endswith("bias") else torch.exp(0.3 * noise))
    return model.eval()


@torch.no_grad()
def logits(model, tokens=TOKENS[:4]):
    return model(input_ids=torch.from_numpy(tokens), use_cache=False).logits
