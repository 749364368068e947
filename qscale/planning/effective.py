"""A quantized model as a smaller one, and the data from which on more training harms it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qscale.errors import PlanError
from qscale.laws.forms import FloatArray
from qscale.planning.evidence import Evidence, Forecast, Option, farthest, point_of
from qscale.planning.footprint import bits_of_linears
from qscale.planning.sources import Source

_POINTS = 400  # of a scan along D
_HALVINGS = 100
_MOST_TOKENS = 1e18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effective:
    """Quantization as a smaller model."""

    option: Option
    multiplier: Forecast  #: EPM: the unquantized size of equal loss, over N
    N: float  #: that size
    bits_per_weight: float
    effective_bits: (
        float  #: bits a weight over the multiplier: bits for each parameter of the equivalent model
    )


def effective_size(evidence: Evidence, option: Option) -> Effective:
    """The size whose unquantized loss at the same D is that of the option (EPM), and its effective bits.

    Solved on the baseline as it is given, of any form that falls with N; its own uncertainty is left out.
    ``effective_bits`` is qscale's word: 16 for a model that is not quantized; fewer mean that the bytes of
    the linear layers buy more.

    Raises:
        PlanError: No baseline, an option without quantization, or a loss that no size of the baseline has.

    Example:
        >>> from qscale.planning import Architecture
        >>> evidence = Evidence.of(["chen2025/w4a4"], baseline="chen2025/baseline")
        >>> shape = Architecture.typical(595e6)
        >>> found = effective_size(evidence, evidence.option(shape, 100e9, "w4a4:g128"))
        >>> round(found.multiplier.value, 3), round(found.effective_bits, 2)
        (0.712, 5.79)

    Source: arXiv:2502.16440 (the multiplier); arXiv:2505.14302 (from delta).
    """
    if option.recipe is None:
        raise PlanError(f"{option}: nothing is quantized, its multiplier is 1")
    base, delta = evidence.base(option), evidence.delta(option)
    assert evidence.baseline is not None
    point = point_of(evidence.baseline, option)
    share = _size_of_loss(evidence.baseline, point, np.array([base.value + delta.value]))
    if not 0 < share[0] < math.inf:
        raise PlanError(
            f"law {evidence.baseline.label}: no size from a millionth to a thousand times that of "
            f"{option} has its loss without quantization"
        )
    draws = None
    if delta.draws is not None:
        draws = _size_of_loss(evidence.baseline, point, base.value + delta.draws)
    outside = farthest(base.outside, delta.outside)
    multiplier = Forecast.of(float(share[0]), draws, delta.basis, outside, evidence.level)
    bits_per_weight = bits_of_linears(option.architecture, option.recipe)
    return Effective(
        option=option,
        multiplier=multiplier,
        N=float(share[0]) * point["N"],
        bits_per_weight=bits_per_weight,
        effective_bits=bits_per_weight / float(share[0]),
    )


def _size_of_loss(baseline: Source, point: dict[str, Any], losses: FloatArray) -> FloatArray:
    """The size of each loss on the baseline, over that of the point: bisection in the logarithm.

    0 where no smaller one has a loss so high, infinite where no larger one has one so low.
    """
    low, high = np.full(losses.shape, 1e-6), np.full(losses.shape, 1e3)
    most, least = (baseline.predict({**point, "N": point["N"] * end}) for end in (low[0], high[0]))
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        above = baseline.predict({**point, "N": point["N"] * middle}) > losses
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(losses > most, 0.0, np.where(losses < least, np.inf, low))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Critical:
    """The data from which on more training raises the quantized loss."""

    option: Option
    tokens: Forecast  #: infinite where the loss falls without end
    ratio: float  #: tokens over N
    least: float  #: the loss there


def critical_data(evidence: Evidence, option: Option) -> Critical:
    """D at which baseline and delta together are least: past it, training makes the quantized model worse.

    ``option.D`` plays no part. Found by a scan of both laws, of any form; for power laws it is
    :func:`qscale.laws.derived.critical_tokens`.

    Raises:
        PlanError: No baseline, or an option without quantization.

    Example:
        >>> from qscale.planning import Architecture
        >>> evidence = Evidence.of(["kumar2025/ptq"], baseline="kumar2025/baseline")
        >>> shape = Architecture.typical(1e9)
        >>> found = critical_data(evidence, evidence.option(shape, 1e9, "w4a16:channel"))
        >>> print(f"{found.tokens.value:.2e}")
        2.92e+11

    Source: arXiv:2411.04330, for its PTQ law.
    """
    if option.recipe is None or option.source is None:
        raise PlanError(f"{option}: nothing is quantized, more data never harms")
    if evidence.baseline is None:
        raise PlanError("critical data need a baseline: what more data gains")
    grid = np.geomspace(1e6, _MOST_TOKENS, _POINTS)
    base, own = ({**point_of(source, option), "D": grid} for source in (evidence.baseline, option.source))
    total = evidence.baseline.predict(base) + option.source.predict(own)
    place, value = _least(grid, np.atleast_2d(total))
    losses, deltas = evidence.baseline.draws(base), option.source.draws(own)
    draws = None if losses is None or deltas is None else _least(grid, losses + deltas)[0]
    at = replace(option, D=float(min(place[0], _MOST_TOKENS)))
    return Critical(
        option=at,
        tokens=Forecast.of(
            float(place[0]), draws, evidence.loss(at).basis, evidence.loss(at).outside, evidence.level
        ),
        ratio=float(place[0]) / (option.architecture.N * option.scale),
        least=float(value[0]),
    )


def _least(grid: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Place and height of the lowest point of each row, by a parabola in ln D; infinite at the upper end."""
    step = math.log(grid[1] / grid[0])
    at = np.argmin(values, axis=1)
    inner = np.clip(at, 1, len(grid) - 2)
    rows = np.arange(len(values))
    left, middle, right = (values[rows, inner + k] for k in (-1, 0, 1))
    bend = np.maximum(left - 2 * middle + right, np.finfo(float).tiny)
    moved = np.clip(0.5 * (left - right) / bend, -1, 1)
    place = np.where(at == len(grid) - 1, np.inf, grid[inner] * np.exp(step * moved))
    return np.where(at == 0, grid[0], place), values[rows, at]
