"""Which scale a group gets for its largest magnitude, where scales are of a type with few values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qscale.formats.cells import regions
from qscale.formats.densities import Array
from qscale.formats.grids import Grid, values
from qscale.formats.spec import QuantSpec

#: Types that scales are rounded to, without the codes of infinity and NaN, by their names in a spec.
SCALE_GRIDS = {
    "e4m3": Grid(exponent_bits=4, mantissa_bits=3, reserved=1),
    "float16": Grid(exponent_bits=5, mantissa_bits=10, reserved=1 << 10),
    "bfloat16": Grid(exponent_bits=8, mantissa_bits=7, reserved=1 << 7),
}
#: So many runs of scales in a binade: maxima of large groups gather in less than one.
_PARTS = 2
#: Of an E8M0 scale.
_LEAST_EXPONENT, _LARGEST_EXPONENT = -127, 127


@dataclass(frozen=True, eq=False)
class Steps:
    """Scales, from and to which maximum of a group each is taken, and how many are like it."""

    scale: Array
    low: Array
    high: Array
    weight: Array

    def over(self, size: float, share: float) -> Steps:
        """For inputs divided by ``size``, which are so much of all."""
        return Steps(self.scale / size, self.low / size, self.high / size, self.weight * share)


def join(several: Iterable[Steps]) -> Steps:
    """All of them."""
    columns = zip(*((one.scale, one.low, one.high, one.weight) for one in several), strict=True)
    return Steps(*(np.concatenate(column) for column in columns))


def steps(spec: QuantSpec, scale_type: str, denominator: float, low: float, high: float) -> Steps:
    """The scales for maxima from ``low`` to ``high``, from maximum / denominator; at least those."""
    if scale_type == "e8m0":
        return _powers_of_two(_least_quotient(spec, denominator), low, high)
    return rounded(SCALE_GRIDS[scale_type], denominator, low, high)


def _least_quotient(spec: QuantSpec, largest: float) -> float:
    """The least maximum / scale; the greatest is twice that."""
    rule = spec.scale_rule or ("floor" if spec.row.scale_type == "e8m0" else "rceil")
    if rule == "rceil":
        return largest / 2
    power = 2.0 ** math.floor(math.log2(largest))
    if rule == "even":  # what rounds up to the power, halfway from the largest value of the binade below
        below, last = values(spec.format)[-2:]
        return power - (last - below) / 4
    return power / 2 if rule == "ceil" else power


def _powers_of_two(least: float, low: float, high: float) -> Steps:
    first, last = (
        min(max(math.floor(math.log2(end / least)), _LEAST_EXPONENT), _LARGEST_EXPONENT)
        for end in (low, high)
    )
    exponents = np.arange(first, last + 1)
    scale = np.ldexp(1.0, exponents)
    low_ends = np.where(exponents == _LEAST_EXPONENT, 0.0, scale * least)
    high_ends = np.where(exponents == _LARGEST_EXPONENT, math.inf, 2 * scale * least)
    return Steps(scale, low_ends, high_ends, np.ones_like(scale))


def rounded(grid: Grid, denominator: float, low: float, high: float) -> Steps:
    """The scales that maximum / denominator is rounded to, to the nearest of a grid."""
    scale = _magnitudes(grid)
    first, last = np.searchsorted(scale, (low / denominator, high / denominator))
    scale, low_ends, high_ends, weight = regions(scale[max(int(first) - 1, 0) : int(last) + 2], parts=_PARTS)
    return Steps(scale, low_ends * denominator, high_ends * denominator, weight)


def _magnitudes(grid: Grid) -> Array:
    """All of them, as ``Grid.magnitude`` gives one."""
    field, mantissa = np.divmod(np.arange(grid.count), 1 << grid.mantissa_bits)
    normal = field > 0
    found: Array = np.ldexp(mantissa + (normal << grid.mantissa_bits), field - normal) * grid.step
    return found
