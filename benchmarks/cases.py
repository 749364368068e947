"""What is timed: each case is a call and the floor under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from qscale.formats import QuantSpec, call_for

#: 64 Ki elements stay in a core's L2 cache; 16 Mi come from memory.
SIZES = {"64Ki": (16, 4096), "16Mi": (4096, 4096)}
SPECS = (
    *("int4:g32", "int4:g128", "int8:channel", "fp8_e4m3:g128", "fp4_e2m1:g32"),
    *("mxfp8_e4m3", "mxfp4", "mxint8", "nvfp4", "nf4:g64"),
)
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call to time, and the floor under it: a copy of the same bytes into an output that is there."""

    name: str
    call: Callable[[], object]
    floor: Callable[[], object]
    bytes_moved: int  #: read and written by the call


def fake_quant_cases() -> Iterator[Case]:
    """The ``_out`` ops write where the copy writes, so both pay for the same pages."""
    for size, shape in SIZES.items():
        for dtype in DTYPES:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            out = torch.empty_like(x)
            for text in SPECS:
                call = call_for(QuantSpec.parse(text))
                assert call is not None
                yield Case(
                    name=f"{text}/{str(dtype).removeprefix('torch.')}/{size}",
                    call=partial(
                        getattr(torch.ops.qscale, f"{call.op}_out").default, x, *call.arguments, out
                    ),
                    floor=partial(out.copy_, x),
                    bytes_moved=2 * x.numel() * x.element_size(),
                )
