"""Quantization signal-to-noise ratios in dB: of any relative error, and closed forms for Gaussian groups."""

from __future__ import annotations

import math
from typing import Literal

from qscale.errors import SpecError
from qscale.formats.grids import FORMATS

Significands = Literal["uniform", "log_uniform"]

#: The relative error of normal numbers of M mantissa bits, times 4**M: the mean of 1 / (12 m**2) over
#: significands m from 1 to 2, among which the energy is spread evenly or as 1 / m.
_NORMAL: dict[str, float] = {"uniform": 1 / 24, "log_uniform": 1 / (32 * math.log(2))}


def qsnr_db(error: float) -> float:
    """``-10 log10(error)``: the quantization signal-to-noise ratio of a relative mean squared error, in dB.

    Raises:
        SpecError: The error is no number from 0 on.

    Example:
        >>> qsnr_db(0.01), qsnr_db(0)
        (20.0, inf)
    """
    if not error >= 0:
        raise SpecError(f"error={error}: a mean squared error is 0 or more")
    return -10 * math.log10(error) if error else math.inf


def qsnr_int(
    num_bits: int,
    crest: float,
    *,
    rho: float = 1.0,
    group_size: int | None = None,
    denominator: float | None = None,
) -> float:
    """The QSNR of symmetric integers, in dB, if errors are uniform in each cell.

    ``relMSE = (rho crest)**2 / (12 denominator**2)``, times (G - 1) / G where the largest element has no
    error. With ``crest**2`` from ``mean_square_crest``, G and Gaussian groups of 16 to 1024 this is within
    0.04 % of ``relmse`` at 4 bits and 0.22 % at 3, and 4 to 32 % above it at 2. It is the worse the higher
    the peak at zero: at 4 bits 1 to 4 % above for Laplace groups, 0.3 to 3 % for Student's t of 5 degrees.

    Args:
        num_bits: 2 to 8, the sign included.
        crest: Largest magnitude over root mean square, of a group.
        rho: Scale over the scale that is not rounded: 1 to 2 where it is rounded up to a power of two.
        group_size: G, where the largest element has no error.
        denominator: Largest magnitude over scale; 2**(b-1) - 1 by default. The paper has ``4.78 + 6.02 b - 20
            log10(rho crest)`` dB, which is 2**(b-1): 1.16 dB too many at 4 bits where codes end at 7.

    Raises:
        SpecError: An argument that is not so.

    Example:
        >>> round(qsnr_int(4, 2.39, group_size=16), 2)
        20.41

    Source: Chen et al. 2025 (arXiv:2510.25602).
    """
    if not 2 <= num_bits <= 8:
        raise SpecError(f"num_bits={num_bits}: integers have 2 to 8 bits")
    _demand(crest, rho, group_size)
    if denominator is None:
        denominator = 2 ** (num_bits - 1) - 1
    elif not denominator > 0:
        raise SpecError(f"denominator={denominator}: wanted a number above 0")
    others = 1.0 if group_size is None else (group_size - 1) / group_size
    return qsnr_db((rho * crest / denominator) ** 2 / 12 * others)


def qsnr_float(
    name: str,
    crest: float,
    *,
    rho: float = 1.0,
    group_size: int | None = None,
    significands: Significands = "uniform",
) -> float:
    """The QSNR of floating-point elements in Gaussian groups, in dB, if errors are uniform in each cell.

    ``relMSE = alpha (w - crest**2 / G) + (rho crest)**2 p 4**(1 - B - M) / (12 Qmax**2)``, with w the share
    of the energy in normal numbers, p the share of values below them, M mantissa bits, the bias B and the
    largest value Qmax; without G, ``crest**2 / G`` is left out. The paper has ``alpha = 4**-M / 24``, an
    energy spread evenly over significands; ``log_uniform`` is ``alpha = 0.045084 * 4**-M``, as where a
    density is smooth. With ``crest**2`` from ``mean_square_crest`` and G from 16 to 1024 the one is 0.91 to
    0.97 of ``relmse`` for fp4_e2m1, fp6_e2m3 and fp8_e4m3, the other 0.98 to 1.05. With enough range they
    come to 13.80 + 6.02 M and 13.46 + 6.02 M dB.

    Args:
        name: A floating-point format, such as ``"fp4_e2m1"`` or ``"mxfp4"``; its scale does not count.
        crest: Largest magnitude over root mean square, of a group.
        rho: Scale over the scale that is not rounded: 1 to 2 where it is rounded up to a power of two.
        group_size: G, where the largest element has no error.
        significands: How energy is spread over them: ``"uniform"`` or ``"log_uniform"``.

    Raises:
        SpecError: An argument that is not so.

    Example:
        >>> round(qsnr_float("fp4_e2m1", 2.39, group_size=16), 2)
        21.22

    Source: Chen et al. 2025 (arXiv:2510.25602); log-uniform significands derived here.
    """
    row = FORMATS.get(name)
    if row is None or row.grid is None or row.kind != "float" or not row.exponent_bits:
        raise SpecError(f"{name!r} is no floating-point format with exponents, such as fp4_e2m1 or mxfp4")
    if significands not in _NORMAL:
        raise SpecError(f"significands={significands!r}; known: {', '.join(_NORMAL)}")
    _demand(crest, rho, group_size)
    scale = rho * crest / row.grid.max
    least_normal = scale * row.grid.smallest_normal
    below = math.erf(least_normal / math.sqrt(2))
    energy = 1 - below + math.sqrt(2 / math.pi) * least_normal * math.exp(-(least_normal**2) / 2)
    if group_size is not None:
        energy -= crest**2 / group_size
    normal = _NORMAL[significands] * 4.0**-row.mantissa_bits * energy
    return qsnr_db(max(0.0, normal + (scale * row.grid.step) ** 2 / 12 * below))


def _demand(crest: float, rho: float, group_size: int | None) -> None:
    if not 1 <= crest < math.inf:
        raise SpecError(f"crest={crest}: no group's largest magnitude is below its root mean square")
    if not 0 < rho < math.inf:
        raise SpecError(f"rho={rho}: a ratio of scales is above 0")
    if group_size is not None and not crest**2 <= group_size:
        raise SpecError(f"crest={crest}: that of {group_size} elements is at most the root of their number")
