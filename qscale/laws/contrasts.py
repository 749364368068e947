"""Two methods, or modes, on the same runs: the law of the ratio of their deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qscale.errors import LawError
from qscale.laws import forms
from qscale.laws.columns import read_columns
from qscale.laws.fitting import fit
from qscale.laws.law import Law
from qscale.laws.table import Table, read_table

#: What two sets of runs may differ in.
SIDES = ("method", "mode", "recipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How the delta of one set of runs compares with that of another, run by run."""

    first: str
    second: str
    law: Law  #: of ``delta(first) / delta(second)``: its exponents are differences of exponents
    pairs: int
    unpaired: tuple[int, int]  #: rows of either that the other has no match for
    not_positive: int  #: pairs left out, since one of their deltas is not above 0

    def share_below(self, **at: Any) -> float:
        """The share of draws in which the first has the smaller delta at a point (``N=1e6, D=1e8, G=32``).

        Raises:
            LawError: The law has no draws, or a variable is missing.
        """
        return float(np.mean(np.asarray(self.law.draws(**at)) < 1))


def contrast(
    table: Any,
    first: str,
    second: str,
    *,
    by: str = "method",
    form: str = "qat-unified",
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
    fix: Mapping[str, float] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.9,
) -> Contrast:
    """Fit ``delta(first) / delta(second)`` over runs that agree in all else.

    Runs that are compared with one baseline share its noise and that of its weights, and in the ratio it
    cancels: an exponent of the ratio is the difference of the two laws' exponents, with an interval that is
    narrower than theirs. The standard error of a ratio is as if the two errors were independent, which is
    too wide where they are of the same text.

    Args:
        table: As for :func:`qscale.laws.fit`.
        first: The value of ``by`` of one set, such as ``gptq``.
        second: That of the other, such as ``rtn``.
        by: ``method``, ``mode`` or ``recipe``.
        form: Of one term, such as ``qat-unified``.
        mode: Keep the rows of this mode.
        recipe: Keep the rows of this recipe; ``w4a4`` means whatever its granularity.
        method: Keep the rows of this method; where ``by`` is ``mode``, of the rows that have one.
        columns: The table's own names of columns.
        fix: Differences of exponents held at a value, such as ``{"gG": 0.0}``.
        bootstrap: Draws kept in the law.
        seed: Of the draws.
        level: Of the intervals at the reference point.

    Raises:
        LawError: No column ``by``, no rows of a value, no two rows that agree, or as ``fit`` raises.
        FitError: As ``fit`` raises.

    Example:
        >>> rows = [{"N": n, "D": d * n, "G": g, "seed": 0, "method": m, "delta": a * n**-0.2 * d**b * g**0.2}
        ...         for n in (2e4, 2e5, 2e6) for d in (20, 80) for g in (16, 64)
        ...         for m, a, b in (("rtn", 0.4, 0.5), ("gptq", 0.2, 0.3))]
        >>> found = contrast(rows, "gptq", "rtn")
        >>> found.pairs, round(found.law.parameters["gD"], 6)
        (12, -0.2)
    """
    if by not in SIDES:
        raise LawError(f"by={by!r}: two sets of runs differ in one of {', '.join(SIDES)}")
    if first == second:
        raise LawError(f"{first!r} against itself: name two values of {by}")
    chosen = forms.get(form)
    if not chosen.axes:
        raise LawError(f"law form {form!r} has more than one term: a ratio is no such law; use qat-unified")
    raw = read_columns(table)
    keep = {"mode": mode, "recipe": recipe, "method": method}
    sides = []
    for value in (first, second):
        wanted = {**keep, by: value}
        if by == "mode" and value != "ptq":
            wanted["method"] = None
        sides.append(read_table(raw, chosen, columns=columns, **wanted))
    keys = [_keys(side, raw, by) for side in sides]
    common = [key for key in keys[0] if key in keys[1]]
    unpaired = (len(sides[0]) - len(common), len(sides[1]) - len(common))
    if not common:
        raise LawError(f"{first} and {second} have no two runs of one {', '.join(sides[0].variables)}, seed")
    places = [(keys[0][key], keys[1][key]) for key in common]
    positive = [(i, j) for i, j in places if sides[0].target[i] > 0 and sides[1].target[j] > 0]
    if not positive:
        raise LawError(f"{first} against {second}: no pair has two deltas above 0, so there is no ratio")
    rows = [_ratio(sides, i, j) for i, j in positive]
    return Contrast(
        first=first,
        second=second,
        law=fit(rows, form, fix=fix, bootstrap=bootstrap, seed=seed, level=level),
        pairs=len(rows),
        unpaired=unpaired,
        not_positive=len(places) - len(rows),
    )


def _keys(side: Table, raw: Mapping[str, list[Any]], by: str) -> dict[tuple[Any, ...], int]:
    """What tells a run of one side from the others of it, and its place in the table.

    Raises:
        LawError: Two runs agree in all that may tell them apart.
    """
    names = [
        name for name in ("seed", "ladder", "recipe", "tokenizer", "family") if name in raw and name != by
    ]
    found: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(side.rows):
        values = (float(column[place]) for column in side.variables.values())
        key = (*values, *(str(raw[name][row - 1]) for name in names))
        if key in found:
            raise LawError(
                f"rows {side.rows[found[key]]} and {row} agree in {', '.join([*side.variables, *names])}: "
                "which of them is to be paired? Add the column that tells them apart"
            )
        found[key] = place
    return found


def _ratio(sides: list[Table], first: int, second: int) -> dict[str, Any]:
    ratio = sides[0].target[first] / sides[1].target[second]
    relative = [side.target_se[i] / side.target[i] for side, i in zip(sides, (first, second), strict=True)]
    return {
        **{name: float(column[first]) for name, column in sides[0].variables.items()},
        "ladder": int(sides[0].ladder[first]),
        sides[0].form.target: float(ratio),
        f"{sides[0].form.target}_se": float(ratio * np.hypot(*relative)),
    }
