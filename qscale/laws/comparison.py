"""Which of several forms describes the rows best: information criteria, errors left out, paired draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError
from qscale.laws import forms
from qscale.laws.estimate import Estimate
from qscale.laws.fit_sum import Wanted, estimate_of
from qscale.laws.forms import FloatArray
from qscale.laws.objective import Objective
from qscale.laws.table import Table, read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one form does."""

    form: str
    parameters: int
    sse: float  #: sum of squared residuals of the logarithm
    rms: float  #: root of their mean
    aicc: float
    bic: float
    left_out: float  #: mean relative error on cells left out of the fit
    errors: FloatArray  #: that error of each row
    status: str  #: ``converged``, or why not


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scores in the order of the smaller error on rows left out."""

    scores: tuple[Score, ...]
    cluster: NDArray[np.intp]  #: of each row
    notes: tuple[str, ...]  #: what was left out of the table

    def difference(
        self, first: str, second: str, *, draws: int = 2000, seed: int = 0, level: float = 0.9
    ) -> Any:
        """Mean error left out of the first form less that of the second.

        Returns ``(difference, low, high, share of draws below 0)``.

        The interval is of a bootstrap over clusters in which both forms have the same rows: a form is better
        than another where it excludes 0, and 1% less error in one sample is nothing.

        Raises:
            LawError: A form was not compared.
        """
        errors = {score.form: score.errors for score in self.scores}
        for name in (first, second):
            if name not in errors:
                raise LawError(f"form {name!r} was not compared; these were: {', '.join(errors)}")
        gap = errors[first] - errors[second]
        clusters = int(self.cluster.max()) + 1
        counts = np.random.default_rng(seed).multinomial(
            clusters, np.full(clusters, 1 / clusters), size=draws
        )
        weight = counts[:, self.cluster]
        means = weight @ gap / np.maximum(weight.sum(axis=1), 1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(gap.mean()), float(low), float(high), float(np.mean(means < 0))


def compare(
    table: Any,
    candidates: Sequence[str],
    *,
    objective: Objective | str = "l2",
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Comparison:
    """Fit several forms to the same rows.

    With k parameters beside the noise's ``AICc = n ln(SSE / n) + 2 (k + 1) + 2 (k + 1)(k + 2) / (n - k - 2)``
    and ``BIC = n ln(SSE / n) + (k + 1) ln n``.

    Args:
        table: As for :func:`qscale.laws.fit`.
        candidates: Ids of forms with terms and of one target.
        objective: Of every fit.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.
        columns: The table's own names of columns.

    Raises:
        LawError: A form has no terms or another target, or the table is not valid.

    Example:
        >>> n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
        >>> rows = {"N": n, "D": d, "G": 2.0 ** (4 + np.arange(25) % 4), "delta": 0.2 * n**-0.2 * d**0.1}
        >>> [score.form for score in compare(rows, ["qat-unified"]).scores]
        ['qat-unified']

    Source: Burnham and Anderson 2002 (AICc); Schwarz 1978 (BIC).
    """
    chosen = objective if isinstance(objective, Objective) else Objective.parse(objective)
    scores = []
    data: Table | None = None
    for name in candidates:
        form = forms.get(name)
        if not form.terms:
            raise LawError(f"law form {name!r} has no terms: it is not compared")
        found = read_table(table, form, mode=mode, recipe=recipe, method=method, columns=columns)
        if data is not None and not np.array_equal(np.sort(found.target), np.sort(data.target)):
            raise LawError(f"law form {name!r} takes other rows or another target than {candidates[0]!r}")
        data = found
        scores.append(_score(name, estimate_of(found, chosen, Wanted()), found))
    if data is None:
        raise LawError("no forms to compare")
    return Comparison(
        scores=tuple(sorted(scores, key=lambda s: s.left_out)),
        cluster=data.ladder[np.argsort(data.rows)],
        notes=data.notes,
    )


def _score(name: str, estimate: Estimate, data: Table) -> Score:
    rows, free = estimate.problem.design.shape[1:]
    rest = estimate.problem.log_value(estimate.phi) - np.log(np.abs(data.target))
    sse = float(rest @ rest)
    cells = np.unique(data.cell)
    keep = data.cell[None, :] != cells[:, None]
    refits = estimate.refit(keep * estimate.weight)
    errors = np.abs(estimate.problem.value(refits.theta) / data.target - 1)
    each = errors[np.searchsorted(cells, data.cell), np.arange(rows)]
    order = np.argsort(data.rows)
    fit = rows * np.log(max(sse, 1e-300) / rows)
    spare = rows - free - 2
    return Score(
        form=name,
        parameters=free,
        sse=sse,
        rms=float(np.sqrt(sse / rows)),
        aicc=fit + 2 * (free + 1) + (2 * (free + 1) * (free + 2) / spare if spare > 0 else np.inf),
        bic=fit + (free + 1) * np.log(rows),
        left_out=float(each.mean()),
        errors=each[order],
        status="converged" if estimate.converged else "not_converged",
    )
