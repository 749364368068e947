"""The noise of quantization: relative mean squared errors of random inputs, by integration.

A group of G independent values has its scale from its largest magnitude m. Given m, one value is m or -m and
the others follow the distribution cut off there, so that

    relMSE = (1 / (G E[x^2])) * E_m[(G - 1) e(m) + e_max(m)],    P(max < m) = F(m)**G,

with F the distribution of |x|, e(m) the mean squared error of a value below m, a sum over the quantizer's
cells, and e_max(m) that of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qscale.errors import SpecError
from qscale.formats.densities import Distribution, density, gauss_legendre
from qscale.formats.dialects import DEFAULT_DIALECT
from qscale.formats.grids import values
from qscale.formats.group_errors import Quantizer, of_exact_scales, of_steps, of_two_ends, of_two_levels
from qscale.formats.spec import QuantSpec
from qscale.formats.steps import join, steps

#: Whose arithmetic is covered, float32 apart.
_DIALECTS = (DEFAULT_DIALECT, "chen2025")
#: Smaller inputs are all 0 under any scale that is rounded, and larger ones all too large.
_SIZES = (1e-60, 1e60)


@dataclass(frozen=True, kw_only=True)
class GroupPower:
    """``relMSE = coefficient * log2(G)**exponent``, fitted to some G; ``misfit`` is the rms of ln relMSE."""

    coefficient: float
    exponent: float
    misfit: float


def relmse(
    spec: QuantSpec | str,
    distribution: Distribution = "gaussian",
    group_size: int | None = None,
    *,
    df: float = 5.0,
    sigma: float | None = None,
    tensor_size: int = 1 << 20,
) -> float:
    """The relative mean squared error of a spec, ``E[(x - Q(x))**2] / E[x**2]``, for independent inputs.

    An integral over the largest magnitude of a group and the quantizer's cells, not a simulation: right to
    1e-6 of itself for groups of up to 1e5, in real numbers. What float32 rounds and where it ends is left
    out. Ties have no probability, so that ``away`` changes nothing; ``stochastic`` is averaged over its
    random numbers. Covered are dialects ``qscale`` and ``chen2025``, but for ``floatzero``,
    ``scale_input``, and ``asym`` with ``stochastic`` or a type of scales.

    Args:
        spec: Such as ``"int4:g128"``.
        distribution: ``"gaussian"``, ``"laplace"`` or ``"student_t"``, about 0.
        group_size: Elements that share a scale, in place of the spec's; ``channel`` and ``token`` need it.
        df: Degrees of freedom of Student's t, at least 3.
        sigma: The size of the inputs: what a variate is multiplied by that is Gaussian of standard deviation
            1, Laplace of density ``exp(-|x|) / 2``, or the usual Student's t. It counts where scales are
            powers of two or rounded to a type, and the tensor has none; None is the mean over its
            logarithm, for the octave from ``2**-0.5`` to ``2**0.5``.
        tensor_size: Elements that share a second scale (NVFP4), or with ``tensor`` the only one.

    Returns:
        The error, which ``qsnr_db`` has in dB; 0 where there is none.

    Raises:
        SpecError: The spec cannot be read or is not covered, or an argument does not go with it.

    Example:
        >>> round(relmse("int4:g128"), 7), round(relmse("int4:g128@chen2025"), 7)
        (0.0137519, 0.0111306)
        >>> round(relmse("mxfp4", "student_t"), 7), round(relmse("mxfp4", "student_t", sigma=1), 7)
        (0.0159182, 0.0158999)

    Source: derived; the formula is at the head of this module. An earlier integration of it, the tables in
    the tests, has the same five digits where scales are exact. Where they are powers of two (or in E4M3) it
    is up to 1.1e-3 (1e-4) off, as it did not stop where the scale jumps: one that does agrees with this to
    1e-9.
    """
    spec = QuantSpec.parse(spec)
    _demand_covered(spec)
    group = _group(spec, group_size, tensor_size)
    if sigma is not None and not 0 < sigma < math.inf:
        raise SpecError(f"sigma={sigma}: the size of inputs is above 0, or None for the mean over an octave")
    size = None if sigma is None else min(max(float(sigma), _SIZES[0]), _SIZES[1])
    return _relmse(spec, distribution, group, float(df), size, tensor_size)


def group_power(
    spec: QuantSpec | str,
    distribution: Distribution = "gaussian",
    group_sizes: Sequence[int] = (32, 64, 128, 256),
    *,
    df: float = 5.0,
    sigma: float | None = None,
    tensor_size: int = 1 << 20,
) -> GroupPower:
    """The power of log2(G) that relMSE follows: least squares of ln relMSE on ln log2(G).

    It is what the exponent of ``log2(G)`` in a law of the loss would be if loss were in proportion to relMSE.

    Args:
        spec: As for ``relmse``, like the rest; its own group does not count.
        distribution: As for ``relmse``.
        group_sizes: Two or more different G above 1, equally weighted.
        df: As for ``relmse``.
        sigma: As for ``relmse``.
        tensor_size: As for ``relmse``.

    Raises:
        SpecError: As ``relmse``, or too few group sizes.

    Example:
        >>> [round(group_power(spec).exponent, 2) for spec in ("int4:channel", "int4:channel@chen2025")]
        [1.12, 0.76]
    """
    if len(set(group_sizes)) < 2 or min(group_sizes) < 2:
        raise SpecError(f"group_sizes={tuple(group_sizes)}: a power of log2(G) takes two or more G above 1")
    errors = [relmse(spec, distribution, g, df=df, sigma=sigma, tensor_size=tensor_size) for g in group_sizes]
    x, y = np.log(np.log2(np.array(group_sizes, dtype=np.float64))), np.log(errors)
    exponent, start = np.polyfit(x, y, 1)
    misfit = math.sqrt(np.mean((y - start - exponent * x) ** 2))
    return GroupPower(coefficient=math.exp(start), exponent=float(exponent), misfit=misfit)


def mean_square_crest(distribution: Distribution, group_size: int, *, df: float = 5.0) -> float:
    """``E[max(x**2)] / E[x**2]``: the square of a group's crest factor, in the mean.

    Args:
        distribution: As for ``relmse``.
        group_size: Elements of a group.
        df: Degrees of freedom of Student's t.

    Raises:
        SpecError: An unknown distribution, too few degrees of freedom, or a group of nothing.

    Example:
        >>> round(mean_square_crest("gaussian", 32), 4)
        5.7095
    """
    _demand_count("group_size", group_size)
    of = density(distribution, float(df))
    maximum, weight = of.maxima(group_size)
    share = 1 - of.exceeded(maximum, group_size - 1)
    return group_size * float(weight @ (of.pdf(maximum) * share * maximum**2)) / of.second_moment


def _demand_covered(spec: QuantSpec) -> None:
    if spec.dialect not in _DIALECTS:
        raise SpecError(
            f"{spec}: the error is known in dialects {' and '.join(_DIALECTS)}, not in {spec.dialect!r}; a "
            "spec there may have the same scales, as int4:g128:full has those of int4:g128@torchao"
        )
    if spec.scale_dtype == "input":
        raise SpecError(f"{spec}: the type of the input is not known; name it, such as scale_bf16")
    if spec.symmetric:
        return
    if spec.zero_point == "float" or spec.scale_dtype is not None or spec.rounding == "stochastic":
        raise SpecError(
            f"{spec}: with asym the error is known for zero points that are integers, scales in float32 and "
            "rounding to the nearest"
        )


def _demand_count(name: str, count: int) -> None:
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise SpecError(f"{name}={count!r}: wanted a number of elements, 1 or more")


def _group(spec: QuantSpec, group_size: int | None, tensor_size: int) -> int:
    _demand_count("tensor_size", tensor_size)
    own = {"block": (spec.group_size or 0) ** 2, "tensor": tensor_size}
    group = own.get(spec.strategy, spec.group_size) if group_size is None else group_size
    if group is None:
        raise SpecError(f"{spec}: give group_size, how many elements a {spec.strategy} has")
    _demand_count("group_size", group)
    if spec.has_tensor_scale and group > tensor_size:
        raise SpecError(f"{spec}: tensor_size={tensor_size} is less than a group of {group} elements")
    return group


@lru_cache(maxsize=1024)
def _relmse(
    spec: QuantSpec, distribution: str, group: int, df: float, sigma: float | None, tensor_size: int
) -> float:
    of = density(distribution, df)
    if not spec.symmetric:
        return of_two_ends(2**spec.num_bits - 1, group, of) / of.second_moment
    quantizer = _quantizer(spec)
    scale_type = spec.scale_dtype if spec.row.scale_type == "free" else spec.row.scale_type
    if scale_type is None:
        return of_exact_scales(quantizer, group, of) / of.second_moment
    if spec.has_tensor_scale:
        return of_two_levels(quantizer, group, tensor_size, of) / of.second_moment
    low, high = of.least_maximum(group), of.end
    scales = join(
        steps(spec, scale_type, quantizer.denominator, low * size, high * size).over(size, share)
        for size, share in ([(sigma, 1.0)] if sigma is not None else _octave(scale_type, group))
    )
    return of_steps(quantizer, scales, group, of) / of.second_moment


def _quantizer(spec: QuantSpec) -> Quantizer:
    integers = spec.int_arithmetic()
    if integers is not None:
        up, down = (tuple(map(float, range(end + 1))) for end in (integers.qmax, -integers.qmin))
        denominator = float(integers.denominator)
    else:
        found = values(spec.format)
        zero, denominator = found.index(0.0), found[-1]
        up, down = found[zero:], tuple(-v for v in found[zero::-1])
    return Quantizer((up,) if up == down else (up, down), denominator, spec.rounding == "stochastic")


def _octave(scale_type: str, group: int) -> list[tuple[float, float]]:
    """Sizes, and shares to average over an octave about 1 with.

    Errors are smooth in the logarithm of the size, the less varied the finer the type; and periodic until
    scales are subnormal, which those in E4M3 soon are.
    """
    if scale_type == "e4m3":
        nodes, weights = gauss_legendre(12 if group <= 1024 else 24)
    else:
        count = 16 if scale_type == "e8m0" else 4
        nodes, weights = (np.arange(count) + 0.5) / count, np.full(count, 1 / count)
    return list(zip(np.exp2(nodes - 0.5).tolist(), weights.tolist(), strict=True))
