"""What is timed: each case is a call and the floor under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from qscale.formats import QuantSpec

#: 64 Ki elements stay in a core's L2 cache; 16 Mi come from memory.
SIZES = {"64Ki": (16, 4096), "16Mi": (4096, 4096)}
SPECS = ("int4:g32", "int4:g128", "int8:channel")
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call to time, and the floor under it: a copy of the same bytes into an output that is there."""

    name: str
    call: Callable[[], object]
    floor: Callable[[], object]
    bytes_moved: int  #: read and written by the call


def fake_quant_cases() -> Iterator[Case]:
    """``fake_quant_int_out`` writes where the copy writes, so both pay for the same pages."""
    for size, shape in SIZES.items():
        for dtype in DTYPES:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            out = torch.empty_like(x)
            for text in SPECS:
                spec = QuantSpec.parse(text)
                arithmetic = spec.int_arithmetic()
                assert arithmetic is not None
                numbers = (arithmetic.qmin, arithmetic.qmax, arithmetic.denominator, spec.group_size or -1)
                yield Case(
                    name=f"{text}/{str(dtype).removeprefix('torch.')}/{size}",
                    call=partial(torch.ops.qscale.fake_quant_int_out.default, x, *numbers, out),
                    floor=partial(out.copy_, x),
                    bytes_moved=2 * x.numel() * x.element_size(),
                )
