"""Other ways to the same end: one row each, with the call that it makes for a case."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.kernels import fake_quant, hadamard
from qscale.timing.cases import Case
from qscale.timing.composites import Function, composite, is_plain

#: Up to here the dense product is a way that people take; above, its work alone says how it ends.
_LARGEST_MATMUL = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library, or torch itself, and the function of it that does what a case does."""

    name: str
    package: str  #: distribution and module
    function: Callable[[Case], Function | None]  #: None: it has no such operation
    compiles: bool = True  #: whether ``torch.compile`` has anything to do

    def missing(self) -> str | None:
        """Why it cannot be timed here."""
        if util.find_spec(self.package) is None:
            return f"{self.package} is not installed: pip install 'qscale[bench]'"
        return None

    def version(self) -> str:
        """Of the package."""
        return metadata.version(self.package)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines: what libraries lack on a CPU is no news here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def compiled(function: Function, x: Tensor) -> tuple[Function, float]:
    """The function through ``torch.compile`` for this shape, compiled anew, and the seconds that took."""
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    fast: Any = torch.compile(function, dynamic=False)
    with fresh_cache():
        start = perf_counter()
        fast(x)
        return fast, perf_counter() - start


def _composite(case: Case) -> Function | None:
    if case.spec is None or case.block is not None:
        return None
    return composite(case.spec, case.x.shape[-1])


def _aten(case: Case) -> Function | None:
    """The per-channel operator on groups as channels; the scales are given, which costs it nothing."""
    spec, axis = case.spec, case.x.shape[-1]
    if not _plain_rounding(case) or spec is None or spec.type != "int" or spec.row.block is not None:
        return None
    if spec.strategy == "tensor" or axis % spec.group_length(axis):
        return None
    group, largest = spec.group_length(axis), 2 ** (spec.num_bits - 1) - 1
    scale = case.x.float().reshape(-1, group).abs().amax(-1) / largest
    zero = torch.zeros_like(scale, dtype=torch.int32)

    def run(x: Tensor) -> Tensor:
        groups = x.reshape(-1, group)
        return torch.fake_quantize_per_channel_affine(groups, scale, zero, 0, -largest, largest).reshape(
            x.shape
        )

    return run


def _torchao(case: Case) -> Function | None:
    spec = case.spec
    if not _plain_rounding(case) or spec is None:
        return None
    if spec.row.scale_type == "e8m0":
        return _torchao_mx(spec.format)
    if spec.row.scale_type == "e4m3":
        return _torchao_nvfp4()
    if spec.type == "int" and spec.strategy in ("group", "channel"):
        return _torchao_int(spec)
    if spec.format == "fp8_e4m3" and spec.group_size is not None:
        return _torchao_fp8(spec.group_size)
    return None


def _torchao_int(spec: QuantSpec) -> Function:
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

    span: dict[str, Any] = {"granularity": "per_channel"}
    if spec.group_size is not None:
        span = {"group_size": spec.group_size}
    function: Function = IntxFakeQuantizer(IntxFakeQuantizeConfig(getattr(torch, spec.format), **span))
    return function


def _torchao_fp8(group: int) -> Function:
    from torchao.quantization import quant_primitives as primitives

    def run(x: Tensor) -> Tensor:
        scale = primitives._choose_scale_float8(x, (1, group), torch.float8_e4m3fn)
        codes = primitives._quantize_affine_float8(x, scale, torch.float8_e4m3fn)
        y: Tensor = primitives._dequantize_affine_float8(codes, scale, x.dtype)
        return y

    return run


def _torchao_mx(name: str) -> Function | None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    elements: dict[str, Any] = {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp4": torch.float4_e2m1fn_x2,
    }
    element = elements.get(name)
    if element is None:
        return None

    def run(x: Tensor) -> Tensor:
        y: Tensor = MXTensor.to_mx(x, element, 32).dequantize(x.dtype)
        return y

    return run


def _torchao_nvfp4() -> Function:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    def run(x: Tensor) -> Tensor:
        outer = per_tensor_amax_to_scale(x.abs().max())
        y: Tensor = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=outer).dequantize(x.dtype)
        return y

    return run


def _bitsandbytes(case: Case) -> Function | None:
    spec = case.spec
    if not _plain_rounding(case) or spec is None or spec.type != "codebook" or spec.group_size is None:
        return None
    from bitsandbytes import functional

    name, group = spec.format.removesuffix("_bnb"), spec.group_size

    def run(x: Tensor) -> Tensor:
        codes, state = functional.quantize_4bit(
            x, blocksize=group, quant_type=name, compress_statistics=False
        )
        y: Tensor = functional.dequantize_4bit(codes, state)
        return y

    return run


def _matmul(case: Case) -> Function | None:
    """The product with the dense matrix, block by block."""
    block = case.block
    if block is None or case.spec is not None or block > _LARGEST_MATMUL:
        return None
    matrix = hadamard(torch.eye(block)).to(case.x)
    return lambda x: (x.reshape(-1, block) @ matrix).reshape(x.shape)


def _unrotated(case: Case) -> Function | None:
    """The quantization without the rotation before it."""
    spec = case.spec
    return None if spec is None or case.block is None else lambda x: fake_quant(x, spec)


def _plain_rounding(case: Case) -> bool:
    return case.spec is not None and case.block is None and is_plain(case.spec)


#: In the order of the columns. A new peer is one row and the function that makes its call.
PEERS = (
    Peer(name="composite", package="torch", function=_composite),
    Peer(name="aten", package="torch", function=_aten),
    Peer(name="torchao", package="torchao", function=_torchao),
    Peer(name="bitsandbytes", package="bitsandbytes", function=_bitsandbytes),
    Peer(name="matmul", package="torch", function=_matmul, compiles=False),
    Peer(name="unrotated", package="torch", function=_unrotated, compiles=False),
)
