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
_STEPS = (0, 1, -1, 2, -2, 3, -3)  #: of a divisor's last bit
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
    grid = torch.tensor([row.magnitude(code) for code in range(row.count)], device=weight.device)
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
    signed = (codes | groups.signbit().to(torch.uint8) << (kind.num_bits - 1)).reshape(rows, width)
    found["weight_scale"] = scale.reshape(rows, -1)
    if kind.num_bits == 8:
        found["weight"] = signed.view(torch.float8_e4m3fn)
    else:
        found["weight_packed"] = signed[:, 0::2] | signed[:, 1::2] << 4
    return found


def _nearest(size: Tensor, scale: Tensor, grid: Tensor) -> Tensor:
    """Numbers of the magnitudes of the format nearest to ``size / scale``."""
    return torch.bucketize(size / scale, (grid[1:] + grid[:-1]) / 2, out_int32=True)


def _powers_of_two(groups: Tensor, grid: Tensor) -> tuple[Tensor, Tensor] | None:
    """Codes and E8M0 scales, the smallest scales that serve."""
    size = groups.abs().float()
    largest = size.amax(1, keepdim=True)
    codes = torch.zeros_like(groups, dtype=torch.uint8)
    scale = torch.full_like(largest, _E8M0_BIAS, dtype=torch.uint8)
    is_open = largest[:, 0] > 0  # a group of zeros has codes under every scale
    for value in reversed(grid[1:].tolist()):
        mantissa, power = torch.frexp(largest.double() / value)
        biased = power - 1 + _E8M0_BIAS
        is_scale = (mantissa == 0.5) & (biased >= 0) & (biased < 255)
        tried = (is_open & is_scale[:, 0]).nonzero()[:, 0]
        if not len(tried):
            continue
        biased = biased[tried]
        step = torch.ldexp(torch.ones_like(biased, dtype=torch.float32), biased - _E8M0_BIAS)
        wanted = size[tried]
        numbers = _nearest(wanted, step, grid)
        fits = ((grid[numbers] * step).to(groups.dtype) == wanted).all(1)
        found = tried[fits]
        codes[found], scale[found] = numbers[fits].to(torch.uint8), biased[fits].to(torch.uint8)
        is_open[found] = False
    return None if is_open.any() else (codes, scale)


def _two_levels(groups: Tensor, grid: Tensor, *, one: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, E4M3 scales and the divisor of them all.

    Args:
        groups: Rounded weights, a block in a row.
        grid: The magnitudes of the format.
        one: Whether to try a divisor near 1 before others.
    """
    size = groups.abs()
    top = float(size.max())
    if top == 0.0:
        scale = torch.ones_like(size[:, :1], dtype=torch.float32).to(torch.float8_e4m3fn)
        return torch.zeros_like(size, dtype=torch.uint8), scale, torch.ones(1, device=groups.device)
    for unit in _units(top, grid, one=one):
        if _under(size[:_FEW], unit, grid) is None:
            continue
        found = _under(size, unit, grid)
        if found is None:
            continue
        codes, scale = found
        if (divisor := _divisor(size, codes, scale, grid, unit)) is not None:
            return codes, scale, divisor
    return None


def _units(top: float, grid: Tensor, *, one: bool) -> Iterator[float]:
    """What an E4M3 scale of 1 may stand for, roughly: the largest weight is some value under some scale."""
    if one:
        yield 1.0
    scales = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    products = {s * v for s in scales.tolist() for v in grid[1:].tolist()}
    for product in sorted(products, reverse=True):
        yield top / product


def _under(size: Tensor, unit: float, grid: Tensor) -> tuple[Tensor, Tensor] | None:
    """Codes and E4M3 scales that give the magnitudes nearly; a zero stays one exactly."""
    largest = size.amax(1, keepdim=True).float()
    codes = torch.zeros_like(size, dtype=torch.uint8)
    scale = torch.ones_like(largest)
    open_ = (largest[:, 0] > 0).nonzero()[:, 0]
    for value in reversed(grid[1:].tolist()):
        wanted = size[open_].float()
        tried = (largest[open_] / (value * unit)).clamp(max=448.0).to(torch.float8_e4m3fn).float()
        step = tried * unit
        numbers = _nearest(wanted, step, grid)
        near = (grid[numbers] * step - wanted).abs() <= _TOLERANCE * wanted
        fits = near.all(1) & (tried[:, 0] > 0)
        codes[open_[fits]], scale[open_[fits]] = numbers[fits].to(torch.uint8), tried[fits]
        open_ = open_[~fits]
        if not len(open_):
            return codes, scale.to(torch.float8_e4m3fn)
    return None


def _divisor(size: Tensor, codes: Tensor, scale: Tensor, grid: Tensor, unit: float) -> Tensor | None:
    """A float32 number by which all scales are divided, so that every weight comes out to the bit.

    What has the same code under the same scale is one weight, so there are few to look at. Each bounds the
    number: the product lies within half a last bit of it on both sides. ``1 / unit`` is tried first.
    """
    pairs = (codes.long() * 256 + scale.view(torch.uint8)).reshape(-1)
    bits = size.reshape(-1).view(torch.int16)
    of_pair = torch.full((len(grid) * 256,), -1, dtype=torch.int16, device=size.device)
    of_pair[pairs] = bits
    if not torch.equal(of_pair[pairs], bits):
        return None
    pair = ((of_pair >= 0) & (torch.arange(len(of_pair), device=size.device) >= 256)).nonzero()[:, 0]
    value = grid[pair // 256]
    under = (pair % 256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    product = value.double() * under.double()
    weight, below, above = ((of_pair[pair] + step).view(size.dtype) for step in (0, -1, 1))
    low = float(((below.double() + weight) / 2 / product).max())
    high = float(((above.double() + weight) / 2 / product).min())
    for tried in (unit, *(low + share * (high - low) for share in (0.5, 0.25, 0.75, 0.0, 1.0))):
        near = torch.tensor([1.0 / tried], device=size.device)
        for step in _STEPS:
            divisor = (near.view(torch.int32) + step).view(torch.float32)
            if torch.equal((value * (under / divisor)).to(size.dtype), weight):
                return divisor
    return None
