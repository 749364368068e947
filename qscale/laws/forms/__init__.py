"""The registry of law forms. A new form is one entry in the file of its kind."""

from __future__ import annotations

import re
from difflib import get_close_matches

from qscale.errors import LawError
from qscale.laws.forms import (
    chinchilla,
    curves,
    efficiency,
    farseer,
    floating_point,
    hyperparameters,
    kaplan,
    one_variable,
    precision,
    ptq,
    qat,
    repetition,
    shape,
    split,
)
from qscale.laws.forms.form import (
    ABSENT,
    FloatArray,
    Form,
    Inputs,
    LogAxis,
    Parameter,
    Params,
    Term,
    Variable,
    level_name,
)

__all__ = [
    "ABSENT",
    "FORMS",
    "FloatArray",
    "Form",
    "Inputs",
    "LogAxis",
    "Parameter",
    "Params",
    "Term",
    "Variable",
    "fittable",
    "get",
    "level_name",
]

_KINDS = (
    qat,
    ptq,
    precision,
    floating_point,
    efficiency,
    split,
    chinchilla,
    shape,
    farseer,
    repetition,
    kaplan,
    one_variable,
    curves,
    hyperparameters,
)

#: Every form by id.
FORMS: dict[str, Form] = {form.id: form for kind in _KINDS for form in kind.FORMS}

_LEVELLED = re.compile(r"([^\[]+)\[(.+)\]")


def get(form: str) -> Form:
    """The form of an id; ``eff-table[P=3,4,16]`` is ``eff-table`` with these levels.

    Raises:
        LawError: No such form; the nearest id and all ids are named.

    Example:
        >>> get("qat-unified").formula
        'delta = k * D^gD * (log2 G)^gG / N^gN'
        >>> get("qat-table[P=3,4]").names
        ('k[3]', 'k[4]', 'gN', 'gD')
    """
    if form in FORMS:
        return FORMS[form]
    if (found := _LEVELLED.fullmatch(str(form))) and found[1] in FORMS:
        pairs = (part.partition("=") for part in found[2].split(";"))
        return FORMS[found[1]].with_levels({name: levels.split(",") for name, _, levels in pairs})
    nearest = get_close_matches(str(form), FORMS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise LawError(f"unknown law form {form!r}; {hint}known: {', '.join(FORMS)}")


def fittable() -> list[str]:
    """The ids of the forms that :func:`qscale.laws.fit` can fit."""
    return [form.id for form in FORMS.values() if form.terms or form.start]
