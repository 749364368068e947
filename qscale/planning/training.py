"""QAT or quantization after training: from where on it repays, and how many of the tokens it should have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qscale.errors import PlanError
from qscale.formats import Recipe
from qscale.laws import load
from qscale.laws.derived import optimal_qat_fraction
from qscale.laws.forms import FloatArray
from qscale.planning.architecture import Architecture
from qscale.planning.evidence import Evidence, Forecast, Option, farthest, point_of, weakest

_POINTS = 400  # of a scan along D
_QAT_FRACTION = "dremov2025/qat-fraction"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repay:
    """From which tokens for each parameter on QAT is worth its cost over quantization after training."""

    qat: Option
    ptq: Option
    ratio: Forecast  #: D / N; infinite: never, 0: always
    chance_never: float | None  #: the share of draws in which it never repays within the range
    at_ratio: FloatArray  #: D / N of the curve
    gain: FloatArray  #: nats per token that QAT saves there, its cost in tokens taken off
    outside: FloatArray  #: times outside the fitted boxes there, of the farthest variable; 1: inside


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
    if not 0 < share <= 1 or not 1 <= overhead < math.inf or not 0 < ratios[0] < ratios[1] < math.inf:
        raise PlanError(
            f"share={share:g}, overhead={overhead:g}, ratios={ratios}: a share up to 1, a cost "
            "from 1 on, a range"
        )
    if not math.isfinite(worth):
        raise PlanError(f"worth={worth:g}: a number of nats per token")
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
    if drawn[0] is not None and drawn[1] is not None:
        draws = _crossing(grid, np.atleast_2d(drawn[1] - drawn[0] - price) - worth)
        never = float(np.mean(np.isinf(draws)))
    value = float(_crossing(grid, np.atleast_2d(gain) - worth)[0])
    at_value = float(np.clip(value if value else ratios[0], *ratios)) * architecture.N
    qat_option, ptq_option = (replace(option, D=at_value) for option in options)
    sides = [evidence.delta(option) for option in (qat_option, ptq_option)]
    priced = [evidence.base(qat_option)] if overhead > 1 else []
    basis = weakest(*(side.basis for side in sides))
    return Repay(
        qat=qat_option,
        ptq=ptq_option,
        ratio=Forecast.of(
            value, draws, basis, farthest(*(s.outside for s in sides + priced)), evidence.level
        ),
        chance_never=never,
        at_ratio=grid,
        gain=np.asarray(gain),
        outside=np.array(
            [_times_outside(evidence, (qat_option, ptq_option), float(D), overhead) for D in tokens]
        ),
    )


def _times_outside(evidence: Evidence, options: Sequence[Option], D: float, overhead: float) -> float:
    """The farthest that the laws of a comparison, and the baseline where it prices one, are asked."""
    points = [(o.source, point_of(o.source, o)) for o in options if o.source is not None]
    if overhead > 1 and evidence.baseline is not None:
        points.append((evidence.baseline, point_of(evidence.baseline, options[0])))
    found = farthest(*(source.outside({**point, "D": D}) for source, point in points))
    return max(found.values(), default=1.0)


def _crossing(grid: FloatArray, above: FloatArray) -> FloatArray:
    """Where each row goes above 0 to stay; 0 where it is there all along, infinite where it ends below."""
    below = above <= 0
    last = above.shape[1] - 1 - np.argmax(below[:, ::-1], axis=1)
    rows, left = np.arange(len(above)), np.clip(last, 0, above.shape[1] - 2)
    low, high = above[rows, left], above[rows, left + 1]
    share = np.clip(-low / np.where(high > low, high - low, 1.0), 0, 1)
    place = grid[left] * (grid[left + 1] / grid[left]) ** share
    place = np.where(last == above.shape[1] - 1, np.inf, place)
    return np.where(below.any(axis=1), place, 0.0)


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
        PlanError: A number is not positive, or bits are more than 16.

    Example:
        >>> found = qat_share(N=1e9, D=50e9, bits=4)
        >>> round(found.share, 4), f"{found.tokens:.3g}"
        (0.2319, '1.16e+10')

    Source: arXiv:2509.22935, for weights alone.
    """
    if not (0 < N < math.inf and 0 < D < math.inf and 0 < bits <= 16):
        raise PlanError(f"N={N:g}, D={D:g}, bits={bits:g}: positive numbers, of bits at most 16")
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
