"""What is timed: each case is one op on one tensor, two ways to call it, and the floor under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from qscale.errors import ConfigError
from qscale.formats import QuantSpec, call_for
from qscale.kernels import fake_quant, hadamard, rotate_fake_quant
from qscale.timing.sizes import size_text

SPECS = (
    *("int4:g32", "int4:g128", "int8:channel", "fp8_e4m3:g128", "fp4_e2m1:g32"),
    *("mxfp8_e4m3", "mxfp4", "mxint8", "nvfp4", "nf4:g64"),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Elements of a row; a smaller tensor is one row.
COLUMNS = 4096
BLOCKS = (16, 128, 1024, 4096, 768, 3584)  # 12 * 64, 28 * 128
#: Spec and block of the rotation.
_OPS: tuple[tuple[str | None, int | None], ...] = (
    *((spec, None) for spec in SPECS),
    *((None, block) for block in BLOCKS),
    ("int4:g128", 128),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An op on a tensor.

    ``into`` writes into ``out``, as ``copy`` does with the same bytes: both pay the same memory traffic and
    no page faults. ``new`` makes its own output, as every out-of-place operator.
    """

    name: str
    x: Tensor
    out: Tensor
    spec: QuantSpec | None = None  #: what ``x`` is rounded to
    block: int | None = None  #: of the rotation
    into: Callable[[], object] | None
    new: Callable[[], Tensor]

    def copy(self) -> None:
        """The floor: the least work that any implementation must do."""
        self.out.copy_(self.x)

    @property
    def bytes_moved(self) -> int:
        """Read and written: each element once."""
        return 2 * self.x.numel() * self.x.element_size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A case before its tensors are made: a rounding, a rotation, or both in turn."""

    spec: str | None = None
    block: int | None = None
    dtype: str = "float32"
    elements: int

    @property
    def name(self) -> str:
        """Such as ``int4:g32/float32/64Ki`` or ``hadamard:128+int4:g128/bfloat16/16Mi``."""
        rotation = None if self.block is None else f"hadamard:{self.block}"
        op = "+".join(part for part in (rotation, self.spec) if part is not None)
        return f"{op}/{self.dtype}/{size_text(self.elements)}"

    def case(self, device: str = "cpu") -> Case:
        """The tensors, drawn from a normal distribution, and the calls."""
        x = _normal(self.elements, self.block, DTYPES[self.dtype]).to(device)
        out = torch.empty_like(x)
        spec = None if self.spec is None else QuantSpec.parse(self.spec)
        into: Callable[[], object] | None = None
        if self.block is None:
            assert spec is not None
            into, new = _into(spec, x, out), partial(fake_quant, x, spec)
        elif spec is None:
            into, new = _rotated_into(x, self.block, out), partial(hadamard, x, self.block)
        else:
            new = partial(rotate_fake_quant, x, spec, self.block)
        return Case(name=self.name, x=x, out=out, spec=spec, block=self.block, into=into, new=new)


def cells(sizes: Iterable[int], only: Iterable[str] = (), specs: Iterable[str] | None = None) -> list[Cell]:
    """Every op in every dtype and size, or those whose name fits one of the patterns ``only``.

    A pattern is a glob of the whole name, or a piece of it. ``specs`` takes the place of all ops.

    Raises:
        ConfigError: Nothing fits.
        SpecError: A spec cannot be read.
    """
    ops = _OPS if specs is None else [(str(QuantSpec.parse(spec)), None) for spec in specs]
    every = [
        Cell(spec=spec, block=block, dtype=dtype, elements=elements)
        for elements in sizes
        for dtype in DTYPES
        for spec, block in ops
    ]
    wanted = tuple(only)
    chosen = [cell for cell in every if not wanted or _fits(cell.name, wanted)]
    if not chosen:
        raise ConfigError(f"no case fits {', '.join(wanted)}; cases are named like {every[0].name}")
    return chosen


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, f"*{pattern}*") for pattern in patterns)


def _normal(elements: int, block: int | None, dtype: torch.dtype) -> Tensor:
    """About ``elements`` elements: rows of whole blocks."""
    columns = min(elements, COLUMNS)
    rows = max(1, elements // columns)
    if block is not None:
        columns = max(1, columns // block) * block
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def _into(spec: QuantSpec, x: Tensor, out: Tensor) -> Callable[[], object] | None:
    """The op that writes into an output that is there."""
    call = call_for(spec)
    if call is None:
        return None  # fake_quant says why
    op = getattr(torch.ops.qscale, f"{call.op}_out").default
    if call.whole_tensor:
        x, out = x.reshape(-1), out.reshape(-1)
    return partial(op, x, *call.arguments, out)


def _rotated_into(x: Tensor, block: int, out: Tensor) -> Callable[[], object]:
    return partial(torch.ops.qscale.hadamard_out.default, x, block, None, False, out)


def tiny_calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls on 8 x 8 elements, where the way to the kernel is all there is to pay."""
    x = torch.randn(8, 8)
    parameter = x.clone().requires_grad_()
    yield "torch.empty_like", lambda: torch.empty_like(x)
    yield "fake_quant, no gradient", lambda: fake_quant(x, "int4:g8")
    yield "fake_quant, with gradient", lambda: fake_quant(parameter, "int4:g8")
    yield "hadamard, no gradient", lambda: hadamard(x)
    yield "hadamard, with gradient", lambda: hadamard(parameter)
