"""Scalar rounding in exact arithmetic: the definition that every kernel is held to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from qscale.formats.grids import FORMATS, Grid

Ties = Literal["even", "away"]

#: float32 itself, for arithmetic whose every step is rounded.
FLOAT32 = Grid(exponent_bits=8, mantissa_bits=23, reserved=1 << 23)


def round_to_format(value: Fraction | float, name: str, ties: Ties = "even") -> Fraction:
    """The nearest value of an element format, given exactly; beyond the largest it is the largest.

    A tie goes to the neighbour with the even code, or with ``away`` to the larger magnitude.

    >>> [str(round_to_format(v, "fp4_e2m1")) for v in (0.25, 0.75, 1.75, 5, -5, 99)]
    ['0', '1', '2', '4', '-4', '6']
    """
    magnitude = round_magnitude(abs(Fraction(value)), _magnitudes(name), ties)
    return magnitude if value >= 0 else -magnitude


def round_magnitude(value: Fraction, magnitudes: Sequence[Fraction], ties: Ties = "even") -> Fraction:
    """The nearest of ascending magnitudes from 0, whose codes are their indices."""
    above = bisect_right(magnitudes, value)
    if above == len(magnitudes):
        return magnitudes[-1]
    lower, upper = magnitudes[above - 1], magnitudes[above]
    middle = (lower + upper) / 2
    if value != middle:
        return lower if value < middle else upper
    return upper if ties == "away" or above % 2 == 0 else lower


def round_to_float32(value: Fraction) -> Fraction:
    """The nearest float32, ties to even; past the largest there is no infinity here, and it stays.

    The grid is too long to list, so it is cut to the spacing around the value.

    >>> round_to_float32(Fraction(2**24 + 1)) == 2**24
    True
    """
    if value == 0:
        return Fraction(0)
    magnitude = abs(value)
    exponent = max(_floor_log2(magnitude), FLOAT32.min_exponent)
    spacing = Fraction(2) ** (exponent - FLOAT32.mantissa_bits)
    nearest = min(round(magnitude / spacing) * spacing, Fraction(FLOAT32.max))  # round: ties to even
    return nearest if value > 0 else -nearest


def _floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


@lru_cache(maxsize=32)
def _magnitudes(name: str) -> tuple[Fraction, ...]:
    grid = FORMATS[name].grid
    if grid is None:
        return tuple(Fraction(code) for code in range(2 ** (FORMATS[name].num_bits - 1)))
    return tuple(Fraction(grid.magnitude(code)) for code in range(grid.count))
