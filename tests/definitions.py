"""Fake quantization in fractions, one number at a time: the docstring of ``fake_quant`` and nothing else."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from qscale.formats import FORMATS, QuantSpec, values
from qscale.formats.rounding import round_to_float32, round_to_format

_INFINITE = Fraction(2) ** 128 - Fraction(2) ** 103  # halfway past the largest float32


def definition(x: torch.Tensor, text: str) -> torch.Tensor:
    """What ``fake_quant(x, text)`` is, for formats whose arithmetic is qscale's own."""
    spec = QuantSpec.parse(text)
    axis = x.numel() if spec.strategy == "tensor" else (x.shape[-1] if x.dim() else 1)
    group = axis if spec.strategy == "tensor" else spec.group_length(axis)
    rows = x.reshape(-1, axis).float().tolist()
    everything = [abs(v) for row in rows for v in row]
    whole = Fraction(max(everything)) if np.isfinite(everything).all() else None
    out = [
        y
        for row in rows
        for start in range(0, axis, group)
        for y in _group(row[start : start + group], spec, whole)
    ]
    with np.errstate(over="ignore"):
        return rounded(np.array(out, dtype=np.float64).astype(np.float32), x.dtype).reshape(x.shape)


def _group(xs: list[float], spec: QuantSpec, whole: Fraction | None) -> list[float]:
    two_levels = spec.format == "nvfp4" and spec.tensor_scale
    if not np.isfinite(xs).all() or (two_levels and whole is None):
        return [math.nan] * len(xs)
    scale = _scale(Fraction(max(abs(v) for v in xs)), spec, whole)
    if scale == 0:
        return [math.copysign(0.0, v) for v in xs]
    return [_element(v, scale, spec) for v in xs]


def _element(x: float, scale: Fraction, spec: QuantSpec) -> float:
    quotient = round_to_float32(Fraction(x) / scale)
    if spec.row.codebook:
        q = _from_codebook(quotient, spec.format)
    else:
        q = round_to_format(quotient, spec.format, "away" if spec.rounding == "away" else "even")
    product = q * scale
    y = math.inf if abs(product) >= _INFINITE else float(round_to_float32(abs(product)))
    return math.copysign(y, x)


def _from_codebook(quotient: Fraction, name: str) -> Fraction:
    return Fraction(values(name)[sum(quotient > middle for middle in _middles(name))])


@lru_cache
def _middles(name: str) -> list[Fraction]:
    return [round_to_float32((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(values(name))]


@lru_cache(maxsize=100_000)
def _scale(absmax: Fraction, spec: QuantSpec, whole: Fraction | None) -> Fraction:
    row = spec.row
    if row.scale_type == "e4m3":
        tensor = round_to_float32(whole / 2688) or Fraction(1) if spec.tensor_scale else Fraction(1)
        sixth = round_to_float32(absmax / 6)
        return round_to_float32(round_to_format(round_to_float32(sixth / tensor), "fp8_e4m3") * tensor)
    if row.scale_type == "e8m0":
        return Fraction(2) ** min(max(_exponent(absmax, spec), -127), 127)
    largest = Fraction(values(spec.format)[-1])
    return round_to_float32(absmax / largest) or Fraction(1)


def _exponent(absmax: Fraction, spec: QuantSpec) -> int:
    if absmax == 0:
        return -127
    largest = Fraction(FORMATS[spec.format].grid.max)
    rule = spec.scale_rule or "floor"
    if rule == "rceil":
        ratio = round_to_float32(absmax / largest)
        return -127 if ratio == 0 else _floor_log2(ratio) + (ratio != _power_below(ratio))
    top = _floor_log2(largest)
    if rule == "ceil":
        return _floor_log2(absmax) + (absmax != _power_below(absmax)) - top
    if rule == "even":  # halves go up, and so does what then has no place below the next power of two
        mantissa = 6 if spec.format == "mxint8" else FORMATS[spec.format].mantissa_bits
        carries = absmax / _power_below(absmax) >= 2 - Fraction(1, 2 ** (mantissa + 1))
        return _floor_log2(absmax) - top + carries
    return _floor_log2(absmax) - top


def _floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > value)


def _power_below(value: Fraction) -> Fraction:
    return Fraction(2) ** _floor_log2(value)


def rounded(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """float32 to another dtype, ties to even, without torch's own conversion."""
    if dtype is torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float16))
    if dtype is torch.bfloat16:
        wide = values.astype(np.float64)
        _, exponent = np.frexp(np.where(np.isfinite(wide), wide, 0.0))
        spacing = np.ldexp(1.0, np.maximum(exponent - 8, -133))
        nearest = np.where(np.isfinite(wide), np.copysign(np.rint(wide / spacing) * spacing, wide), wide)
        nearest = np.where(np.abs(nearest) >= 2.0**128, np.copysign(np.inf, nearest), nearest)
        return torch.from_numpy(nearest.astype(np.float32)).to(torch.bfloat16)  # exact by now
    return torch.from_numpy(values)
