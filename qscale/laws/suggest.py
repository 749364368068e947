"""Which runs to make next: those that shrink the band of a chosen prediction most for their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qscale.errors import LawError
from qscale.laws.forms import FloatArray
from qscale.laws.law import Law

_FLOPS = 6.0  # of a training token and parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A run, what it costs, and the relative s.d. of the prediction once it is made."""

    run: dict[str, float]
    flops: float
    sd: float


def relative_sd(law: Law, **target: float) -> float:
    """The relative s.d. of a prediction: of the logarithm of its draws.

    Raises:
        LawError: The law has no draws, or a variable is missing.
    """
    return float(np.std(np.log(law.draws(None, **target)), ddof=1))


def suggest_runs(
    law: Law,
    budget: float,
    candidates: Sequence[Mapping[str, float]],
    *,
    noise: float | None = None,
    **target: float,
) -> list[Suggestion]:
    """The runs to add, one after the other, each with the largest fall of the variance for its FLOPs.

    Logarithms of predictions are taken to be normal with the covariance of the law's draws: a run at x with
    noise s leaves of the variance v of the target ``v - cov(target, x)^2 / (var(x) + s^2)``, and of all other
    covariances likewise. The form is taken to be true. A run costs 6 N D FLOPs; its baseline is not counted.

    Args:
        law: A law with draws.
        budget: FLOPs that all runs together may cost.
        candidates: Runs, each with the variables of the form; one may be taken twice, with another seed.
        noise: The relative s.d. of a run; by default that of the fit.
        target: The prediction: the variables of the form.

    Returns:
        The runs in the order to make them; empty where the budget holds none.

    Raises:
        LawError: The law has no draws or noise, or a variable is missing.

    Example:
        >>> from qscale import laws
        >>> grid = [(n, d * n, g) for n in (2e4, 2e5, 2e6) for d in (20, 80) for g in (16, 64)]
        >>> rows = [{"N": n, "D": d, "G": g, "delta": 0.1 * n**-0.2 * d**0.1 * g**0.1 * (1 + i % 5 / 100)}
        ...         for i, (n, d, g) in enumerate(grid)]
        >>> law = laws.fit(rows, bootstrap=200)
        >>> runs = [{"N": n, "D": 20 * n, "G": 64} for n in (2e5, 2e7)]
        >>> found = suggest_runs(law, 1e16, runs, noise=0.02, N=2e8, D=4e9, G=64)
        >>> found[0].run["N"], len(found) > 1
        (200000.0, True)

    Source: Bayesian linear design, Chaloner and Verdinelli 1995.
    """
    noise = law.run_sd if noise is None else float(noise)
    if not noise > 0:
        raise LawError(f"noise={noise:g}: the relative standard deviation of a run is more than 0")
    if not candidates:
        raise LawError("suggest_runs: there are no candidates")
    runs = [{k: float(v) for k, v in run.items()} for run in candidates]
    logs = np.stack([np.log(law.draws(None, **run)) for run in runs], axis=-1)
    aim = np.log(law.draws(None, **{k: float(v) for k, v in target.items()}))
    found = greedy_runs(aim, logs, runs, np.full(len(runs), noise), budget)
    return [Suggestion(run=dict(candidates[i]), flops=flops, sd=sd) for i, flops, sd in found]


def greedy_runs(
    aim: FloatArray,
    logs: FloatArray,
    runs: Sequence[Mapping[str, float]],
    noise: FloatArray,
    budget: float,
) -> list[tuple[int, float, float]]:
    """Runs in the order in which each lowers the variance of an aim most for its FLOPs, while they last.

    Args:
        aim: Draws of what is to be known, ``(draws,)``.
        logs: Draws of the logarithm of what each run measures, ``(draws, runs)``.
        runs: Their N and D.
        noise: Relative s.d. of each.
        budget: FLOPs of all together.

    Returns:
        The number of each run, its FLOPs, and the s.d. of the aim once it is made.
    """
    cost = np.array([_FLOPS * float(run["N"]) * float(run["D"]) for run in runs])
    covariance = np.atleast_2d(np.cov(np.column_stack([logs, aim]), rowvar=False))
    chosen: list[tuple[int, float, float]] = []
    left = float(budget)
    while True:
        own, shared = np.diagonal(covariance)[:-1], covariance[:-1, -1]
        fall = np.where(cost <= left, shared**2 / (own + noise**2) / cost, -np.inf)
        best = int(np.argmax(fall))
        if not fall[best] > 0:
            return chosen
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / (own[best] + noise[best] ** 2)
        left -= float(cost[best])
        chosen.append((best, float(cost[best]), float(np.sqrt(max(covariance[-1, -1], 0.0)))))
