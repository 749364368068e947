"""Floats in blocks under scales of one byte, as compressed-tensors lays them out: NVFP4, MXFP4 and MXFP8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.formats.grids import FORMATS

_FEW = 64  #: blocks on which a scale of the tensor is tried first
_E8M0_BIAS = 127
#: A weight and the scale of the tensor that is read from another are each off by half a last bit of bfloat16;
#: products of two values and scales that differ at all differ by a part in 24 or more.
_TOLERANCE = 2.0**-7


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFloat:
    """What the library calls a format, and how it wants it described."""

    name: str
    num_bits: int
    block: int
    strategy: str
    scale_dtype: str

    def arguments(self) -> dict[str, Any]:
        """The library's ``QuantizationArgs`` of the weights."""
        return {
            "num_bits": self.num_bits,
            "type": "float",
            "symmetric": True,
            "strategy": self.strategy,
            "group_size": self.block,
            "dynamic": False,
            "scale_dtype": self.scale_dtype,
        }


#: By qscale's names.
BLOCK_FLOATS = {
    "nvfp4": BlockFloat(
        name="nvfp4-pack-quantized",
        num_bits=4,
        block=16,
        strategy="tensor_group",
        scale_dtype="torch.float8_e4m3fn",
    ),
    "mxfp4": BlockFloat(
        name="mxfp4-pack-quantized", num_bits=4, block=32, strategy="group", scale_dtype="torch.uint8"
    ),
    "mxfp8_e4m3": BlockFloat(
        name="mxfp8-quantized", num_bits=8, block=32, strategy="group", scale_dtype="torch.uint8"
    ),
}


def block_float_tensors(weight: Tensor, spec: QuantSpec) -> dict[str, Tensor] | None:
    """The library's tensors of a rounded weight that give back its bits; None where there are none.

    A code is sign and magnitude; two of E2M1 are a byte, the first in the low half. The scale of a block is
    found among its largest magnitude divided by each value of the format. An E8M0 scale is its exponent plus
    127. NVFP4 has ``weight_global_scale``, by which the library **divides** the E4M3 scales, in float32; any
    that gives back every bit will do. The library computes weights in bfloat16, whatever the model's dtype: a
    weight of another dtype has none.

    Args:
        weight: ``(rows, width)``, bfloat16.
        spec: A format of ``BLOCK_FLOATS``; how its scales were chosen does not matter.

    Returns:
        ``weight_packed``, uint8 ``(rows, width / 2)``, or ``weight``, float8 of MXFP8; ``weight_scale``,
        ``(rows, width / block)``; ``weight_global_scale``, float32 ``(1,)``, of NVFP4.

    Example:
        >>> weight = torch.tensor([[-6.0, 0.5] + [0.0] * 30]).bfloat16()
        >>> found = block_float_tensors(weight, QuantSpec.parse("mxfp4"))
        >>> found["weight_packed"][0, 0].item() == 0x1F, found["weight_scale"].tolist()
        (True, [[127]])

    Source: compressed-tensors 0.20; OCP Microscaling Formats 1.0.
    """
    kind = BLOCK_FLOATS.get(spec.format)
    rows, width = weight.shape
    if kind is None or weight.dtype != torch.bfloat16 or width % kind.block or not weight.isfinite().all():
        return None
    groups = weight.detach().reshape(-1, kind.block)
    row = FORMATS[spec.format].grid
    assert row is not None
    grid = torch.tensor([row.magnitude(code) for code in range(row.count)], dtype=torch.float64)
    grid = grid.to(weight.device)
    found: dict[str, Tensor] = {}
    if spec.format == "nvfp4":
        both = _two_levels(groups, grid, one=not spec.tensor_scale)
        if both is None:
            return None
        codes, scale, found["weight_global_scale"] = both
    else:
        powers = _powers_of_two(groups, grid)
        if powers is None:
            return None
        codes, scale = powers
    signed = (codes | groups.signbit().long() << (kind.num_bits - 1)).to(torch.uint8).reshape(rows, width)
    found["weight_scale"] = scale.reshape(rows, -1)
    if kind.num_bits == 8:
        found["weight"] = signed.view(torch.float8_e4m3fn)
    else:
        found["weight_packed"] = signed[:, 0::2] | signed[:, 1::2] << 4
    return found


def _nearest(groups: Tensor, scale: Tensor, grid: Tensor) -> Tensor:
    """Numbers of the magnitudes of the format nearest to ``groups / scale``."""
    return torch.bucketize(groups.abs().double() / scale, (grid[1:] + grid[:-1]) / 2)


def _powers_of_two(groups: Tensor, grid: Tensor) -> tuple[Tensor, Tensor] | None:
    """Codes and E8M0 scales, the smallest scales that serve."""
    largest = groups.abs().amax(1, keepdim=True).double()
    codes = torch.zeros_like(groups, dtype=torch.int64)
    scale = torch.full_like(largest, _E8M0_BIAS, dtype=torch.uint8)
    open_ = (largest[:, 0] > 0).nonzero()[:, 0]  # a group of zeros has them under every scale
    for value in reversed(grid[1:].tolist()):
        mantissa, power = torch.frexp(largest[open_] / value)
        biased = power - 1 + _E8M0_BIAS
        is_scale = ((mantissa == 0.5) & (biased >= 0) & (biased < 255))[:, 0]
        maybe, biased = open_[is_scale], biased[is_scale]
        step = torch.ldexp(torch.ones_like(biased, dtype=torch.float64), biased - _E8M0_BIAS)
        tried = _nearest(groups[maybe], step, grid)
        fits = ((grid[tried] * step).to(groups.dtype) == groups[maybe].abs()).all(1)
        codes[maybe[fits]], scale[maybe[fits]] = tried[fits], biased[fits].to(torch.uint8)
        is_open = torch.ones(len(groups), dtype=torch.bool, device=groups.device)
        is_open[maybe[fits]] = False
        open_ = open_[is_open[open_]]
    return None if len(open_) else (codes, scale)


def _two_levels(groups: Tensor, grid: Tensor, *, one: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, E4M3 scales and the divisor of them all.

    Args:
        groups: Rounded weights, a block in a row.
        grid: The magnitudes of the format.
        one: Whether to try a divisor of 1 before others.
    """
    top = float(groups.abs().max())
    if top == 0.0:
        scale = torch.ones(len(groups), 1, device=groups.device).to(torch.float8_e4m3fn)
        return torch.zeros_like(groups, dtype=torch.int64), scale, torch.ones(1, device=groups.device)
    for unit in _units(top, grid, one=one):
        if _under(groups[:_FEW], unit, grid) is None:
            continue
        found = _under(groups, unit, grid)
        if found is None:
            continue
        codes, scale = found
        divisor = _divisor(groups, grid[codes], scale)
        if divisor is not None:
            return codes, scale.to(torch.float8_e4m3fn), divisor
    return None


def _units(top: float, grid: Tensor, *, one: bool) -> Iterator[float]:
    """What an E4M3 scale of 1 may stand for, roughly: the largest weight is some value under some scale."""
    if one:
        yield 1.0
    scales = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    products = {s * v for s in scales.tolist() for v in grid[1:].tolist()}
    for product in sorted(products, reverse=True):
        yield top / product


def _under(groups: Tensor, unit: float, grid: Tensor) -> tuple[Tensor, Tensor] | None:
    """Codes and E4M3 scales, in float64, that give the groups nearly; a zero stays one exactly."""
    size = groups.abs().double()
    largest = size.amax(1, keepdim=True)
    codes = torch.zeros_like(groups, dtype=torch.int64)
    scale = torch.ones_like(largest)
    open_ = (largest[:, 0] > 0).nonzero()[:, 0]
    for value in reversed(grid[1:].tolist()):
        wanted = (largest[open_] / (value * unit)).clamp(max=448.0).float()
        tried = wanted.to(torch.float8_e4m3fn).double()
        step = tried * unit
        numbers = _nearest(groups[open_], step, grid)
        near = (grid[numbers] * step - size[open_]).abs() <= _TOLERANCE * size[open_]
        fits = (near & (tried > 0)).all(1)
        codes[open_[fits]], scale[open_[fits]] = numbers[fits], tried[fits]
        open_ = open_[~fits]
        if not len(open_):
            return codes, scale
    return None if len(open_) else (codes, scale)


def _divisor(groups: Tensor, values: Tensor, scale: Tensor) -> Tensor | None:
    """A float32 number by which all scales are divided, so that every weight comes out to the bit.

    Each weight bounds it: what it comes from must lie within half a last bit of it on both sides.
    """
    size = groups.abs()
    used = values > 0
    product = (values * scale)[used]
    bits = size.view(torch.int16)[used]
    middle, below, above = ((bits + step).view(size.dtype).double() for step in (0, -1, 1))
    low = float(((below + middle) / 2 / product).max())
    high = float(((above + middle) / 2 / product).min())
    if low > high * (1 + 2.0**-20):
        return None
    for share in (0.5, 0.25, 0.75, 0.0, 1.0):
        unit = low + share * (high - low)
        divisor = torch.tensor([1.0 / unit], dtype=torch.float64).float().to(groups.device)
        if not 0.0 < float(divisor) < float("inf"):
            continue
        made = values.float() * (scale.float() / divisor)
        if torch.equal(made.to(size.dtype), size):
            return divisor
    return None
