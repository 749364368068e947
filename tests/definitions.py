"""Fake quantization in fractions, one number at a time: the docstring of ``fake_quant`` and nothing else."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from qscale.formats import FORMATS, QuantSpec, values
from qscale.formats.rounding import round_to_float32, round_to_format

_INFINITE = Fraction(2) ** 128 - Fraction(2) ** 103  # halfway past the largest float32
_OF_DTYPE = {torch.float32: None, torch.float16: "float16", torch.bfloat16: "bfloat16"}


def definition(x: torch.Tensor, text: str, seed: int = 0) -> torch.Tensor:
    """What ``fake_quant(x, text, seed=seed)`` is, for formats whose arithmetic is qscale's own."""
    spec = QuantSpec.parse(text)
    xs = x.float().reshape(-1).tolist()
    out = [math.nan] * len(xs)
    finite = all(map(math.isfinite, xs))
    whole = Fraction(max(map(abs, xs), default=0)) if finite else None
    for places in groups(x.shape, spec):
        of_group = [xs[i] for i in places]
        if not all(map(math.isfinite, of_group)) or (spec.has_tensor_scale and whole is None):
            continue
        exact = [Fraction(v) for v in of_group]
        scale, zero = _scale_and_zero(exact, spec, whole, x.dtype)
        for i, v in zip(places, exact, strict=True):
            word = random_word(i, seed) if spec.rounding == "stochastic" else None
            out[i] = _element(v, xs[i], scale, zero, spec, word)
    with np.errstate(over="ignore"):
        return rounded(np.array(out, dtype=np.float64).astype(np.float32), x.dtype).reshape(x.shape)


def groups(shape: tuple[int, ...], spec: QuantSpec) -> Iterator[list[int]]:
    """The elements that share a scale, by their number in the tensor."""
    square = spec.strategy == "block"
    axis = math.prod(shape) if spec.strategy == "tensor" else shape[-1] if shape else 1
    rows = shape[-2] if square and len(shape) > 1 else 1
    width = spec.group_size or axis
    height = spec.group_size if square else 1
    for matrix in range(0, math.prod(shape), max(1, rows * axis)):
        for top in range(0, rows, height):
            for left in range(0, axis, width):
                yield [
                    matrix + row * axis + column
                    for row in range(top, min(top + height, rows))
                    for column in range(left, min(left + width, axis))
                ]


def _element(
    x: Fraction, signed: float, scale: Fraction, zero: Fraction, spec: QuantSpec, word: int | None
) -> float:
    quotient = round_to_float32(x / scale) if scale else Fraction(0)
    if spec.row.codebook:
        value = _from_codebook(quotient, spec.format)
    elif spec.row.scale_type == "free" and spec.type == "int":
        value = _from_integers(quotient, zero, spec, word)
    else:
        value = _from_grid(quotient, spec, word)
    product = value * scale
    y = math.inf if abs(product) >= _INFINITE else float(round_to_float32(abs(product)))
    has_two_zeros = spec.type == "float" and spec.row.exponent_bits > 0
    return math.copysign(y, signed if has_two_zeros else product)


def _from_integers(quotient: Fraction, zero: Fraction, spec: QuantSpec, word: int | None) -> Fraction:
    half = 2 ** (spec.num_bits - 1)
    low, high = 0, 2 * half - 1
    if spec.symmetric:
        low, high = -half if spec.full_range or spec.dialect == "chen2025" else 1 - half, half - 1
    if spec.zero_point == "float":
        code = _to_integer(round_to_float32(quotient + zero), spec, word)
        return round_to_float32(min(max(code, low), high) - zero)
    return min(max(_to_integer(quotient, spec, word) + zero, low), high) - zero


def _to_integer(value: Fraction, spec: QuantSpec, word: int | None) -> Fraction:
    magnitude = abs(value)
    if spec.rounding == "even":
        whole = round(magnitude)
    elif spec.rounding == "away":
        whole = math.floor(magnitude + Fraction(1, 2))
    else:
        whole = math.floor(magnitude)
        whole += _goes_up(magnitude - whole, word)
    return Fraction(whole if value >= 0 else -whole)


def _from_grid(quotient: Fraction, spec: QuantSpec, word: int | None) -> Fraction:
    if word is None:
        return round_to_format(quotient, spec.format, spec.rounding)
    upwards = _magnitudes(spec.format)
    place = bisect_right(upwards, abs(quotient))
    value = Fraction(upwards[place - 1])
    if place < len(upwards):
        gap = Fraction(upwards[place]) - value
        value += gap * _goes_up((abs(quotient) - value) / gap, word)
    return value if quotient >= 0 else -value


def _goes_up(way: Fraction, word: int) -> bool:
    return Fraction(word >> 8, 2**24) < way


@lru_cache(maxsize=16)
def _magnitudes(name: str) -> tuple[float, ...]:
    return values(name)[len(values(name)) // 2 :]


def _from_codebook(quotient: Fraction, name: str) -> Fraction:
    return Fraction(values(name)[sum(quotient > middle for middle in _middles(name))])


@lru_cache
def _middles(name: str) -> list[Fraction]:
    return [round_to_float32((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(values(name))]


def _scale_and_zero(
    xs: list[Fraction], spec: QuantSpec, whole: Fraction | None, dtype: torch.dtype
) -> tuple[Fraction, Fraction]:
    if spec.symmetric:
        return _scale(max(map(abs, xs)), _largest(spec), spec, whole, dtype), Fraction(0)
    low, high = min(xs), max(xs)
    if spec.zero_point == "integer":
        low, high = min(low, Fraction(0)), max(high, Fraction(0))
    half = round_to_float32(round_to_float32(high / 2) - round_to_float32(low / 2)) or abs(low)
    scale = _scale(half, _largest(spec), spec, whole, dtype)
    start = round_to_float32(low / scale) if scale else Fraction(0)
    if spec.zero_point == "float":
        return scale, -start
    return scale, Fraction(min(max(-round(start), 0), 2**spec.num_bits - 1))


def _largest(spec: QuantSpec) -> Fraction:
    """What the range of a group is divided by."""
    if spec.row.codebook or spec.row.grid is not None:
        return Fraction(values(spec.format)[-1])
    half = 2 ** (spec.num_bits - 1)
    if spec.full_range or not spec.symmetric:
        return half - Fraction(1, 2)
    return Fraction(half if spec.dialect == "chen2025" else half - 1)


def _scale(
    extent: Fraction, largest: Fraction, spec: QuantSpec, whole: Fraction | None, dtype: torch.dtype
) -> Fraction:
    kind = spec.scale_dtype if spec.row.scale_type == "free" else spec.row.scale_type
    kind = _OF_DTYPE[dtype] if kind == "input" else kind
    if kind == "e8m0":
        rule = spec.scale_rule or ("floor" if spec.row.scale_type == "e8m0" else "rceil")
        return Fraction(2) ** min(max(_exponent(extent, largest, rule, spec), -127), 127)
    scale = round_to_float32(extent / largest)
    if kind in ("float16", "bfloat16"):
        return _to_type(scale, torch.float16 if kind == "float16" else torch.bfloat16)
    if kind == "e4m3":
        level = _level(whole, largest) if spec.tensor_scale else Fraction(1)
        return round_to_float32(round_to_format(round_to_float32(scale / level), "fp8_e4m3") * level)
    return scale


def _level(whole: Fraction, largest: Fraction) -> Fraction:
    divisor = largest * 448
    if divisor >= _INFINITE:  # of fp_e8m<M>
        return Fraction(1)
    return round_to_float32(whole / divisor) or Fraction(1)


def _to_type(scale: Fraction, dtype: torch.dtype) -> Fraction:
    with np.errstate(over="ignore"):
        found = rounded(np.array(float(scale), dtype=np.float32), dtype).item()
    return Fraction(min(found, torch.finfo(dtype).max))


def _exponent(extent: Fraction, largest: Fraction, rule: str, spec: QuantSpec) -> int:
    if rule == "rceil":
        extent = round_to_float32(extent / largest)
    if extent == 0:
        return -127
    up = extent != _power_below(extent)
    if rule == "rceil":
        return _floor_log2(extent) + up
    top = _floor_log2(largest)
    if rule == "even":  # halves go up, and so does what then has no place below the next power of two
        mantissa = 6 if spec.format == "mxint8" else FORMATS[spec.format].mantissa_bits
        up = extent / _power_below(extent) >= 2 - Fraction(1, 2 ** (mantissa + 1))
    return _floor_log2(extent) - top + (up and rule != "floor")


def _floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > value)


def _power_below(value: Fraction) -> Fraction:
    return Fraction(2) ** _floor_log2(value)


def random_word(index: int, seed: int) -> int:
    """Word ``index`` of a seed: one of the four of its counter."""
    counter = (index // 4 % 2**32, index // 4 >> 32, 0, 0)
    return philox(counter, (seed % 2**32, seed % 2**64 >> 32))[index % 4]


@lru_cache(maxsize=4096)
def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 in Python's integers. Salmon et al., SC 2011, section 3.3."""
    left, right = (counter[1], counter[3]), (counter[0], counter[2])
    for turn in range(10):
        keys = ((key[0] + turn * 0x9E3779B9) % 2**32, (key[1] + turn * 0xBB67AE85) % 2**32)
        products = (0xD2511F53 * right[0], 0xCD9E8D57 * right[1])
        mixed = (products[1] >> 32 ^ left[0] ^ keys[0], products[0] >> 32 ^ left[1] ^ keys[1])
        left, right = (products[1] % 2**32, products[0] % 2**32), mixed
    return right[0], left[0], right[1], left[1]


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
