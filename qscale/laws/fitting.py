"""From observations to a law: ``fit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from qscale.errors import FitError, LawError
from qscale.laws import forms
from qscale.laws.estimate import Resampling
from qscale.laws.fit_function import fit_function
from qscale.laws.fit_product import fit_product
from qscale.laws.fit_sum import Wanted, fit_sum
from qscale.laws.forms import Form
from qscale.laws.law import Law
from qscale.laws.objective import Objective
from qscale.laws.table import read_table

_FEWEST_DRAWS, _MOST_DRAWS = 50, 10_000
_LARGEST_FIXED = 100.0  # no exponent of a law is near it, and powers of it overflow


def fit(
    table: Any,
    form: str = "qat-unified",
    *,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
    objective: Objective | str | None = None,
    fix: Mapping[str, float] | None = None,
    tie: Mapping[str, str] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior: Mapping[str, tuple[float, float]] | None = None,
    borrow: Law | None = None,
    cell_effects: bool = False,
    resample: Resampling = "cluster",
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.9,
) -> Law:
    """Fit a law form to observations.

    A form of one term, and no ``objective``: weighted least squares on ln delta, ``minimize sum_i (ln delta_i
    - ln f(x_i))^2 / v_i``, ``v_i = (delta_se_i / f(x_i))^2 + seed_sd^2``. ``seed_sd`` is pooled over cells
    that were run with several seeds (:func:`qscale.laws.noise.replicate_sd`); without such cells it is what
    the residual scatter asks for, and chi-square then says nothing about the form. Where some delta is not
    positive, the same sum is taken over ``delta_i / f(x_i) - 1`` by nonlinear least squares. Intervals: see
    :func:`qscale.laws.uncertainty.ladder_draws`.

    Any other form, and this with an ``objective``: the sum of a loss of residuals
    (:class:`qscale.laws.objective.Objective`), from 16 starts to the lowest optimum; intervals are of a
    bootstrap. Sums of terms start by variable projection and go by Newton's method, forms that are no such
    sums through ``scipy.optimize.least_squares`` (:mod:`qscale.laws.fit_function`).

    Args:
        table: DataFrame, dict of arrays, list of dicts, or CSV or Parquet path; columns as in
            :func:`qscale.laws.table.read_table`. N and D in raw counts, losses in nats per token.
        form: Its id: ``qat-unified``, ``chinchilla``, ...
        mode: Keep the rows of this mode (``baseline``, ``scratch``, ``cooldown``, ``finetune``, ``ptq``).
        recipe: Keep the rows of this recipe; ``w4a4`` means whatever its granularity.
        method: Keep the rows of this method of quantization after training, such as ``gptq``.
        columns: The table's own name of a column, such as ``{"N": "params", "loss": "final_loss"}``.
        objective: Such as ``"huber:1e-3"``, ``"l2"``, ``"lad"``, ``"student:0.01"``, ``"raw:l2"``. By default
            weighted least squares for forms of one term, else ``huber:1e-3``.
        fix: Exponents, or constants, held at a value, such as ``{"gG": 0.78}``.
        tie: Exponents equal to another one, such as ``{"beta": "alpha"}``; with an objective, as all below.
        bounds: Ends of an exponent or constant.
        prior: Mean and standard deviation of a normal prior of an exponent, beside the noise of the rows.
        borrow: A law of another family, whose exponents become priors with the spread of its draws, doubled.
        cell_effects: In a joint form of baseline and delta, such as ``joint-table``: what the runs of one
            ladder and D have in common is drawn from a normal distribution (:mod:`qscale.laws.effects`); of
            the objective ``l2``, which is then the default.
        resample: How draws are made: ``cluster`` (ladders), ``case`` (rows) or ``wild``.
        bootstrap: Draws kept in the law, 50 to 10,000.
        seed: Of the draws.
        level: Of the intervals at the reference point.

    Returns:
        A law. Its ``status`` is ``converged``, or begins with ``not_identified`` and says why: then the
        parameters that the rows do not determine are None and the law refuses to predict.

    Raises:
        LawError: The table, form or an option is not valid, or the rows mix modes, recipes or corpora.
        FitError: Rows with a delta that is not positive leave too few to fit.

    Example:
        >>> rows = [{"N": n, "D": d * n, "G": g, "delta": 0.3 * n**-0.2 * (d * n) ** 0.1 * (g / 32) ** 0.2}
        ...         for n in (2e4, 2e5, 2e6) for d in (20, 80) for g in (16, 64)]
        >>> law = fit(rows)
        >>> law.status, round(law.parameters["gN"], 6), round(law.parameters["gD"], 6)
        ('converged', 0.2, 0.1)

    Source: form and its exponents, arXiv:2505.14302. Checks of the intervals: :mod:`qscale.laws.uncertainty`.
    """
    law_form = _fittable(form)
    _check_options(law_form, fix or {}, bootstrap, seed, level)
    if resample not in get_args(Resampling):
        raise LawError(f"resample={resample!r}; wanted {', '.join(get_args(Resampling))}")
    data = read_table(table, law_form, mode=mode, recipe=recipe, method=method, columns=columns)
    options = {"bootstrap": int(bootstrap), "seed": int(seed), "level": float(level)}
    chosen = _objective(law_form, objective or ("l2" if cell_effects else None))
    if cell_effects and (not law_form.by or str(chosen) != str(Objective())):
        raise LawError(
            "cell_effects go with a joint form, such as joint-table, and the objective l2 of log residuals"
        )
    restrictions = Wanted(
        fix=dict(fix or {}),
        tie=dict(tie or {}),
        bounds=_pairs("bounds", bounds or {}),
        prior=_pairs("prior", prior or {}) | _borrowed(borrow),
        cell_effects=cell_effects,
    )
    if chosen is None and (
        restrictions.tie or restrictions.bounds or restrictions.prior or resample != "cluster"
    ):
        raise LawError(
            "tie, bounds, prior, borrow and resample go with an objective, such as objective='l2' "
            "(command line: --objective l2)"
        )
    if not law_form.terms and (restrictions.tie or restrictions.bounds or restrictions.prior):
        raise LawError(f"law form {form!r} is no sum of terms: it takes no tie, bounds, prior or borrow")
    try:
        with np.errstate(all="ignore"):  # absurd numbers end in a status (_wild), not in warnings
            if chosen is None:
                return fit_product(data.form, data, restrictions.fix, options)
            if not law_form.terms:
                return fit_function(data, chosen, restrictions.fix, options | {"resample": resample})
            return fit_sum(data, chosen, restrictions, options | {"resample": resample})
    except np.linalg.LinAlgError as err:
        raise FitError("the numbers of the table are too far apart to fit: is a value wrong?") from err


def _objective(form: Form, given: Objective | str | None) -> Objective | None:
    """None: weighted least squares of a form of one term."""
    if given is None and form.axes:
        return None
    return given if isinstance(given, Objective) else Objective.parse(given or "huber:1e-3")


def _borrowed(law: Law | None) -> dict[str, tuple[float, float]]:
    """Priors of exponents from another law, twice as wide as its own draws."""
    if law is None:
        return {}
    if law.draws_table is None:
        raise LawError(
            f"borrow: law {law.name or law.law_id[:15]!r} has no draws: hold its exponents with fix"
        )
    exponents = {axis.parameter for term in law.form.terms for axis in term.axes}
    at = law.draws_table.columns
    values = law.draws_table.values
    return {
        name: (float(np.mean(values[:, at.index(name)])), 2 * float(np.std(values[:, at.index(name)])))
        for name in sorted(exponents & set(at))
        if name not in law.fixed
    }


def _fittable(form: str) -> Form:
    found = forms.get(form)
    if not found.terms and not found.start:
        raise LawError(
            f"law form {form!r} can be evaluated, not fitted; these can: {', '.join(forms.fittable())}"
        )
    return found


def _check_options(form: Form, fix: Mapping[str, float], bootstrap: int, seed: int, level: float) -> None:
    constants = [term.scale for term in form.terms if not term.axes and term.by is None]
    allowed = (
        list(form.names)
        if not form.terms
        else list(dict.fromkeys([axis.parameter for term in form.terms for axis in term.axes] + constants))
    )
    if not isinstance(fix, Mapping):
        raise LawError(f"fix={fix!r}: give exponents and their values, such as {{'gG': 0.78}}")
    for name, value in fix.items():
        if name not in allowed:
            raise LawError(
                f"fix: {name!r} is not an exponent of {form.id!r}; these are: {', '.join(allowed)}"
            )
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            raise LawError(f"fix: {name}={value!r} is not a finite number")
        if form.terms and name not in constants and abs(value) > _LARGEST_FIXED:
            raise LawError(f"fix: {name}={value:g}; an exponent is held between +-{_LARGEST_FIXED:g}")
    if not _whole(bootstrap) or not _FEWEST_DRAWS <= bootstrap <= _MOST_DRAWS:
        raise LawError(f"bootstrap={bootstrap}: a law keeps {_FEWEST_DRAWS} to {_MOST_DRAWS} draws")
    if not _whole(seed) or seed < 0:
        raise LawError(f"seed={seed}: the seed of the draws is a whole number, 0 or more")
    if not isinstance(level, (int, float, np.floating)) or not 0 < level < 1:
        raise LawError(f"level={level}: an interval's level is between 0 and 1, such as 0.9")


def _pairs(option: str, given: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Pairs as a law file can hold them: of finite numbers."""
    for name, pair in given.items():
        if len(pair) != 2 or not all(np.isfinite(value) for value in pair):
            raise LawError(f"{option}: {name}={pair}; wanted two finite numbers")
    return {name: (float(first), float(second)) for name, (first, second) in given.items()}


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
