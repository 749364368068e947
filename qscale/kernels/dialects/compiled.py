"""The ops of the dialects that have compiled kernels: their schemas, and the emulations that define them.

Which specs an op serves, and with what numbers, is in ``qscale.formats.dialect_ops``; the kernels are in
csrc/bindings/dialect_ops.h. ``qscale.kernels.ops`` registers the rows as it does its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import FORMATS, QuantSpec
from qscale.formats.dialect_ops import CODEBOOKS, ELEMENTS, MAPPINGS, SCALE_RULES
from qscale.kernels.backends import DTYPES
from qscale.kernels.dialects import (
    bitsandbytes,
    compressed_tensors,
    microxcaling,
    modelopt,
    ocp,
    te,
    torchao,
    torchao_floats,
)
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import Element, element_of
from qscale.kernels.dialects.logarithms import last_mantissas

_WHOLE_AXIS = -1

#: An emulation: rows, elements of a group, and the numbers before ``group_size``.
Run = Callable[..., Quantized]


class DialectOp(NamedTuple):
    """What ``qscale.kernels.ops`` needs to register one."""

    name: str
    arguments: str  #: of the schema, after the tensor
    reference: Callable[..., Tensor]


def keep_logarithms() -> None:
    """Hand the compiled kernels their tables of rounded logarithms."""
    tables = last_mantissas()
    torch.ops.qscale.keep_logarithms(tables)
    torch.ops.qscale.keep_cuda_logarithms(tables)


def check_groups(x: Tensor, group: int, spec: QuantSpec | str) -> None:
    """A SpecError where a library that takes whole groups would be left with a part."""
    length = x.shape[-1] if x.dim() else 1
    if length % group and x.numel():
        spec = QuantSpec.parse(spec)
        raise SpecError(
            f"{spec}: the last axis has {length} elements; {spec.dialect} takes whole groups of {group}"
        )


def _op(name: str, arguments: str, run: Run, *, any_length: bool = False) -> DialectOp:
    """``arguments`` without ``group_size``, which is the last of every op."""
    op = f"fake_quant_{name}"

    def reference(x: Tensor, *numbers: Any) -> Tensor:
        *options, group = numbers
        _check(op, x, group)
        if x.numel() == 0:
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        length = x.shape[-1] if x.dim() else 1
        if not any_length and group != _WHOLE_AXIS and length % group:
            raise RuntimeError(f"{op}: the last axis has {length} elements; wanted whole groups of {group}")
        y = run(x.reshape(-1, length), length if group == _WHOLE_AXIS else group, *options).y
        return y.reshape(x.shape).contiguous()

    before = f"{arguments}, " if arguments else ""
    return DialectOp(name=op, arguments=f"{before}int group_size", reference=reference)


def _check(op: str, x: Tensor, group: int) -> None:
    if x.dtype not in DTYPES:
        raise RuntimeError(f"{op}: x has dtype {x.dtype}; wanted float32, bfloat16 or float16")
    if group != _WHOLE_AXIS and group < 1:
        raise RuntimeError(f"{op}: group_size={group}; wanted at least 1, or -1 for the whole last axis")


def _named(what: str, table: Mapping[str, int], number: int) -> str:
    for name, value in table.items():
        if value == number:
            return name
    raise RuntimeError(f"{what}={number}; wanted 0 to {len(table) - 1}")


#: A format with each element.
_FORMATS = {
    "e4m3": "mxfp8_e4m3",
    "e5m2": "mxfp8_e5m2",
    "e2m3": "mxfp6_e2m3",
    "e3m2": "mxfp6_e3m2",
    "e2m1": "mxfp4",
    "int8": "mxint8",
}
_TABLES = {"nf4": bitsandbytes.NF4, "fp4_bnb": bitsandbytes.FP4}


def _format(element: int) -> str:
    return _FORMATS[_named("element", ELEMENTS, element)]


def _element(number: int) -> Element:
    return element_of(_format(number))


def _mapping(number: int) -> Any:
    return _named("mapping", MAPPINGS, number)


def _torchao_mx(x: Tensor, group: int, element: int, scale_rule: int) -> Quantized:
    rule: Any = _named("scale_rule", SCALE_RULES, scale_rule)
    return torchao_floats.mx(x, _element(element), group, rule=rule)


def _bitsandbytes(x: Tensor, group: int, codebook: int) -> Quantized:
    return bitsandbytes.quantize_4bit(x, _TABLES[_named("codebook", CODEBOOKS, codebook)], group)


def _microxcaling(x: Tensor, group: int, element: int, away: int) -> Quantized:
    grid = FORMATS[_format(element)].grid
    assert grid is not None
    rounding: microxcaling.Rounding = "nearest" if away else "even"
    return Quantized(y=microxcaling.quantize_mx(x, grid, group, rounding))


def _ocp(x: Tensor, group: int, element: int) -> Quantized:
    if group != ocp.BLOCK:
        raise RuntimeError(f"fake_quant_ocp_mx: group_size={group}; wanted {ocp.BLOCK}")
    return ocp.mx_quantizer(_format(element))(x)


OPS = (
    _op(
        "torchao_int",
        "int num_bits, int mapping",
        lambda x, group, bits, mapping: torchao.intx_fake_quantizer(
            x, bits, group, mapping=_mapping(mapping)
        ),
    ),
    _op(
        "torchao_affine",
        "int num_bits, int mapping",
        lambda x, group, bits, mapping: torchao.affine_primitives(x, bits, group, mapping=_mapping(mapping)),
    ),
    _op(
        "torchao_float8",
        "int element",
        lambda x, group, element: torchao_floats.float8(x, _element(element), group),
    ),
    _op("torchao_mx", "int element, int scale_rule", _torchao_mx),
    _op(
        "torchao_nvfp4",
        "int tensor_level",
        lambda x, group, level: torchao_floats.nvfp4(x, two_levels=bool(level), group_size=group),
    ),
    _op(
        "compressed_tensors_int",
        "int num_bits, int symmetric",
        lambda x, group, bits, symmetric: compressed_tensors.integers(
            x, bits, group, symmetric=bool(symmetric)
        ),
    ),
    _op("compressed_tensors_float8", "", compressed_tensors.float8),
    _op(
        "compressed_tensors_mx",
        "int element",
        lambda x, group, element: compressed_tensors.mx(x, _element(element), group),
    ),
    _op("compressed_tensors_nvfp4", "", compressed_tensors.nvfp4),
    _op(
        "modelopt_int",
        "int num_bits",
        lambda x, group, bits: modelopt.tensor_quantizer_int(x, bits, group),
    ),
    _op("modelopt_float8", "", modelopt.tensor_quantizer_e4m3),
    _op("modelopt_mxfp4", "", modelopt.mxfp4),
    _op("modelopt_mxfp8", "", modelopt.mxfp8),
    _op("modelopt_nvfp4", "", modelopt.nvfp4),
    _op("modelopt_nf4", "", modelopt.nf4),
    _op("bitsandbytes_4bit", "int codebook", _bitsandbytes, any_length=True),
    _op("microxcaling_mx", "int element, int away", _microxcaling, any_length=True),
    _op("te_nvfp4", "", lambda x, group: te.nvfp4(x, (1, group)), any_length=True),
    _op("ocp_mx", "int element", _ocp, any_length=True),
)
