"""Hadamard rotations: blocks of each size against a copy, and one against the dense matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.cases import DTYPES, SIZES, Case
from qscale.kernels import fake_quant, hadamard, rotate_fake_quant

BLOCKS = (16, 128, 1024, 4096)
BASE_BLOCKS = (768, 3584)  # 12 * 64, 28 * 128


def hadamard_cases() -> Iterator[Case]:
    """``hadamard_out`` writes where the copy writes, so both pay for the same pages."""
    for size, shape in SIZES.items():
        for dtype in DTYPES:
            for block in (*BLOCKS, *BASE_BLOCKS):
                columns = shape[1] // block * block
                x = torch.randn(shape[0], columns, generator=torch.Generator().manual_seed(0)).to(dtype)
                out = torch.empty_like(x)
                yield Case(
                    name=f"hadamard:{block}/{str(dtype).removeprefix('torch.')}/{size}",
                    call=partial(torch.ops.qscale.hadamard_out.default, x, block, None, False, out),
                    floor=partial(out.copy_, x),
                    bytes_moved=2 * x.numel() * x.element_size(),
                )


def comparisons() -> Iterator[Case]:
    """Where the floor is another way to the same end; all make their own output."""
    for dtype in DTYPES:
        x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0)).to(dtype)
        dense = hadamard(torch.eye(1024)).to(dtype)
        name = str(dtype).removeprefix("torch.")
        yield Case(
            name=f"hadamard:1024/{name} to matmul",
            call=partial(hadamard, x),
            floor=partial(torch.matmul, x, dense),
            bytes_moved=2 * x.numel() * x.element_size(),
        )
        for rows, size in ((64, "64Ki"), (16384, "16Mi")):
            x = torch.randn(rows, 1024, generator=torch.Generator().manual_seed(0)).to(dtype)
            yield Case(
                name=f"rotate:128/{name}/{size} to fake_quant",
                call=partial(rotate_fake_quant, x, "int4:g128", 128),
                floor=partial(fake_quant, x, "int4:g128"),
                bytes_moved=2 * x.numel() * x.element_size(),
            )
