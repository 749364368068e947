"""The arithmetic of other libraries in plain torch, exact to the bit: one module a library.

:func:`find` serves what a spec can name. What a spec cannot say (scales that the caller gives, learned
ranges, gradients) are public functions of the modules. docs/dialects.md compares the rules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.kernels.dialects import (
    bitsandbytes,
    compressed_tensors,
    microxcaling,
    modelopt,
    ocp,
    quest,
    te,
    torchao,
    torchao_floats,
)
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import element_of

__all__ = ["Quantized", "find"]

Quantizer = Callable[[Tensor], Quantized]

#: Dialects that fill a short last group, or let groups run on from row to row.
_ANY_LENGTH = ("bitsandbytes", "microxcaling", "te", "ocp")


def find(spec: QuantSpec) -> Quantizer | None:
    """The function of a dialect that quantizes as ``spec`` says, or None where there is none.

    It takes any shape, groups running along the last axis; codes and ``y`` have the shape of its input. Most
    libraries demand whole groups; then a last axis that is not a multiple is a SpecError.
    """
    chosen = _CHOICES.get(spec.dialect)
    run = None if chosen is None else chosen(spec)
    if run is None:
        return None

    def quantize(x: Tensor) -> Quantized:
        return _on_rows(x, spec, run)

    return quantize


def _on_rows(x: Tensor, spec: QuantSpec, run: Quantizer) -> Quantized:
    if x.numel() == 0:
        nothing = torch.empty_like(x, memory_format=torch.contiguous_format)
        return Quantized(y=nothing)
    length = x.numel() if spec.strategy == "tensor" else x.shape[-1] if x.dim() else 1
    group = spec.group_size
    if group is not None and length % group and spec.dialect not in _ANY_LENGTH:
        raise SpecError(
            f"{spec}: the last axis has {length} elements; {spec.dialect} takes whole groups of {group}"
        )
    if spec.dialect == "bitsandbytes":
        return run(x)
    result = run(x.reshape(-1, length))
    return Quantized(
        y=result.y.reshape(x.shape),
        codes=None if result.codes is None else result.codes.reshape(x.shape),
        scale=result.scale,
        zero_point=result.zero_point,
        tensor_scale=result.tensor_scale,
    )


def _torchao(spec: QuantSpec) -> Quantizer | None:
    group = spec.group_size
    if spec.format == "nvfp4":
        return lambda x: torchao_floats.nvfp4(x, two_levels=spec.tensor_scale)
    if spec.type == "int":
        return _torchao_int(spec)
    element = element_of(spec.format)
    if spec.row.block is None:
        return lambda x: torchao_floats.float8(x, element, group)
    rule = _mx_rule(spec)
    return lambda x: torchao_floats.mx(x, element, spec.row.block or 32, rule=rule)


def _torchao_int(spec: QuantSpec) -> Quantizer:
    bits, group = spec.num_bits, spec.group_size
    # The fake quantizer serves symmetric groups and rows, and asymmetric tokens; the primitives the rest.
    if spec.scale_rule == "noclip":
        return lambda x: torchao.affine_primitives(x, bits, group, mapping="noclip")
    if not spec.symmetric and spec.strategy == "token":
        return lambda x: torchao.intx_fake_quantizer(x, bits, group, mapping="asymmetric")
    if not spec.symmetric:
        return lambda x: torchao.affine_primitives(x, bits, group, mapping="asymmetric")
    if spec.strategy == "tensor":
        return lambda x: torchao.affine_primitives(x, bits, group)
    return lambda x: torchao.intx_fake_quantizer(x, bits, group)


def _mx_rule(spec: QuantSpec) -> torchao_floats.ScaleRule:
    rule = spec.scale_rule or "floor"
    assert rule != "noclip"  # a spec of an MX format has no such option
    return rule


def _compressed_tensors(spec: QuantSpec) -> Quantizer | None:
    group = spec.group_size
    if spec.format == "nvfp4":
        return compressed_tensors.nvfp4
    if spec.type == "int":
        return lambda x: compressed_tensors.integers(x, spec.num_bits, group, symmetric=spec.symmetric)
    if spec.row.block is None:
        return lambda x: compressed_tensors.float8(x, group)
    return lambda x: compressed_tensors.mx(x, element_of(spec.format))


def _modelopt(spec: QuantSpec) -> Quantizer | None:
    group = spec.group_size
    if spec.type == "int":
        return lambda x: modelopt.tensor_quantizer_int(x, spec.num_bits, group)
    if spec.format == "fp8_e4m3":
        return lambda x: modelopt.tensor_quantizer_e4m3(x, group)
    if spec.format == "nf4":
        return None if group is None else lambda x: modelopt.nf4(x, group)
    return {"mxfp4": modelopt.mxfp4, "mxfp8_e4m3": modelopt.mxfp8, "nvfp4": modelopt.nvfp4}[spec.format]


def _bitsandbytes(spec: QuantSpec) -> Quantizer | None:
    table = {"nf4": bitsandbytes.NF4, "fp4_bnb": bitsandbytes.FP4}[spec.format]
    block = spec.group_size
    return None if block is None else lambda x: bitsandbytes.quantize_4bit(x, table, block)


def _microxcaling(spec: QuantSpec) -> Quantizer | None:
    grid = spec.row.grid
    assert grid is not None
    rounding: microxcaling.Rounding = "nearest" if spec.rounding == "away" else "even"
    return lambda x: Quantized(y=microxcaling.quantize_mx(x, grid, rounding=rounding))


def _quest(spec: QuantSpec) -> Quantizer | None:
    rows = spec.strategy in ("channel", "token")
    return (lambda x: Quantized(y=quest.straight_through(x, spec.num_bits).y)) if rows else None


_CHOICES: dict[str, Callable[[QuantSpec], Quantizer | None]] = {
    "torchao": _torchao,
    "compressed_tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "bitsandbytes": _bitsandbytes,
    "microxcaling": _microxcaling,
    "te": lambda _: te.nvfp4,
    "ocp": lambda spec: ocp.mx_quantizer(spec.format),
    "quest": _quest,
}
