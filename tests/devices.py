"""Whether the CUDA kernels can run here, and calls on them beside the same calls on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

from qscale.kernels import use_backend
from qscale.kernels.backends import backends

_CUDA = next(backend for backend in backends() if backend.name == "cuda")
why_not = None if _CUDA.available else f"the CUDA kernels cannot run here: {_CUDA.detail}"
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(why_not is not None, reason=str(why_not))]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((8, 4096), (3, 5, 96), (7, 100), (1, 70000), (0, 32), (2, 1))


def on_device(call: Callable[..., Tensor], x: Tensor, *rest: Any, device: str = "cuda") -> Tensor:
    """The call with its tensors on the device, by the CUDA kernels and nothing else."""
    moved = [item.to(device) if isinstance(item, Tensor) else item for item in (x, *rest)]
    with use_backend("cuda"):
        return call(*moved)


def assert_as_on_cpu(call: Callable[..., Tensor], x: Tensor, *rest: Any) -> None:
    """The bits of the CPU, where tests hold every call to its definition."""
    got = on_device(call, x, *rest)
    assert got.is_cuda
    assert_same_bits(got, call(x, *rest))


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers, some of them large, small or zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    powers = torch.randint(-20, 15, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.1, torch.ldexp(x, powers), x).to(dtype)


def laid_out(x: Tensor) -> Iterator[Tensor]:
    """The same numbers: dense; an element behind 16-byte alignment; as columns of a wider tensor."""
    yield x
    beside = torch.zeros(x.numel() + 1, dtype=x.dtype)
    beside[1:] = x.reshape(-1)
    yield beside[1:].view(x.shape)
    wide = torch.zeros(*x.shape[:-1], x.shape[-1] + 8, dtype=x.dtype)
    wide[..., : x.shape[-1]] = x
    yield wide[..., : x.shape[-1]]
