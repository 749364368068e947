"""What tests of gradients share: inputs, and a call differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.kernels import fake_quant

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def upstream(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=seeded(99)).to(x.dtype)


def some_scales(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(7)) + 0.1


def differentiated(implementation, x: Tensor, spec: str, given: list[Tensor], **options) -> list[Tensor]:
    """y, and the gradients of x and of what is given under a gradient of randn."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *given)]
    named = dict(zip(("scale", "zero_point"), leaves[1:], strict=False))
    with implementation():
        y = fake_quant(leaves[0], spec, **named, **options)
        y.backward(upstream(x))
    return [y.detach(), *(leaf.grad for leaf in leaves)]
