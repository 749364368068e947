"""The fake_quant ops in plain torch: what the compiled kernels must equal, what runs where there are none.

An op is an element (integers, floats, a codebook) under scales. Elements say how a quotient ``x / s`` becomes
a value in units of the scale; scales come of each group's range, or of the caller. Scales and products are
float32, one operation at a time. Rounding to a grid is done in float64, where powers of two, quotients by
them and halves are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from qscale.formats.calls import CODEBOOKS, ROUNDINGS, SCALE_KINDS, WHOLE_AXIS, ZERO_POINTS
from qscale.formats.grids import FORMATS
from qscale.kernels.backends import DTYPES
from qscale.kernels.hadamard_reference import hadamard
from qscale.kernels.philox import random_words

#: Codes of up to 4 bits share a byte; others are any byte.
FEW_CODES, ALL_CODES = 16, 256

GATES = {"straight_through": 0, "clipped": 1, "lsq": 2, "trust": 3}

_AWAY, _STOCHASTIC = ROUNDINGS["away"], ROUNDINGS["stochastic"]
_LARGEST_CODE = 2**20
#: The types that a scale is rounded to, as mantissa bits, exponent of the smallest normal, and largest.
_E4M3 = (3, -6, 448.0)
_SCALE_GRIDS = {
    SCALE_KINDS["float16"]: (10, -14, 65504.0),
    SCALE_KINDS["bfloat16"]: (7, -126, math.ldexp(255, 120)),
    SCALE_KINDS["e4m3"]: _E4M3,
}
_INPUT_KINDS = {
    torch.float32: SCALE_KINDS["float32"],
    torch.bfloat16: SCALE_KINDS["bfloat16"],
    torch.float16: SCALE_KINDS["float16"],
}
_POWERS_OF_TWO = tuple(SCALE_KINDS[rule] for rule in ("floor", "ceil", "rceil", "even"))
#: Sums are of this many products, halves added to halves: so any backend can add in the same order.
_SUM_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What every op is asked beside its element."""

    scale_kind: int
    tensor_level: int
    group_size: int
    block_rows: int
    rounding: int
    seed: int


class Element(Protocol):
    """How a quotient becomes a value; ``words`` are random, or None."""

    largest: float  #: what the range of a group stands for in units of its scale
    top: int  #: its exponent
    below_top: int  #: and the bits that elements have beside it
    ends: tuple[float, float]  #: of what a code can stand for

    def value(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        """In units of the scale."""

    def code(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        """An integer from 0 to 255."""

    def raw(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        """Rounded, before it is held to ``ends``."""


class Integers:
    """``q = clamp(round(x / s) + z, qmin, qmax)``, or ``round(x / s + z)``; the value is ``q - z``."""

    top = below_top = 0

    def __init__(self, op: str, qmin: int, qmax: int, denominator: float, zero_point: int, o: Options):
        if not -_LARGEST_CODE <= qmin <= 0 < qmax <= _LARGEST_CODE:
            raise RuntimeError(f"{op}: qmin={qmin}, qmax={qmax}; wanted -2**20 <= qmin <= 0 < qmax <= 2**20")
        if not (0 < denominator <= _LARGEST_CODE and (2 * denominator) % 1 == 0):
            raise RuntimeError(f"{op}: denominator={denominator}; wanted a multiple of 0.5 up to 2**20")
        if zero_point not in ZERO_POINTS.values():
            raise RuntimeError(
                f"{op}: zero_point={zero_point}; wanted 0 (none), 1 (an integer) or 2 (a real number)"
            )
        if o.scale_kind in (1, 2):
            raise RuntimeError(f"{op}: scale_kind={o.scale_kind}; integers take 0, or 3 to 8")
        self.ends = (float(qmin), float(qmax))
        self.largest = denominator
        self.rounding = o.rounding
        self.zero_point = zero_point

    @property
    def has_zero_point(self) -> bool:
        return self.zero_point != ZERO_POINTS["none"]

    @property
    def is_real(self) -> bool:
        """Whether the zero point may lie between integers."""
        return self.zero_point == ZERO_POINTS["float"]

    def raw(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        if self.is_real:
            return _rounded(quotient + zero, self.rounding, words)
        return _rounded(quotient, self.rounding, words) + zero

    def value(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        return (self.raw(quotient, zero, words).clamp(*self.ends) - zero) + 0.0  # integers have one zero

    def code(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        return self.raw(quotient, zero, words).clamp(*self.ends).nan_to_num(0.0).int() & 255


class Floats:
    """The nearest value of a floating-point grid, or one of its two neighbours at random."""

    def __init__(self, op: str, mantissa_bits: int, min_exponent: int, largest: float, o: Options):
        if not (0 <= mantissa_bits <= 10 and -126 <= min_exponent <= 1):
            raise RuntimeError(
                f"{op}: mantissa_bits={mantissa_bits}, min_exponent={min_exponent}; "
                "wanted 0 to 10 and -126 to 1"
            )
        if not _is_value(mantissa_bits, min_exponent, largest):
            raise RuntimeError(f"{op}: largest={largest}; wanted a value of the format, 1 or above")
        self.grid = (mantissa_bits, min_exponent, largest)
        self.largest = largest
        self.ends = (-largest, largest)
        self.top = math.frexp(largest)[1] - 1
        self.below_top = mantissa_bits + self.top - max(self.top, min_exponent)
        self.rounding = o.rounding
        self.is_fixed_point = largest < 2.0**min_exponent

    def raw(self, quotient: Tensor, _zero: Tensor, words: Tensor | None) -> Tensor:
        mantissa_bits, min_exponent, _ = self.grid
        return _to_grid(quotient, mantissa_bits, min_exponent, math.inf, self.rounding, words)

    def value(self, quotient: Tensor, _zero: Tensor, words: Tensor | None) -> Tensor:
        value = _to_grid(quotient, *self.grid, self.rounding, words)
        return value + 0.0 if self.is_fixed_point else value  # two's complement has one zero

    def code(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        mantissa_bits, min_exponent, _ = self.grid
        value = self.value(quotient.nan_to_num(0.0, posinf=math.inf, neginf=-math.inf), zero, words).double()
        exponent = (torch.frexp(value).exponent - 1).clamp(min=min_exponent)
        exponent = torch.where(value == 0, torch.full_like(exponent, min_exponent), exponent)
        units = value.abs() / _power_of_two64(exponent - mantissa_bits)
        magnitude = units.int() + ((exponent - min_exponent) << mantissa_bits)
        if self.is_fixed_point:
            return torch.where(value < 0, -magnitude, magnitude) & 255
        sign = 1 << self._magnitude_bits()
        return magnitude + torch.where(value.signbit(), sign, 0)

    def _magnitude_bits(self) -> int:
        mantissa_bits, min_exponent, largest = self.grid
        units = largest * 2.0 ** (mantissa_bits - self.top)
        return (int(units) + ((self.top - min_exponent) << mantissa_bits)).bit_length()


class Codebooks:
    """The nearest of sixteen values; a tie goes to the lower one."""

    largest, top, below_top, ends = 1.0, 0, 0, (-1.0, 1.0)

    def __init__(self, op: str, codebook: int, o: Options):
        if codebook not in CODEBOOKS.values():
            raise RuntimeError(f"{op}: codebook={codebook}; wanted 0 to {len(CODEBOOKS) - 1}")
        if o.rounding:
            raise RuntimeError(f"{op}: rounding={o.rounding}; codebooks take 0")
        if o.scale_kind in (1, 2):
            raise RuntimeError(f"{op}: scale_kind={o.scale_kind}; codebooks take 0, or 3 to 8")
        name = next(name for name, index in CODEBOOKS.items() if index == codebook)
        self.table = with_two_zeros(FORMATS[name].codebook)

    def raw(self, quotient: Tensor, _zero: Tensor, _words: Tensor | None) -> Tensor:
        return quotient

    def value(self, quotient: Tensor, zero: Tensor, words: Tensor | None) -> Tensor:
        values = torch.tensor(self.table, dtype=torch.float32, device=quotient.device)
        return torch.where(quotient.isnan(), quotient, values[self.code(quotient, zero, words)])

    def code(self, quotient: Tensor, _zero: Tensor, _words: Tensor | None) -> Tensor:
        values = torch.tensor(self.table, dtype=torch.float64, device=quotient.device)
        midpoints = ((values[1:] + values[:-1]) / 2).float()
        # A NaN goes to the first value, as where every comparison with it fails.
        return torch.bucketize(quotient.nan_to_num(-1.0).contiguous(), midpoints)


def fake_quant(op: str, x: Tensor, element: Element, o: Options) -> Tensor:
    """In and out of the format, each group under its own scale."""
    groups = Groups(op, x, o)
    if x.numel() == 0:
        return _empty(x)
    scale, zero, level = _own_scales(groups, element, o)
    return _under(groups, element, scale * level, zero, o)


def rotated(op: str, x: Tensor, block: int, signs: Tensor | None, element: Element, o: Options) -> Tensor:
    """The rotation, rounded to the dtype of ``x``, in and out of the format."""
    _check(op, x, o)
    return fake_quant(op, hadamard(x, block, signs, False), element, o)


def scales(op: str, x: Tensor, element: Element, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and zero point of each group, and the scale of the tensor, which is not in the former."""
    groups = Groups(op, x, o)
    if x.numel() == 0:
        nothing = torch.empty(0, dtype=torch.float32, device=x.device)
        return nothing, nothing.clone(), torch.ones(1, dtype=torch.float32, device=x.device)
    scale, zero, level = _own_scales(groups, element, o)
    return scale.reshape(-1).clone(), zero.reshape(-1).clone(), level.reshape(1).clone()


def given(
    op: str, x: Tensor, scale: Tensor, zero_point: Tensor | None, element: Element, o: Options
) -> Tensor:
    """In and out of the format under scales that are there."""
    groups = Groups(op, x, o)
    scale, zero = groups.given(scale, zero_point, element)
    return _empty(x) if x.numel() == 0 else _under(groups, element, scale, zero, o)


def codes(
    op: str,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    packed: bool,
    element: Element,
    o: Options,
) -> Tensor:
    """The code of each element, a byte each or two to a byte; of a NaN it is 0 or a codebook's first.

    Packed, element ``2i`` of a row is in the lower half, ``2i + 1`` in the upper, 0 beside a last odd one.
    """
    groups = Groups(op, x, o)
    scale, zero = groups.given(scale, zero_point, element)
    if x.numel() == 0:
        return x.new_empty(code_shape(x.shape, packed), dtype=torch.uint8)
    found = element.code(groups.values / _divisor(scale), zero, groups.words(o))
    found = groups.restored(found).to(torch.uint8)
    if not packed:
        return found
    found = found & 15
    if not found.dim():
        return found
    pairs = torch.nn.functional.pad(found, (0, found.shape[-1] % 2))
    return pairs[..., ::2] | pairs[..., 1::2] << 4


def code_shape(shape: torch.Size, packed: bool) -> tuple[int, ...]:
    """The shape of the codes of a tensor."""
    return (*shape[:-1], (shape[-1] + 1) // 2) if packed and shape else tuple(shape)


def dequantize(
    codes: Tensor,
    table: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    columns: int,
    dtype: torch.dtype,
    group_size: int,
    block_rows: int,
) -> Tensor:
    """``(table[code] - zero_point) * scale`` in float32, in rows of ``columns``, rounded to ``dtype``.

    Codes are packed beside a table of 16 values. Scales and zero points: as where they are given.
    """
    packed = table.numel() == FEW_CODES
    _check_codes(codes, table, columns, dtype, packed)
    values = table.to(codes.device)[_unpacked(codes, columns).int() if packed else codes.int()]
    groups = Groups("dequantize", values, Options(0, 0, group_size, block_rows, 0, 0))
    factor, zero = groups.given_as_they_are(scale, zero_point)
    if values.numel() == 0:
        return values.to(dtype)
    products = groups.values if zero_point is None else (groups.values - zero) + 0.0
    return groups.restored(products * factor).to(dtype)


def _unpacked(packed: Tensor, columns: int) -> Tensor:
    if not packed.dim():
        return packed & 15
    both = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(start_dim=-2)
    return both[..., :columns]


def _check_codes(codes: Tensor, table: Tensor, columns: int, dtype: torch.dtype, packed: bool) -> None:
    if dtype not in DTYPES:
        raise RuntimeError(f"dequantize: dtype={dtype}; wanted float32, bfloat16 or float16")
    fits = table.dtype == torch.float32 and table.is_contiguous() and table.device.type == "cpu"
    if not fits or table.numel() not in (FEW_CODES, ALL_CODES):
        raise RuntimeError(
            f"dequantize: table has dtype {table.dtype} and {table.numel()} elements; "
            "wanted contiguous float32 on the CPU, 16 or 256 elements"
        )
    width, wanted = codes.shape[-1] if codes.dim() else 1, (columns + 1) // 2 if packed else columns
    if codes.dtype != torch.uint8 or columns < 0 or width != wanted:
        raise RuntimeError(
            f"dequantize: codes have dtype {codes.dtype} and rows of {width}; "
            f"wanted uint8, {wanted} for {columns} columns"
        )


def gradient(
    op: str,
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    gate: int,
    trust: float,
    element: Element,
    o: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, scales and zero points, rounding taken as the identity.

    To ``x`` it passes everywhere (gate 0), where the rounded code is in range (1), where the quotient is (2),
    or where ``|y - x| <= trust * s`` (3). A scale gets the sum of ``grad * (q - z - x / s)`` where the code
    (gate 2: the quotient) is in range, else of ``grad * (q - z)``; a zero point that of ``-grad * s`` where
    it is not; one that is not given has none, a tensor of no elements. Products are float32, sums float64.
    """
    if gate not in GATES.values():
        raise RuntimeError(f"{op}: gate={gate}; wanted 0 (open), 1 (clipped), 2 (lsq) or 3 (trust)")
    if grad.dtype != x.dtype or grad.shape != x.shape:
        raise RuntimeError(f"{op}: the gradient has another shape or dtype than x")
    groups = Groups(op, x, o)
    scale, zero = groups.given(scale, zero_point, element)
    if x.numel() == 0:
        nothing = torch.empty(0, dtype=torch.float32, device=x.device)
        return _empty(x), nothing, nothing.clone()
    upstream = Groups(op, grad, o).values
    quotient, words = groups.values / _divisor(scale), groups.words(o)
    value, raw = element.value(quotient, zero, words), element.raw(quotient, zero, words)
    place = quotient + zero if gate == GATES["lsq"] else raw
    inside = (place >= element.ends[0]) & (place <= element.ends[1])
    trusted = (value * scale - groups.values).abs() <= torch.full_like(scale, trust) * scale
    passes = {0: torch.ones_like(inside), 3: trusted}.get(gate, inside)
    of_scale = upstream * torch.where(inside, value - quotient, value)
    of_zero = upstream * torch.where(inside, torch.zeros_like(scale), -scale)
    grad_x = torch.where(passes, upstream, torch.zeros_like(upstream))
    grad_scale, grad_zero = (groups.summed(terms).float().reshape(-1) for terms in (of_scale, of_zero))
    return (
        groups.restored(grad_x).to(x.dtype),
        grad_scale,
        grad_zero.new_empty(0) if zero_point is None else grad_zero,
    )


def feedback(
    op: str,
    x: Tensor,
    factor: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    element: Element,
    o: Options,
) -> tuple[Tensor, Tensor]:
    """Columns in and out of the format, one after the other, the error of each fed into those after it.

    In float64 ``e_i = (x_i - y_i) / u_ii``, then ``x_j`` becomes ``x_j - u_ij e_i`` for ``j > i``; ``y_i`` is
    made of ``x_i`` rounded to float32. Columns are the rows of ``x``, ``(columns, rows)``, float64; scales
    and zero points are one for each element. Returns ``y``, float32, and ``e``.
    """
    _check_feedback(op, x, factor, {"scale": scale, "zero_point": zero_point}, o)
    has_zero = isinstance(element, Integers) and element.has_zero_point and zero_point is not None
    zero = zero_point if has_zero else torch.zeros_like(scale)
    assert zero is not None
    if isinstance(element, Integers) and not element.is_real:
        zero = zero.round()
    left = x.clone(memory_format=torch.contiguous_format)
    y, errors = _empty(left.float()), _empty(left)
    for i, column in enumerate(left):
        y[i] = element.value(column.float() / _divisor(scale[i]), zero[i], None) * scale[i]
        errors[i] = (column - y[i]) / factor[i, i]
        left[i + 1 :] -= torch.outer(factor[i, i + 1 :], errors[i])
    return y, errors


def _check_feedback(
    op: str, x: Tensor, factor: Tensor, one_each: dict[str, Tensor | None], o: Options
) -> None:
    """The same demands as csrc/bindings/feedback.cpp."""
    if x.dtype != torch.float64 or x.dim() != 2:
        raise RuntimeError(
            f"{op}_feedback: x has dtype {x.dtype} and {x.dim()} dimensions; wanted float64, (columns, rows)"
        )
    if factor.dtype != torch.float64 or factor.shape != (len(x), len(x)):
        raise RuntimeError(
            f"{op}_feedback: factor has dtype {factor.dtype} and {factor.numel()} elements; "
            f"wanted float64, ({len(x)}, {len(x)})"
        )
    if o.rounding == _STOCHASTIC:
        raise RuntimeError(f"{op}_feedback: rounding={o.rounding}; wanted 0 (even) or 1 (away)")
    for what, t in one_each.items():
        if t is not None and (t.dtype != torch.float32 or t.shape != x.shape or not t.is_contiguous()):
            raise RuntimeError(
                f"{op}_feedback: {what} has dtype {t.dtype} and {t.numel()} elements; "
                f"wanted contiguous float32, one for each of {x.numel()}"
            )


def with_two_zeros(table: tuple[float, ...]) -> tuple[float, ...]:
    """A codebook of sixteen values; one of fifteen has its zero twice."""
    return table if len(table) == 16 else (*table[:7], 0.0, *table[7:])


class Groups:
    """A tensor as float32 in ``(matrices, bands, rows of a band, groups of a row, group)``.

    Zeros fill up what is cut off at the ends: they change no maximum. ``own`` says which elements are real.
    """

    def __init__(self, op: str, x: Tensor, o: Options) -> None:
        _check(op, x, o)
        self.op, self.shape, self.dtype = op, x.shape, x.dtype
        self.axis = axis = x.shape[-1] if x.dim() else 1
        self.group = max(1, axis if o.group_size == WHOLE_AXIS else min(o.group_size, axis))
        matrix = (x.shape[-2] if x.dim() > 1 else 1) if o.block_rows > 1 else 1
        self.edge = max(1, min(o.block_rows, matrix))
        self.matrix = matrix
        self.count = 0
        if x.numel() == 0:
            return
        self.values = self._split(x.float())
        self.count = self.values.shape[0] * self.values.shape[1] * self.values.shape[3]
        self.ragged = bool(-axis % self.group or -matrix % self.edge)

    def _split(self, x: Tensor, fill: float = 0.0) -> Tensor:
        rows = x.reshape(-1, self.matrix, self.axis)
        ends = (0, -self.axis % self.group, 0, -self.matrix % self.edge)
        rows = torch.nn.functional.pad(rows, ends, value=fill) if any(ends) else rows
        bands = rows.reshape(rows.shape[0], -1, self.edge, rows.shape[-1])
        return bands.reshape(*bands.shape[:3], -1, self.group)

    def restored(self, groups: Tensor) -> Tensor:
        """The inverse of the split, in the shape of the tensor."""
        rows = groups.flatten(start_dim=3)[..., : self.axis].flatten(1, 2)[:, : self.matrix]
        return rows.reshape(self.shape).contiguous()

    def own(self) -> Tensor:
        """True for elements of the tensor, False for what fills a group up."""
        mask = torch.ones(self.values.shape[0] * self.matrix, self.axis, device=self.values.device)
        return self._split(mask) > 0

    def given(self, scale: Tensor, zero_point: Tensor | None, element: Element) -> tuple[Tensor, Tensor]:
        """The caller's scales, and zero points as the element has them, one beside each group."""
        scale, zero = self.given_as_they_are(scale, zero_point)
        if not (isinstance(element, Integers) and element.has_zero_point):
            zero = torch.zeros_like(scale)
        elif not element.is_real:
            zero = zero.round()
        return scale, zero

    def given_as_they_are(self, scale: Tensor, zero_point: Tensor | None) -> tuple[Tensor, Tensor]:
        """The caller's scales and zero points, one beside each group; fewer are repeated."""
        for what, t in (("scale", scale), ("zero_point", zero_point)):
            if t is None:
                continue
            count = t.numel()
            fits = count == self.count or (count > 0 and self.count % count == 0)
            if t.dtype != torch.float32 or not fits or not t.is_contiguous():
                raise RuntimeError(
                    f"{self.op}: {what} has dtype {t.dtype} and {count} elements; wanted contiguous float32, "
                    f"one for each of {self.count} groups, or a divisor of that"
                )
        if self.count == 0:
            return scale, scale
        return self.beside(scale), self.beside(torch.zeros_like(scale) if zero_point is None else zero_point)

    def beside(self, one_each: Tensor) -> Tensor:
        """What there is one of for each group, in the place of its elements."""
        each = one_each.reshape(-1).repeat(self.count // one_each.numel())
        return each.view(self.values.shape[0], self.values.shape[1], 1, self.values.shape[3], 1)

    def words(self, o: Options) -> Tensor | None:
        """A random word for each element, by its place in the tensor; None where none are needed."""
        if o.rounding != _STOCHASTIC:
            return None
        count = math.prod(self.shape)
        words = random_words(count, o.seed, self.values.device)
        return self._split(words.double()).long()

    def summed(self, terms: Tensor) -> Tensor:
        """Over each group in float64: row by row, in a row chunk by chunk, in a chunk halves to halves."""
        own = terms.shape[-1]
        if self.ragged:
            terms = torch.where(self.own(), terms, torch.zeros_like(terms))  # of a filler it may be a NaN
        size = min(_SUM_CHUNK, 1 << max(own - 1, 0).bit_length())
        wide = torch.nn.functional.pad(terms.double(), (0, -own % size))
        chunks = wide.reshape(*wide.shape[:-1], -1, size)
        while size > 1:
            size //= 2
            chunks = chunks[..., :size] + chunks[..., size:]
        total = torch.zeros_like(chunks[:, :, 0, :, 0, 0])
        for row, chunk in product(range(chunks.shape[2]), range(chunks.shape[4])):
            total = total + chunks[:, :, row, :, chunk, 0]
        return total


def _own_scales(groups: Groups, element: Element, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    x = groups.values
    level = torch.ones((), dtype=torch.float32, device=x.device)
    if o.tensor_level:
        whole = x.abs().amax()
        level = _divided(whole, element.largest * _E4M3[2])
        level = torch.where(level == 0, torch.ones_like(level), level)
        level = _nan_where_not_finite(level, whole)
    if not (isinstance(element, Integers) and element.has_zero_point):
        scale = _scale(groups, _over(x.abs(), torch.amax), element, level, o)
        return scale, torch.zeros_like(scale), level
    low, high = (_ends(groups, x, end) for end in (torch.amin, torch.amax))
    if not element.is_real:
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    half = 0.5 * high - 0.5 * low
    half = torch.where(half == 0, low.abs(), half)
    scale = _scale(groups, half, element, level, o)
    ratio = low / _divisor(scale * level)
    zero = element.ends[0] - (ratio if element.is_real else ratio.round())
    return scale, zero if element.is_real else zero.clamp(*element.ends), level


def _over(x: Tensor, end: Callable[..., Tensor]) -> Tensor:
    return end(x, dim=(2, 4), keepdim=True)


def _ends(groups: Groups, x: Tensor, end: Callable[..., Tensor]) -> Tensor:
    """The smallest or largest of each group, what fills it up left out."""
    if not groups.ragged:
        return _over(x, end)
    filler = torch.full_like(x, math.inf if end is torch.amin else -math.inf)
    return _over(torch.where(groups.own(), x, filler), end)


def _scale(groups: Groups, extent: Tensor, element: Element, level: Tensor, o: Options) -> Tensor:
    kind = _INPUT_KINDS[groups.dtype] if o.scale_kind == SCALE_KINDS["input"] else o.scale_kind
    if kind in _POWERS_OF_TWO:
        scale = _power_of_two(_exponent(extent, element, kind))
    else:
        scale = _divided(extent, element.largest)
        if kind in _SCALE_GRIDS:
            scale = _to_grid(scale / level, *_SCALE_GRIDS[kind], ROUNDINGS["even"], None)
    return _nan_where_not_finite(scale, extent)


def _under(groups: Groups, element: Element, scale: Tensor, zero: Tensor, o: Options) -> Tensor:
    quotient = groups.values / _divisor(scale)
    y = element.value(quotient, zero, groups.words(o)) * scale
    return groups.restored(y).to(groups.dtype)


def _divisor(scale: Tensor) -> Tensor:
    """Over infinity every element is a zero."""
    return torch.where(scale == 0, torch.full_like(scale, math.inf), scale)


def _exponent(extent: Tensor, element: Element, kind: int) -> Tensor:
    """The exponent of an E8M0 scale: OCP MX 1.0, section 6.3, and the rules in use beside it."""
    value = extent.double()
    if kind == SCALE_KINDS["rceil"]:
        value = _divided(extent, element.largest).double()
        exponent = _ceil_log2(value)
    elif kind == SCALE_KINDS["ceil"]:
        exponent = _ceil_log2(value) - element.top
    elif kind == SCALE_KINDS["even"]:
        step = _power_of_two64(_floor_log2(value) - element.below_top)
        exponent = _floor_log2(_rounded(value / step, _AWAY, None) * step) - element.top
    else:
        exponent = _floor_log2(value) - element.top
    exponent = torch.where(value == 0, torch.full_like(exponent, -127), exponent.clamp(-127, 127))
    return torch.where(value.isinf(), torch.full_like(exponent, 127), exponent)  # a quotient past float32


def _to_grid(
    value: Tensor, mantissa_bits: int, min_exponent: int, largest: float, rounding: int, words: Tensor | None
) -> Tensor:
    """The nearest magnitude of a floating-point grid, or a neighbour at random, the sign kept."""
    wide = value.double()
    exponent = (torch.frexp(wide).exponent - 1).clamp(min=min_exponent)
    step = _power_of_two64(exponent - mantissa_bits)
    steps = (wide / step).abs()
    rounded = _rounded(steps, rounding, words)
    if mantissa_bits == 0 and rounding == ROUNDINGS["even"]:
        # One value to a binade: halfway up, 1.5 steps, the even code is the even exponent field.
        low_is_even = (exponent - min_exponent + 1) % 2 == 0
        rounded = torch.where((steps == 1.5) & low_is_even, torch.ones_like(steps), rounded)
    return torch.copysign((rounded * step).clamp(max=largest), wide).float()


def _floor_log2(value: Tensor) -> Tensor:
    return torch.frexp(value).exponent - 1


def _ceil_log2(value: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(value)  # value = mantissa * 2**exponent, 0.5 <= mantissa < 1
    return torch.where(mantissa == 0.5, exponent - 1, exponent)


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` in float32, exactly, from -149 on."""
    return _power_of_two64(exponent).float()


def _power_of_two64(exponent: Tensor) -> Tensor:
    """From the bits: ``exp2`` and ``ldexp`` of torch are not exact on every device."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _rounded(value: Tensor, rounding: int, words: Tensor | None) -> Tensor:
    """To integers: ties to even or away from zero; or up where the way gone is more than a random number."""
    if words is None and rounding != _AWAY:
        return value.round()
    magnitude = value.abs()
    below = magnitude.trunc()
    beyond = magnitude - below
    up = beyond >= 0.5 if words is None else beyond > (words >> 8) * 2.0**-24
    return torch.copysign(below + up.to(value.dtype), value)


def _divided(value: Tensor, by: float) -> Tensor:
    """One division. The divisor is a tensor on the device: CUDA multiplies by the reciprocal of a number."""
    divisor = torch.full((), by, dtype=torch.float64, device=value.device)
    return value / divisor.float()  # infinite where it is too large


def _nan_where_not_finite(scale: Tensor, extent: Tensor) -> Tensor:
    return torch.where(extent.isfinite(), scale, torch.full_like(scale, float("nan")))


def _is_value(mantissa_bits: int, min_exponent: int, largest: float) -> bool:
    """Whether a grid without an upper end has this value, and float32 too."""
    if not 1 <= largest < 2.0**128:
        return False
    exponent = max(math.frexp(largest)[1] - 1, min_exponent)
    return math.ldexp(largest, mantissa_bits - exponent).is_integer()


def _check(op: str, x: Tensor, o: Options) -> None:
    """The same demands as csrc/bindings/fake_quant.cpp."""
    if x.dtype not in DTYPES:
        raise RuntimeError(f"{op}: x has dtype {x.dtype}; wanted float32, bfloat16 or float16")
    if o.group_size != WHOLE_AXIS and o.group_size < 1:
        raise RuntimeError(
            f"{op}: group_size={o.group_size}; wanted at least 1, or -1 for the whole last axis"
        )
    if o.block_rows < 1:
        raise RuntimeError(f"{op}: block_rows={o.block_rows}; wanted at least 1")
    if o.rounding not in ROUNDINGS.values():
        raise RuntimeError(f"{op}: rounding={o.rounding}; wanted 0 (even), 1 (away) or 2 (stochastic)")
    if o.scale_kind not in SCALE_KINDS.values():
        raise RuntimeError(
            f"{op}: scale_kind={o.scale_kind}; wanted 0 (float32), 1 to 4 (E8M0: floor, ceil, rceil, even), "
            "5 (float16), 6 (bfloat16), 7 (E4M3) or 8 (the dtype of x)"
        )
    if o.tensor_level != 0 and (o.tensor_level != 1 or o.scale_kind != SCALE_KINDS["e4m3"]):
        raise RuntimeError(f"{op}: tensor_level={o.tensor_level}; wanted 0, or 1 beside scale_kind=7 (E4M3)")


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
