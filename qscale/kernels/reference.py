"""Every op in plain torch: what the compiled kernels must equal, and what runs where there are none.

Scales and products are float32, one operation at a time. Rounding to a grid is done in float64, where powers
of two, quotients by them and halves are exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qscale.formats.calls import CODEBOOKS, ROUNDINGS, SCALE_RULES, WHOLE_AXIS
from qscale.formats.grids import FORMATS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_AWAY = ROUNDINGS["away"]
_E4M3_MAX = 448.0
_E2M1_MAX = 6.0


def fake_quant_int(
    x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int, rounding: int
) -> Tensor:
    """Symmetric integers in groups of ``group_size`` along the last axis.

    ``s = max|x| / denominator``, ``q = clamp(rint(x / s), qmin, qmax)``, ``y = q * s``.
    """
    op = "fake_quant_int"
    _check(op, x, group_size, rounding)
    largest = 2**20
    if not -largest <= qmin < 0 < qmax <= largest:
        raise RuntimeError(f"{op}: qmin={qmin}, qmax={qmax}; wanted -2**20 <= qmin < 0 < qmax <= 2**20")
    if not 0 < denominator <= largest:
        raise RuntimeError(f"{op}: denominator={denominator}; wanted 1 to 2**20")
    if x.numel() == 0:
        return _empty(x)
    groups = _in_groups(x.float(), group_size)
    scale = _or_one(_divided(_absmax(groups), denominator))
    codes = _rounded(groups / scale, rounding).clamp(qmin, qmax)
    return _out_of_groups(codes * scale, x)


def fake_quant_float(
    x: Tensor,
    mantissa_bits: int,
    min_exponent: int,
    largest: float,
    group_size: int,
    scale_rule: int,
    rounding: int,
) -> Tensor:
    """Floating-point elements under a free scale (rule 0) or a power of two (rules 1 to 4).

    ``s = max|x| / largest`` or ``2**e``, ``q`` the value of the grid nearest to ``x / s``, ``y = q * s``.
    """
    op = "fake_quant_float"
    _check(op, x, group_size, rounding)
    if not (0 <= mantissa_bits <= 10 and -126 <= min_exponent <= 1):
        raise RuntimeError(
            f"{op}: mantissa_bits={mantissa_bits}, min_exponent={min_exponent}; wanted 0 to 10 and -126 to 1"
        )
    grid = (mantissa_bits, min_exponent, largest, rounding)
    if not _is_value(mantissa_bits, min_exponent, largest):
        raise RuntimeError(f"{op}: largest={largest}; wanted a value of the format, 1 or above")
    if not 0 <= scale_rule <= 4:
        raise RuntimeError(
            f"{op}: scale_rule={scale_rule}; wanted 0 (free), 1 (floor), 2 (ceil), 3 (rceil) or 4 (even)"
        )
    if x.numel() == 0:
        return _empty(x)
    groups = _in_groups(x.float(), group_size)
    absmax = _absmax(groups)
    if scale_rule == SCALE_RULES["free"]:
        scale = _or_one(_divided(absmax, largest))
    else:
        scale = _power_of_two(_mx_exponent(absmax, mantissa_bits, min_exponent, largest, scale_rule))
    scale = _nan_where_not_finite(scale, absmax)
    return _out_of_groups(_to_grid(groups / scale, *grid) * scale, x)


def fake_quant_nvfp4(x: Tensor, group_size: int, tensor_level: int, rounding: int) -> Tensor:
    """E2M1 elements under E4M3 block scales, and one float32 scale of the tensor where ``tensor_level`` is 1.

    ``t = max|tensor| / 2688`` or 1, ``s = e4m3((max|x| / 6) / t) * t``, ``y = e2m1(x / s) * s``.
    """
    op = "fake_quant_nvfp4"
    _check(op, x, group_size, rounding)
    if tensor_level not in (0, 1):
        raise RuntimeError(f"{op}: tensor_level={tensor_level}; wanted 1, or 0 for block scales alone")
    if x.numel() == 0:
        return _empty(x)
    groups = _in_groups(x.float(), group_size)
    absmax = _absmax(groups)
    tensor_scale = torch.ones((), dtype=torch.float32, device=x.device)
    if tensor_level:
        tensor_absmax = absmax.amax()
        tensor_scale = _or_one(_divided(tensor_absmax, _E4M3_MAX * _E2M1_MAX))
        tensor_scale = _nan_where_not_finite(tensor_scale, tensor_absmax)
    block_scale = _to_grid(_divided(absmax, _E2M1_MAX) / tensor_scale, 3, -6, _E4M3_MAX, ROUNDINGS["even"])
    scale = _nan_where_not_finite(block_scale * tensor_scale, absmax)
    codes = _to_grid(groups / scale, 1, 0, _E2M1_MAX, rounding)
    codes = torch.where(scale == 0, torch.copysign(torch.zeros_like(groups), groups), codes)
    return _out_of_groups(codes * scale, x)


def fake_quant_codebook(x: Tensor, codebook: int, group_size: int) -> Tensor:
    """The nearest of sixteen values to ``x / max|x|``; a tie goes to the lower one; zeros keep their sign."""
    op = "fake_quant_codebook"
    _check(op, x, group_size, ROUNDINGS["even"])
    if codebook not in CODEBOOKS.values():
        raise RuntimeError(f"{op}: codebook={codebook}; wanted 0 (nf4) or 1 (fp4_bnb)")
    if x.numel() == 0:
        return _empty(x)
    groups = _in_groups(x.float(), group_size)
    absmax = _absmax(groups)
    scale = _nan_where_not_finite(_or_one(absmax), absmax)
    name = next(name for name, index in CODEBOOKS.items() if index == codebook)
    values = torch.tensor(FORMATS[name].codebook, dtype=torch.float64, device=x.device)
    midpoints = ((values[1:] + values[:-1]) / 2).float()
    nearest = values.float()[torch.bucketize((groups / scale).contiguous(), midpoints)]
    return _out_of_groups(torch.copysign(nearest, groups) * scale, x)


def _to_grid(value: Tensor, mantissa_bits: int, min_exponent: int, largest: float, rounding: int) -> Tensor:
    """The nearest magnitude of a floating-point grid, the sign kept; a tie goes to the even code or away."""
    wide = value.double()
    exponent = (torch.frexp(wide).exponent - 1).clamp(min=min_exponent)
    step = _power_of_two64(exponent - mantissa_bits)
    steps = (wide / step).abs()
    rounded = _rounded(steps, rounding)
    if mantissa_bits == 0 and rounding != _AWAY:
        # One value to a binade: halfway up, 1.5 steps, the even code is the even exponent field.
        low_is_even = (exponent - min_exponent + 1) % 2 == 0
        rounded = torch.where((steps == 1.5) & low_is_even, torch.ones_like(steps), rounded)
    return torch.copysign((rounded * step).clamp(max=largest), wide).float()


def _mx_exponent(absmax: Tensor, mantissa_bits: int, min_exponent: int, largest: float, rule: int) -> Tensor:
    """The exponent of an E8M0 scale: OCP MX 1.0, section 6.3, and the rules in use beside it."""
    top = math.frexp(largest)[1] - 1
    value = absmax.double()
    if rule == SCALE_RULES["rceil"]:
        value = _divided(absmax, largest).double()
        exponent = _ceil_log2(value)
    elif rule == SCALE_RULES["ceil"]:
        exponent = _ceil_log2(value) - top
    elif rule == SCALE_RULES["even"]:
        below_top = mantissa_bits + top - max(top, min_exponent)
        step = _power_of_two64(_floor_log2(value) - below_top)
        exponent = _floor_log2(_rounded(value / step, _AWAY) * step) - top
    else:
        exponent = _floor_log2(value) - top
    return torch.where(value == 0, torch.full_like(exponent, -127), exponent.clamp(-127, 127))


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


def _rounded(value: Tensor, rounding: int) -> Tensor:
    """To integers, ties to even or away from zero."""
    if rounding != _AWAY:
        return value.round()
    magnitude = value.abs()
    nearest = magnitude.round()
    return torch.copysign(torch.where(magnitude - nearest == 0.5, nearest + 1, nearest), value)


def _absmax(groups: Tensor) -> Tensor:
    return groups.abs().amax(dim=-1, keepdim=True)


def _divided(value: Tensor, by: float) -> Tensor:
    """One division. The divisor is a tensor on the device: CUDA multiplies by the reciprocal of a number."""
    return value / torch.full((), by, dtype=torch.float32, device=value.device)


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _nan_where_not_finite(scale: Tensor, absmax: Tensor) -> Tensor:
    return torch.where(absmax.isfinite(), scale, torch.full_like(scale, float("nan")))


def _is_value(mantissa_bits: int, min_exponent: int, largest: float) -> bool:
    """Whether a grid without an upper end has this value, and float32 too."""
    if not 1 <= largest < 2.0**128:
        return False
    exponent = max(math.frexp(largest)[1] - 1, min_exponent)
    return math.ldexp(largest, mantissa_bits - exponent).is_integer()


def _check(op: str, x: Tensor, group_size: int, rounding: int) -> None:
    """The same demands as csrc/bindings/fake_quant.cpp."""
    if x.dtype not in DTYPES:
        raise RuntimeError(f"{op}: x has dtype {x.dtype}; wanted float32, bfloat16 or float16")
    if group_size != WHOLE_AXIS and group_size < 1:
        raise RuntimeError(f"{op}: group_size={group_size}; wanted at least 1, or -1 for the whole last axis")
    if rounding not in ROUNDINGS.values():
        raise RuntimeError(f"{op}: rounding={rounding}; wanted 0 (even) or 1 (away)")


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _in_groups(x: Tensor, group_size: int) -> Tensor:
    """``(..., K)`` as ``(rows, groups, group)``; zeros fill a short last group and change no maximum."""
    axis = x.shape[-1] if x.dim() else 1
    group = axis if group_size == WHOLE_AXIS else min(group_size, axis)
    rows = x.reshape(-1, axis)
    if short := -axis % group:
        rows = torch.nn.functional.pad(rows, (0, short))
    return rows.reshape(rows.shape[0], -1, group)


def _out_of_groups(groups: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_in_groups`, in the shape of ``like``, rounded to its dtype."""
    axis = like.shape[-1] if like.dim() else 1
    return groups.flatten(start_dim=1)[:, :axis].reshape(like.shape).contiguous().to(like.dtype)
