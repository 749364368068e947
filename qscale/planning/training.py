"""What to train: precision for a compute budget, QAT or PTQ, how much of either, and when more data harms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.laws import load
from qscale.laws.derived import optimal_qat_fraction
from qscale.laws.forms import FloatArray
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, farthest, point_of
from qscale.planning.footprint import bits_of_linears
from qscale.planning.sources import Source

Cost = Literal["flops", "bits"]

_FLOPS = 6.0  # of a training token and parameter
_POINTS = 400  # of a scan along D
_SIZES = 240  # of a scan along N
_HALVINGS = 100
_MOST_TOKENS = 1e18
_QAT_FRACTION = "dremov2025/qat-fraction"


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
    """The size of each loss on the baseline, over that of the point: bisection in the logarithm."""
    low, high = np.full(losses.shape, 1e-6), np.full(losses.shape, 1e3)
    at = {**point, "N": point["N"] * low[0]}
    if not np.all(losses <= baseline.predict(at)):
        raise PlanError(f"law {baseline.label}: no smaller model has a loss as high as that")
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        above = baseline.predict({**point, "N": point["N"] * middle}) > losses
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray(low)


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
    drawn = [source.draws(at) for source, at in ((evidence.baseline, base), (option.source, own))]
    draws = None
    if any(one is not None for one in drawn):
        first = evidence.baseline.predict(base) if drawn[0] is None else drawn[0]
        draws = _least(grid, first + (option.source.predict(own) if drawn[1] is None else drawn[1]))[0]
    at = replace(option, D=float(min(place[0], _MOST_TOKENS)))
    return Critical(
        option=at,
        tokens=Forecast.of(
            float(place[0]), draws, option.source.basis, evidence.loss(at).outside, evidence.level
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repay:
    """From which tokens for each parameter on QAT is worth its cost over quantization after training."""

    qat: Option
    ptq: Option
    ratio: Forecast  #: D / N; infinite: never, 0: always
    chance_never: float | None  #: the share of draws in which it never repays within the range
    at_ratio: FloatArray  #: D / N of the curve
    gain: FloatArray  #: nats per token that QAT saves there, its cost in tokens taken off


def qat_repays(
    evidence: Evidence,
    architecture: Architecture,
    recipe: Recipe | str,
    *,
    qat: str | None = None,
    ptq: str | None = None,
    share: float = 0.1,
    overhead: float = 1.0,
    worth: float = 0.0,
    ratios: tuple[float, float] = (1.0, 1e5),
) -> Repay:
    """From which D / N on QAT repays over PTQ at one N and recipe.

    QAT on a ``share`` of the tokens at ``overhead`` times the cost of a plain step leaves, for the same
    compute, ``D / (1 + share * (overhead - 1))`` tokens, which the baseline prices. It repays where
    ``delta(PTQ) - delta(QAT)`` less that price is more than ``worth``.

    Args:
        evidence: Laws of both kinds about the recipe; a baseline where QAT has an overhead.
        architecture: The model.
        recipe: Such as ``w4a16:g128``.
        qat: The law of QAT; by default the first about the recipe.
        ptq: The law of PTQ; likewise.
        share: Of the tokens that QAT has.
        overhead: Cost of a step of QAT over a plain one.
        worth: Nats per token that QAT has to save.
        ratios: The range of D / N that is looked at.

    Raises:
        PlanError: No law of one kind is about the recipe, or a number makes no sense.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16", "ouyang2024/qid"], baseline="chen2025/baseline")
        >>> found = qat_repays(evidence, Architecture.typical(1e9), "w4a16:g128", worth=0.05)
        >>> round(found.ratio.value)
        226
    """
    if not 0 < share <= 1 or not overhead >= 1 or not 0 < ratios[0] < ratios[1]:
        raise PlanError(
            f"share={share:g}, overhead={overhead:g}, ratios={ratios}: a share up to 1, a cost from 1 on, a range"
        )
    recipe = Recipe.parse(recipe)
    options = []
    for after, named in ((False, qat), (True, ptq)):
        kind = "after training" if after else "of QAT"
        found = [
            s
            for s in evidence.covering(recipe, architecture)
            if s.after_training == after and named in (None, s.label)
        ]
        if not found:
            raise PlanError(
                f"{recipe}: no law {kind} is about it" + (f" and called {named!r}" if named else "")
            )
        options.append(Option(architecture=architecture, D=1.0, recipe=recipe, source=found[0]))
    grid = np.geomspace(*ratios, _POINTS)
    tokens = grid * architecture.N
    price: Any = 0.0
    if overhead > 1:
        if evidence.baseline is None:
            raise PlanError("an overhead of QAT is priced by a baseline: what fewer tokens lose")
        point = evidence.baseline.point(architecture, 1.0, None)
        fewer = tokens / (1 + share * (overhead - 1))
        losses = [evidence.baseline.predict({**point, "D": each}) for each in (fewer, tokens)]
        price = losses[0] - losses[1]
    curves, drawn = [], []
    for option in options:
        assert option.source is not None
        at = {**option.source.point(architecture, 1.0, recipe), "D": tokens}
        curves.append(np.broadcast_to(option.source.predict(at), grid.shape))
        drawn.append(option.source.draws(at))
    gain = curves[1] - curves[0] - price
    draws = never = None
    if any(one is not None for one in drawn):
        both = [curve if one is None else one for curve, one in zip(curves, drawn, strict=True)]
        draws = _crossing(grid, np.atleast_2d(both[1] - both[0] - price) - worth)
        never = float(np.mean(np.isinf(draws)))
    value = float(_crossing(grid, np.atleast_2d(gain) - worth)[0])
    at_value = float(np.clip(value if value else ratios[0], *ratios)) * architecture.N
    qat_option, ptq_option = (replace(option, D=at_value) for option in options)
    sides = [evidence.delta(option) for option in (qat_option, ptq_option)]
    basis = sides[0].basis if sides[0].draws is not None else sides[1].basis
    return Repay(
        qat=qat_option,
        ptq=ptq_option,
        ratio=Forecast.of(value, draws, basis, farthest(*(s.outside for s in sides)), evidence.level),
        chance_never=never,
        at_ratio=grid,
        gain=np.asarray(gain),
    )


def _crossing(grid: FloatArray, above: FloatArray) -> FloatArray:
    """Where each row goes above 0 to stay there; 0 where it is there all along, infinite where it ends below."""
    below = above <= 0
    last = above.shape[1] - 1 - np.argmax(below[:, ::-1], axis=1)
    rows, left = np.arange(len(above)), np.clip(last, 0, above.shape[1] - 2)
    low, high = above[rows, left], above[rows, left + 1]
    share = np.clip(-low / np.where(high > low, high - low, 1.0), 0, 1)
    place = grid[left] * (grid[left + 1] / grid[left]) ** share
    place = np.where(last == above.shape[1] - 1, np.inf, place)
    return np.where(below.any(axis=1), place, 0.0)


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
    if not compute > 0 or not overhead >= 1:
        raise PlanError(f"compute={compute:g}, overhead={overhead:g}: FLOPs, and a cost from 1 on")
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
            found.append(_trained(evidence, recipe, source, compute / factor))
    found.sort(key=lambda one: one.loss.value)
    drawn = [one.loss.draws for one in found if one.loss.draws is not None]
    if not drawn:
        return found
    known = [one for one in found if one.loss.draws is not None or one.recipe is None]
    stacked = np.stack(
        [np.full(len(drawn[0]), k.loss.value) if k.loss.draws is None else k.loss.draws for k in known]
    )
    least = np.argmin(stacked, axis=0)
    chances = {id(one): float(np.mean(least == i)) for i, one in enumerate(known)}
    return [replace(one, chance=chances.get(id(one))) for one in found]


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
    for _ in range(60):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class QatShare:
    """How many of the tokens QAT should have."""

    share: float
    tokens: float
    tokens_per_byte: float  #: D over the bytes of N parameters at the bits: the law's variable S
    error: float | None  #: mean absolute error of the share, as printed
    outside: dict[str, float]


def qat_share(N: float, D: float, bits: float) -> QatShare:
    """The share of D tokens that QAT should have when full-precision training comes first.

    Raises:
        PlanError: A number is not positive.

    Example:
        >>> found = qat_share(N=1e9, D=50e9, bits=4)
        >>> round(found.share, 4), f"{found.tokens:.3g}"
        (0.2319, '1.16e+10')

    Source: arXiv:2509.22935, for weights alone.
    """
    if not (N > 0 and D > 0 and bits > 0):
        raise PlanError(f"N={N:g}, D={D:g}, bits={bits:g}: positive numbers")
    law = load(_QAT_FRACTION)
    s = 8 * D / (N * bits)
    share = optimal_qat_fraction(N=N, D=D, bits=bits, a=float(law.parameters["a"] or 0.0))
    error = law.diagnostics.get("mean_absolute_error_as_printed")
    outside = {k: float(v) for k, v in law.outside(S=s).items() if v > 1} if s > 1 else {}
    return QatShare(
        share=share,
        tokens=share * D,
        tokens_per_byte=s,
        error=float(error) if isinstance(error, (int, float)) else None,
        outside=outside,
    )
