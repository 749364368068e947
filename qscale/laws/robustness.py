"""How much the constants hang on choices that nobody can justify: the loss and the rule for outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qscale.laws import forms
from qscale.laws.estimate import Estimate
from qscale.laws.fit_sum import Wanted, estimate_of
from qscale.laws.objective import Objective
from qscale.laws.table import read_table

OBJECTIVES = ("huber:1e-4", "huber:1e-3", "huber:1e-2", "l2", "lad", "student:1e-2")
#: Rows left out: none; the share with the largest targets; those with large residuals.
OUTLIERS = ("none", "top 2%", "5 sd")
_FAR = 5.0  # robust standard deviations


def sensitivity(
    table: Any,
    form: str,
    *,
    objectives: Sequence[str] = OBJECTIVES,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The constants under every objective and rule for outliers: one dict a pair.

    ``none`` keeps all rows; ``top 2%`` leaves out the largest targets, as is often done with the smallest
    runs; ``5 sd`` leaves out rows whose residuals from a fit of absolute deviations are beyond five robust
    standard deviations.

    Args:
        table: As for :func:`qscale.laws.fit`.
        form: The id of a form with terms.
        objectives: As texts.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.
        columns: The table's own names of columns.

    Returns:
        Dicts with ``objective``, ``outliers``, ``rows`` and the form's constants.

    Raises:
        LawError: The table, the form or an objective is not valid.

    Example:
        >>> n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
        >>> rows = {"N": n, "D": d, "loss": 400 / n**0.34 + 1000 / d**0.33 + 1.7}
        >>> found = sensitivity(rows, "chinchilla", objectives=["l2"])
        >>> [(row["outliers"], row["rows"], round(row["alpha"], 4)) for row in found]
        [('none', 25, 0.34), ('top 2%', 24, 0.34), ('5 sd', 25, 0.34)]
    """
    data = read_table(table, forms.get(form), mode=mode, recipe=recipe, method=method, columns=columns)
    robust = estimate_of(data, Objective.parse("lad"), Wanted())
    rest = robust.residuals
    spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    keep = {
        "none": np.ones(len(data), dtype=bool),
        "top 2%": np.argsort(np.argsort(data.target)) < len(data) - max(1, round(0.02 * len(data))),
        "5 sd": np.abs(rest) <= max(_FAR * spread, 1e-9),
    }
    out = []
    for text in objectives:
        estimate = estimate_of(data, Objective.parse(text), Wanted())
        for rule, rows in keep.items():
            out.append(
                {"objective": text, "outliers": rule, "rows": int(rows.sum())} | _constants(estimate, rows)
            )
    return out


def _constants(estimate: Estimate, rows: Any) -> dict[str, float]:
    theta = estimate.restriction.theta(estimate.refit((rows * estimate.weight)[None]).theta[0])
    return {name: float(value) for name, value in estimate.design.raw(theta).items()}
