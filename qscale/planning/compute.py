"""What to train for a number of FLOPs: precision, size and data together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, point_of
from qscale.planning.rows import shares_of_least
from qscale.planning.sources import Source

Cost = Literal["flops", "bits"]

_FLOPS = 6.0  # of a training token and parameter
_SIZES = 240  # of a scan along N
_STEPS = 60  # of the golden section


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """The size and data of least loss for a recipe at a cost."""

    recipe: Recipe | None
    source: Source | None
    N: float
    D: float
    loss: Forecast
    chance: float | None = None  #: that this recipe is the one to train


def precision_for_compute(
    evidence: Evidence,
    compute: float,
    *,
    recipes: Sequence[Recipe | str] | None = None,
    cost: Cost = "flops",
    overhead: float = 1.0,
) -> list[Trained]:
    """The optimal precision for a compute budget: of each recipe the best N and D, least loss first.

    A run costs ``6 N D`` times the recipe's factor: with ``flops`` 1, and ``overhead`` for QAT from the first
    token on (fake quantization saves nothing); with ``bits`` the wider operand's bits over 16, as if hardware
    multiplied so much faster. Quantization after training costs 16-bit training.

    Args:
        evidence: Laws and a baseline.
        compute: FLOPs of the training.
        recipes: To choose from, beside none; by default all that the laws are about.
        cost: How a recipe changes the cost.
        overhead: Cost of a step of QAT over a plain one.

    Raises:
        PlanError: No baseline, or no law is about a recipe that was named.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a4"], baseline="chen2025/baseline")
        >>> best = precision_for_compute(evidence, 1e21, recipes=["w4a4:g32"], cost="bits")[0]
        >>> str(best.recipe), f"{best.N:.2g}", f"{best.D:.2g}"
        ('w4a4:g32', '6.6e+09', '1e+11')

    Source: arXiv:2411.04330 for the cost in bits (with one precision for both operands).
    """
    if evidence.baseline is None:
        raise PlanError("the optimum of a compute budget needs a baseline")
    if not 1e12 <= compute <= 1e30 or not 1 <= overhead < math.inf:
        raise PlanError(f"compute={compute:g}, overhead={overhead:g}: 1e12 to 1e30 FLOPs, a cost from 1 on")
    chosen = evidence.recipes() if recipes is None else [Recipe.parse(recipe) for recipe in recipes]
    found = [_trained(evidence, None, None, compute)]
    for recipe in chosen:
        if recipes is not None:
            evidence.option(Architecture.typical(1e9), 1e9, recipe)  # says why no law is about it
        methods = set()
        for source in evidence.covering(recipe):
            if source.how in methods or source.counts == "total":
                continue
            methods.add(source.how)
            factor = _factor(recipe, source, cost, overhead)
            one = _trained(evidence, recipe, source, compute / factor)
            if max(one.loss.outside.values(), default=1.0) <= evidence.reach:
                found.append(one)
    found.sort(key=lambda one: one.loss.value)
    chances = shares_of_least([one.loss.draws for one in found])
    return [replace(one, chance=chance) for one, chance in zip(found, chances, strict=True)]


def _factor(recipe: Recipe, source: Source, cost: Cost, overhead: float) -> float:
    if source.after_training:
        return 1.0
    if cost == "flops":
        return overhead
    widest = max(16 if spec is None else spec.num_bits for spec in (recipe.weight, recipe.input))
    return overhead * widest / 16


def _trained(evidence: Evidence, recipe: Recipe | None, source: Source | None, compute: float) -> Trained:
    """A scan over N at ``6 N D = compute``, then a golden section around the lowest."""
    assert evidence.baseline is not None
    baseline = evidence.baseline

    def option(size: float) -> Option:
        shape = Architecture.typical(max(1e6, size))
        scale = size / shape.N
        return Option(
            architecture=shape, D=compute / (_FLOPS * size), recipe=recipe, source=source, scale=scale
        )

    middle = math.sqrt(compute / _FLOPS)
    sizes = np.geomspace(max(1e3, middle * 1e-4), middle * 1e4, _SIZES)
    at_middle = option(middle)
    base = baseline.point(at_middle.architecture, 1.0, None)
    varied = {"N": sizes, "D": compute / (_FLOPS * sizes)}
    losses = baseline.predict({**base, **varied})
    if recipe is not None and source is not None:
        losses = losses + source.predict({**source.point(at_middle.architecture, 1.0, recipe), **varied})
    at = int(np.argmin(losses))
    low, high = (math.log(sizes[max(0, min(len(sizes) - 1, at + step))]) for step in (-1, 1))
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _value(evidence, option(math.exp(left))) < _value(evidence, option(math.exp(right))):
            high = right
        else:
            low = left
    best = option(math.exp((low + high) / 2))
    size = best.architecture.N * best.scale
    return Trained(recipe=recipe, source=source, N=size, D=best.D, loss=evidence.loss(best))


def _value(evidence: Evidence, option: Option) -> float:
    """The loss without its band."""
    assert evidence.baseline is not None
    sources = [evidence.baseline] if option.source is None else [evidence.baseline, option.source]
    return sum(float(source.predict(point_of(source, option))) for source in sources)
