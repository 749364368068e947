"""Loss curves: the laws over a schedule at some steps, the fit of the annealing law, peaks of activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError, LawError
from qscale.laws import forms
from qscale.laws.forms import FloatArray
from qscale.laws.forms.curves import areas, checked_schedule, multi_power_parts

__all__ = ["Curve", "CurveFit", "areas", "fit_annealing", "losses", "massive_peak"]

#: Memories tried by default. Only C / (1 - lam) matters for slow decays, so the grid is coarse.
MEMORIES = (0.99, 0.995, 0.999, 0.9995)
_HUBER = 1e-3  # of the residual of ln loss
_ALPHAS = (0.02, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Losses of one run."""

    eta: FloatArray  #: the rate of every step
    steps: NDArray[np.intp]  #: where the loss was read, from 0
    loss: FloatArray

    def __post_init__(self) -> None:
        eta, steps, loss = checked_schedule(self.eta), np.asarray(self.steps), np.asarray(self.loss)
        if steps.ndim != 1 or steps.shape != loss.shape or not len(steps):
            raise LawError(f"curve: {steps.size} steps and {loss.size} losses; give a loss for each step")
        if steps.min() < 0 or steps.max() >= len(eta):
            raise LawError(f"curve: steps {steps.min()} to {steps.max()} of a schedule of {len(eta)} steps")
        if not np.all(np.isfinite(loss) & (loss > 0)):
            raise LawError("curve: every loss is a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFit:
    """Constants of the annealing law, and how well they fit."""

    parameters: dict[str, float]
    mean_relative_error: float
    objective: float  #: sum of Huber(1e-3) of ln loss residuals
    by_memory: dict[float, float]  #: the objective at each lam tried


def losses(form: str, parameters: Mapping[str, float], eta: Any, steps: Any) -> FloatArray:
    """The loss after some steps of a schedule, by ``lr-annealing`` or ``multi-power``.

    Args:
        form: One of the two.
        parameters: Its constants.
        eta: The rate of every step, warm-up included.
        steps: Which, from 0.

    Example:
        >>> from qscale import laws
        >>> law = laws.load("luo2025/400m")
        >>> rates = np.concatenate([np.linspace(1e-7, 3e-4, 2160), np.full(21840, 3e-4)])
        >>> losses("multi-power", law.parameters, rates, [23999]).round(3)
        array([2.817])
    """
    rates, at = checked_schedule(eta), np.asarray(steps, dtype=np.intp)
    if form == "multi-power":
        return multi_power_parts(parameters, rates, at)["loss"]
    if form == "lr-annealing":
        return np.asarray(forms.get(form).value(parameters, {"eta": rates})[at])
    raise LawError(f"law form {form!r} is no law over a schedule; these are: lr-annealing, multi-power")


def fit_annealing(curves: Sequence[Curve], memories: Sequence[float] = MEMORIES) -> CurveFit:
    """Fit the annealing law to the curves of one model, batch and peak rate.

    At a given memory and alpha the law is linear in L0, A and C: each memory is tried, alpha searched in one
    dimension, then all but the memory polished with Huber(1e-3) on the residuals of ln loss. One
    constant-rate and one cooled curve are enough.

    Raises:
        FitError: The curves do not determine the constants: fewer than four losses, or no drop of a rate.

    Example:
        >>> true = {"L0": 2.6, "A": 0.6, "alpha": 0.45, "C": 0.5, "lam": 0.999}
        >>> rates = np.concatenate([np.linspace(1e-6, 3e-4, 200), np.linspace(3e-4, 3e-5, 3000)])
        >>> read = np.arange(300, 3200, 50)
        >>> curve = Curve(eta=rates, steps=read, loss=losses("lr-annealing", true, rates, read))
        >>> found = fit_annealing([curve])
        >>> round(found.parameters["L0"], 4), found.parameters["lam"]
        (2.6, 0.999)

    Source: form, arXiv:2408.11029; procedure of our own.
    """
    if not curves:
        raise FitError("no curve to fit")
    found = [_fit_at(curves, float(lam)) for lam in memories]
    best = min(found, key=lambda one: one[0])
    loss = np.concatenate([np.asarray(curve.loss, dtype=np.float64) for curve in curves])
    predicted = np.concatenate([losses("lr-annealing", best[1], c.eta, c.steps) for c in curves])
    return CurveFit(
        parameters=best[1],
        mean_relative_error=float(np.mean(np.abs(predicted / loss - 1))),
        objective=best[0],
        by_memory={float(lam): one[0] for lam, one in zip(memories, found, strict=True)},
    )


def _fit_at(curves: Sequence[Curve], lam: float) -> tuple[float, dict[str, float]]:
    """Objective and constants at one memory."""
    from scipy.optimize import least_squares, minimize_scalar

    pairs = [(areas(c.eta, lam), np.asarray(c.steps)) for c in curves]
    s1 = np.concatenate([s[0][at] for s, at in pairs])
    s2 = np.concatenate([s[1][at] for s, at in pairs])
    loss = np.concatenate([np.asarray(c.loss, dtype=np.float64) for c in curves])
    if len(loss) < 4 or not np.any(s2 > 0):
        raise FitError("the annealing law needs four losses and a schedule whose rate drops")

    def linear(alpha: float) -> tuple[FloatArray, float]:
        design = np.column_stack([np.ones_like(s1), s1**-alpha, -s2]) / loss[:, None]
        size = np.linalg.norm(design, axis=0)
        answer = np.linalg.lstsq(design / size, np.ones_like(loss), rcond=None)[0] / size
        return answer, float(np.sum((design @ answer - 1) ** 2))

    alpha = float(minimize_scalar(lambda a: linear(a)[1], bounds=_ALPHAS, method="bounded").x)
    start = np.append(linear(alpha)[0], alpha)

    def residuals(theta: FloatArray) -> FloatArray:
        predicted = theta[0] + theta[1] * s1 ** -theta[3] - theta[2] * s2
        return np.asarray(np.log(np.maximum(predicted, 1e-300)) - np.log(loss))

    def jacobian(theta: FloatArray) -> FloatArray:
        power = s1 ** -theta[3]
        predicted = theta[0] + theta[1] * power - theta[2] * s2
        rows = np.column_stack([np.ones_like(s1), power, -s2, -theta[1] * power * np.log(s1)])
        return np.asarray(rows / np.maximum(predicted, 1e-300)[:, None])

    polished = least_squares(
        residuals, start, jac=jacobian, loss="huber", f_scale=_HUBER, x_scale="jac", xtol=1e-14, ftol=1e-14
    )
    theta = polished.x
    names = dict(zip(("L0", "A", "C", "alpha"), map(float, theta), strict=True))
    return float(polished.cost), {name: names[name] for name in ("L0", "A", "alpha", "C")} | {"lam": lam}


def massive_peak(*, lam: float, gam: float, t0: float) -> float:
    """The step at which ``ma-dynamics`` is largest: ``(exp(W(1 / lam)) - t0) / gam``, W of Lambert.

    Example:
        >>> round(massive_peak(lam=0.5, gam=1.0, t0=0.0), 6)
        2.345751

    Source: arXiv:2508.03616.
    """
    log = math.log1p(1 / lam)  # W(z) < ln(1 + z); Newton from above on w exp(w) = z
    for _ in range(100):
        log -= (log - math.exp(-log) / lam) / (1 + log)
    return (math.exp(log) - t0) / gam
