"""Comparisons to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_same_bits(got: Tensor, wanted: Tensor) -> None:
    """Equal dtype, shape and bit patterns; a NaN equals a NaN whatever its payload and sign.

    Raises:
        AssertionError: It says how many elements differ, where the first one is, and both values.
    """
    assert got.dtype == wanted.dtype, f"dtype {got.dtype}, wanted {wanted.dtype}"
    assert got.shape == wanted.shape, f"shape {list(got.shape)}, wanted {list(wanted.shape)}"
    mine, theirs = (t.detach().cpu().contiguous().reshape(-1) for t in (got, wanted))
    integer = _INTEGERS[mine.element_size()]
    different = mine.view(integer) != theirs.view(integer)
    if mine.is_floating_point():
        different &= ~(mine.isnan() & theirs.isnan())
    if count := int(different.sum()):
        first = int(different.nonzero()[0])
        index = [int(i) for i in torch.unravel_index(torch.tensor(first), got.shape)]
        where = index[0] if len(index) == 1 else index
        raise AssertionError(
            f"{count} of {mine.numel()} elements differ, first at {where}: "
            f"got {mine[first].item()!r}, wanted {theirs[first].item()!r}"
        )
