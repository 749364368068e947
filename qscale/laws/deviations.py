"""The least sum of absolute deviations, by linear programs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qscale.laws.forms import FloatArray

_NO_GAIN = 1e-12  # relative, promised by a program
_NEAREST = 1e-10  # the smallest region


def least_deviations(
    residuals: Callable[[FloatArray], FloatArray],
    slopes: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    *,
    weight: FloatArray,
    low: FloatArray,
    high: FloatArray,
    free: NDArray[np.bool_],
    over: float = 1.0,
    reach: float = 1e-2,
    programs: int = 30,
) -> FloatArray:
    """From a start near the optimum, by programs within a region that narrows on failure.

    As many residuals are zero there as there are parameters: no smooth loss finds that to full precision.

    Args:
        residuals: Of a point: ``(rows,)``.
        slopes: Their derivative by the parameters: ``(rows, parameters)``.
        start: ``(parameters,)``.
        weight: Of each row.
        low: Ends of the parameters.
        high: Ends of the parameters.
        free: The parameters that may move.
        over: What a residual above zero weighs.
        reach: How far the first program may move a parameter.
        programs: The most that are solved.

    Source: Osborne and Watson 1971.

    Example:
        >>> x, y = np.arange(5.0), np.array([1.0, 2.0, 3.0, 4.0, 50.0])
        >>> found = least_deviations(
        ...     lambda t: t[0] + t[1] * x - y, lambda t: np.stack([x**0, x], axis=1), np.array([0.99, 1.01]),
        ...     weight=np.ones(5), low=np.full(2, -9.0), high=np.full(2, 9.0), free=np.ones(2, dtype=bool))
        >>> [round(float(value), 9) for value in found]
        [1.0, 1.0]
    """
    from scipy.optimize import linprog

    theta, region = start, reach
    residual = residuals(theta)
    rows, parameters = len(residual), len(theta)
    cost = np.concatenate([np.zeros(parameters), over * weight, weight])
    parts = np.hstack([-np.eye(rows), np.eye(rows)])  # of a residual: above and below zero

    def total(r: FloatArray) -> float:
        return float(weight @ (np.where(r > 0, over, 1.0) * np.abs(r)))

    value = total(residual)
    for _ in range(programs):
        least = np.where(free, np.maximum(-region, low - theta), 0.0)
        most = np.where(free, np.minimum(region, high - theta), 0.0)
        found = linprog(
            cost,
            A_eq=np.hstack([slopes(theta), parts]),
            b_eq=-residual,
            bounds=[*zip(least, most, strict=True), *[(0, None)] * (2 * rows)],
            method="highs",
        )
        if found.x is None or found.fun >= value * (1 - _NO_GAIN):
            break
        there = theta + found.x[:parameters]
        after = residuals(there)
        if not (reached := total(after)) < value * (1 - 1e-15):
            region /= 10
            if region < _NEAREST:
                break
        else:
            theta, residual, value = there, after, reached
            region *= 3
    return theta
