"""The libraries that are installed, and the inputs on which the dialects are held to them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant
from qscale.kernels.dialects import Quantized, find
from qscale.timing.peers import quiet

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def library(distribution: str, version: str, module: str | None = None) -> Any:
    """A module of a library, or a skip that says why: absent, or another version than the dialect names."""
    name = distribution.replace("-", "_")
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{distribution} is not installed: pip install 'qscale[bench]'")
    found = importlib.metadata.version(distribution)
    if found != version:
        pytest.skip(f"{distribution} {found} is here; the dialect is {version}")
    with quiet():
        return importlib.import_module(module or name)


@cache
def inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows of 128: many magnitudes with zeros, ties, neighbouring bit patterns of all sizes, no numbers.

    ``tiny`` are those patterns that are subnormal, or become so when they are scaled.
    """
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(16, 128, generator=generator) * torch.logspace(-4, 4, 16).unsqueeze(-1)
    mixed[3, :64], mixed[5, ::7] = 0.0, -0.0
    ties = torch.randint(-128, 129, (16, 128), generator=generator) / 16
    broken = torch.randn(4, 128, generator=generator)
    broken[0, 5], broken[1, 40], broken[2, 70], broken[2, 71] = torch.nan, torch.inf, -torch.inf, torch.nan
    patterns = _patterns(dtype, generator)
    is_tiny = patterns.abs().amax(-1) < 2**8 * torch.finfo(dtype).tiny
    return {
        "mixed": mixed.to(dtype),
        "ties": ties.to(dtype),
        "patterns": patterns[~is_tiny],
        "tiny": patterns[is_tiny],
        "not finite": broken.to(dtype),
    }


def _patterns(dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Finite values in the order of their bits, every eighth row; of float32, one to each bfloat16."""
    bits = torch.arange(-(2**15), 2**15)
    if dtype == torch.float32:
        bits = (bits << 16) + torch.randint(0, 2**16, bits.shape, generator=generator)
    values = bits.to(_INTEGERS[dtype]).view(dtype)
    values = values[values.isfinite()]
    return values[: len(values) // 128 * 128].reshape(-1, 128)[::8]


def assert_follows(
    spec: str,
    dtype: torch.dtype,
    theirs: Callable[[Tensor], Tensor | Quantized],
    *,
    besides: tuple[str, ...] = (),
    leave_out: tuple[str, ...] = (),
) -> None:
    """``fake_quant`` and the dialect give the library's values on all inputs, and what ``besides`` names."""
    mine = find(QuantSpec.parse(spec))
    assert mine is not None
    for name, x in inputs(dtype).items():
        if name in leave_out:
            continue
        with quiet():
            wanted = theirs(x.clone())
        wanted = wanted if isinstance(wanted, Quantized) else Quantized(y=wanted)
        try:
            assert_same_bits(fake_quant(x, spec), wanted.y)
            got = mine(x)
            for part in ("y", *besides):
                assert_same_bits(getattr(got, part), getattr(wanted, part).reshape(getattr(got, part).shape))
        except AssertionError as error:
            raise AssertionError(f"{spec}, {name}: {error}") from None
