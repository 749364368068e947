"""Codes and scales as they are stored, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import DIALECTS, QuantSpec
from qscale.formats.calls import FAMILIES
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import demand_chance, demands, one_each, plan, scale_shape
from qscale.kernels.ops import implementation
from qscale.kernels.reference import ALL_CODES, FEW_CODES, with_two_zeros

#: The types that scales are stored in where they are not float32: rounded to them already, they fit.
_STORED = {
    "e8m0": torch.float8_e8m0fnu,
    "e4m3": torch.float8_e4m3fn,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """A tensor as codes and scales; :func:`dequantize` has the values.

    Two codes of up to 4 bits share a byte: element ``2i`` of the last axis in the lower half, ``2i + 1`` in
    the upper, the upper half of a last odd one 0. Wider codes take a byte each. Integers and fixed point are
    two's complement, or unsigned with a zero point; floats are sign, exponent, mantissa; codebooks are places
    in their table.
    """

    codes: Tensor  #: uint8, ``(..., K)`` or ``(..., ceil(K / 2))``
    scale: Tensor  #: ``(..., groups)``, for squares ``(..., bands, groups)``, for ``tensor`` ``(1,)``
    zero_point: Tensor | None  #: float32, beside the scales
    tensor_scale: Tensor | None  #: float32, of one element: a factor of every scale
    spec: QuantSpec
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        parts = (self.codes, self.scale, self.zero_point, self.tensor_scale)
        return sum(part.nbytes for part in parts if part is not None)


def quantize(
    x: Tensor,
    spec: QuantSpec | str,
    *,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
    seed: int = 0,
) -> QuantizedTensor:
    """The codes and scales of ``x``: ``dequantize`` makes of them the bits of ``fake_quant(x, spec)``.

    Args:
        x: ``(..., K)``, float32, bfloat16 or float16, any shape and strides.
        spec: As for ``fake_quant``, in dialect ``qscale`` or ``chen2025``, of at most 8 bits.
        scale, zero_point, seed: As for ``fake_quant``; a given scale is kept in float32. A NaN of ``x`` that
            has a given scale has no code: it becomes that of zero, or a codebook's first.

    Raises:
        SpecError: As ``fake_quant``; or elements have more than 8 bits, or the dialect keeps its codes itself
            (``qscale.kernels.dialects.find``).
        BackendError: As ``fake_quant``.

    Example:
        >>> q = quantize(torch.tensor([0.1, -0.7, 0.3, 0.2]), "int4:g4")
        >>> [f"{byte:02x}" for byte in q.codes.tolist()], q.scale
        (['91', '23'], tensor([0.1000]))
        >>> dequantize(q)
        tensor([ 0.1000, -0.7000,  0.3000,  0.2000])
    """
    spec = QuantSpec.parse(spec)
    if DIALECTS[spec.dialect].scale_is_given or plan(spec)[0] not in FAMILIES:
        raise SpecError(f"quantize: dialect {spec.dialect!r} keeps codes its own way: kernels.dialects.find")
    op, arguments, whole_tensor, _ = plan(spec)
    packed = spec.num_bits <= 4
    if spec.num_bits > 8:
        raise SpecError(f"quantize: {spec} has {spec.num_bits} bits; codes take at most 8")
    demands(spec, "straight_through", scale is not None, zero_point is not None)
    if seed:
        demand_chance(spec)
    reference = on_reference("quantize", x)
    arguments = (*arguments[:-1], seed)
    flat = x.reshape(-1) if whole_tensor else x
    shape = scale_shape(flat.shape, *arguments[-4:-2])
    level = None
    if scale is None:
        own, zero, level = implementation(op, "_scales", reference)(flat, *arguments)
        used, stored = own * level, own.reshape(shape).to(_stored_type(spec, x.dtype))
    else:
        used = one_each(scale, shape, flat)
        zero = used if zero_point is None else one_each(zero_point, shape, flat)
        stored = used.reshape(shape)
    # The rows of the tensor, as each begins a byte: one scale serves them all.
    run = implementation(op, "_codes", reference)
    return QuantizedTensor(
        codes=run(x, used, None if spec.symmetric else zero, packed, *arguments),
        scale=stored,
        zero_point=None if spec.symmetric else zero.reshape(shape),
        tensor_scale=level if spec.has_tensor_scale and scale is None else None,
        spec=spec,
        shape=x.shape,
        dtype=x.dtype,
    )


def dequantize(quantized: QuantizedTensor) -> Tensor:
    """The values: code times scale, in the dtype that was quantized. The inverse of :func:`quantize`.

    Example:
        >>> dequantize(quantize(torch.tensor([0.25, -1.0]), "nf4:g2"))
        tensor([ 0.2461, -1.0000])
    """
    q = quantized
    scale, zero = q.scale.to(torch.float32), q.zero_point
    if q.tensor_scale is not None:
        scale = scale * q.tensor_scale
    if zero is not None:
        zero = (zero.round() if q.spec.zero_point == "integer" else zero).contiguous()
    columns = q.shape[-1] if q.shape else 1
    run = implementation("dequantize", "_codes", on_reference("dequantize", q.codes, dtype=q.dtype))
    layout = plan(q.spec)[1][-4:-2]
    return run(q.codes, _table(q.spec), scale.contiguous(), zero, columns, q.dtype, *layout)  # type: ignore[no-any-return]


def _stored_type(spec: QuantSpec, dtype: torch.dtype) -> torch.dtype:
    if spec.row.scale_type != "free":
        return _STORED[spec.row.scale_type]
    if spec.scale_dtype == "input":
        return dtype
    return _STORED.get(spec.scale_dtype or "", torch.float32)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _table(spec: QuantSpec) -> Tensor:
    return _remembered_table(spec)


@lru_cache(maxsize=256)
def _remembered_table(spec: QuantSpec) -> Tensor:
    return torch.tensor(_values_of_codes(spec), dtype=torch.float32, device="cpu")


def _values_of_codes(spec: QuantSpec) -> list[float]:
    """In units of the scale, by code; codes of up to 4 bits have 16 places."""
    row, count = spec.row, FEW_CODES if spec.num_bits <= 4 else ALL_CODES
    if row.codebook:
        return list(with_two_zeros(row.codebook))
    if row.kind == "int":
        step = 1.0 if row.grid is None else row.grid.step
        signed = spec.symmetric
        return [(code - count if signed and 2 * code >= count else code) * step for code in range(count)]
    assert row.grid is not None
    grid, sign = row.grid, 1 << row.num_bits - 1
    if grid.exponent_bits == 0:
        return [(code - count if 2 * code >= count else code) * grid.step for code in range(count)]
    magnitudes = [grid.magnitude(code) if code < grid.count else 0.0 for code in range(sign)]
    found = [*magnitudes, *(-value for value in magnitudes)]
    return [*found, *[0.0] * (count - len(found))]
