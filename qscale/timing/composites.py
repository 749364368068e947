"""The arithmetic of dialect ``qscale`` as one writes it in torch: what ``torch.compile`` is given.

The reference rounds in float64 and takes care of every special value, and Inductor cannot compile parts of
it. Here everything is float32 and bits, and the same for normal float32 values whose scales are normal too:
special values are left out, which makes these functions faster, never slower, than the whole arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.formats.grids import FORMATS, Grid

Function = Callable[[Tensor], Tensor]

_E4M3 = FORMATS["fp8_e4m3"].grid


def composite(spec: QuantSpec, axis: int) -> Function | None:
    """``fake_quant(x, spec)`` for a last axis of this length; None where it is not written out here."""
    if spec.strategy == "tensor" or not is_plain(spec):
        return None
    group = spec.group_length(axis)
    rounded = _rounding(spec)
    if rounded is None or axis % group:
        return None

    def run(x: Tensor) -> Tensor:
        groups = x.float().reshape(-1, group)
        return rounded(groups, groups.abs().amax(-1, keepdim=True)).reshape(x.shape).to(x.dtype)

    return run


def is_plain(spec: QuantSpec) -> bool:
    """Whether a spec is a format and a granularity alone, in dialect ``qscale``."""
    return spec == QuantSpec(format=spec.format, strategy=spec.strategy, group_size=spec.group_size)


def _rounding(spec: QuantSpec) -> Callable[[Tensor, Tensor], Tensor] | None:
    """From groups and their largest magnitudes to rounded groups."""
    row = spec.row
    grid = row.grid
    if row.codebook:
        values = torch.tensor(row.codebook, dtype=torch.float64)
        borders = ((values[1:] + values[:-1]) / 2).float().tolist()
        return lambda groups, absmax: _codebook(groups, absmax, row.codebook, borders)
    if grid is None:
        return lambda groups, absmax: _integers(groups, absmax, 2 ** (row.num_bits - 1) - 1)
    if row.scale_type == "e4m3":
        return lambda groups, absmax: _two_levels(groups, absmax, grid)
    if row.scale_type == "e8m0":
        return lambda groups, absmax: _blocks(groups, absmax, grid)
    return lambda groups, absmax: _floats(groups, absmax, grid)


def _integers(groups: Tensor, absmax: Tensor, largest: int) -> Tensor:
    scale = _or_one(absmax / largest)
    return ((groups / scale).round().clamp(-largest, largest) + 0.0) * scale


def _floats(groups: Tensor, absmax: Tensor, grid: Grid) -> Tensor:
    scale = _or_one(absmax / grid.max)
    return _to_grid(groups / scale, grid) * scale


def _blocks(groups: Tensor, absmax: Tensor, grid: Grid) -> Tensor:
    """A power of two for each block: ``floor(log2 absmax)`` less that of the largest element."""
    top = math.frexp(grid.max)[1] - 1
    scale = _power_of_two((_exponent(absmax) - top).clamp(-126, 127))
    return _to_grid(groups / scale, grid) * scale


def _two_levels(groups: Tensor, absmax: Tensor, grid: Grid) -> Tensor:
    assert _E4M3 is not None
    outer = _or_one(absmax.amax() / (_E4M3.max * grid.max))
    scale = _or_one(_to_grid((absmax / grid.max) / outer, _E4M3) * outer)
    return _to_grid(groups / scale, grid) * scale


def _codebook(groups: Tensor, absmax: Tensor, values: Sequence[float], borders: Sequence[float]) -> Tensor:
    scale = _or_one(absmax)
    find = _compared if torch.compiler.is_compiling() else _searched
    return find(groups / scale, values, borders) * scale


def _searched(scaled: Tensor, values: Sequence[float], borders: Sequence[float]) -> Tensor:
    return torch.tensor(values)[torch.bucketize(scaled, torch.tensor(borders))]


def _compared(scaled: Tensor, values: Sequence[float], borders: Sequence[float]) -> Tensor:
    """A comparison for each border: Inductor makes vectors of it, but not of a search or a table."""
    nearest = torch.full_like(scaled, values[0])
    for border, value in zip(borders, values[1:], strict=True):
        nearest = torch.where(scaled > border, value, nearest)
    return nearest


def _to_grid(value: Tensor, grid: Grid) -> Tensor:
    step = _power_of_two(_exponent(value).clamp(min=grid.min_exponent) - grid.mantissa_bits)
    rounded = ((value / step).round() * step).clamp(-grid.max, grid.max)
    return rounded if grid.exponent_bits else rounded + 0.0  # fixed point has one zero


def _exponent(value: Tensor) -> Tensor:
    """floor(log2 |value|) from the bits."""
    return ((value.view(torch.int32) >> 23) & 0xFF) - 127


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).view(torch.float32)


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)
