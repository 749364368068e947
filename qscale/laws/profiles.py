"""The profile of a parameter: how much worse the fit is with it held elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qscale.errors import LawError
from qscale.laws import forms
from qscale.laws.design import reference_names
from qscale.laws.estimate import Profile
from qscale.laws.fit_sum import Wanted, estimate_of
from qscale.laws.objective import Objective
from qscale.laws.table import read_table


def profile(
    table: Any,
    form: str,
    parameter: str,
    *,
    objective: Objective | str = "l2",
    fix: Mapping[str, float] | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Profile:
    """Profile likelihood of one parameter at the reference point, in its own units.

    An interval that is open at an end says that the rows do not bound the parameter there, whatever its
    standard error is.

    Args:
        table: As for :func:`qscale.laws.fit`.
        form: The id of a form with terms.
        parameter: An exponent, a constant, or a scale at the reference point: ``alpha``, ``E``, ``A0``.
        objective: Of the fit.
        fix: Exponents or constants held.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.
        columns: The table's own names of columns.

    Raises:
        LawError: The table, form or parameter is not valid.

    Example:
        >>> import numpy as np
        >>> n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
        >>> loss = (400 / n**0.34 + 1000 / d**0.33 + 1.7) * (1 + 0.001 * np.sin(np.arange(36) ** 2))
        >>> low, high = profile({"N": n, "D": d, "loss": loss}, "chinchilla", "alpha").interval(0.9)
        >>> low < 0.34 < high
        True
    """
    data = read_table(table, forms.get(form), mode=mode, recipe=recipe, method=method, columns=columns)
    law_form = data.form
    chosen = objective if isinstance(objective, Objective) else Objective.parse(objective)
    estimate = estimate_of(data, chosen, Wanted(fix=dict(fix or {})))
    names = reference_names(law_form)
    if parameter not in names:
        raise LawError(f"profile: {parameter!r} is no parameter of {form!r}; these are: {', '.join(names)}")
    inner = estimate.design.names[names.index(parameter)]
    if inner in (fix or {}):
        raise LawError(f"profile: {parameter!r} is fixed")
    free = [name for name in estimate.design.names if name not in (fix or {})]
    is_log = inner in {name for term in law_form.terms for name in term.scale_names}
    return replace(estimate.profile(free.index(inner)), is_log=is_log)
