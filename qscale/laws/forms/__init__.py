"""The registry of law forms. A new form is one entry in the file of its kind."""

from __future__ import annotations

from difflib import get_close_matches

from qscale.errors import LawError
from qscale.laws.forms import chinchilla, qat
from qscale.laws.forms.form import FloatArray, Form, Inputs, LogAxis, Parameter, Params, Term, Variable

__all__ = [
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
]

#: Every form by id.
FORMS: dict[str, Form] = {form.id: form for module in (chinchilla, qat) for form in module.FORMS}


def get(form: str) -> Form:
    """The form of an id.

    Raises:
        LawError: No such form; the nearest id and all ids are named.

    Example:
        >>> get("qat-unified").formula
        'delta = k * D^gD * (log2 G)^gG / N^gN'
    """
    if form in FORMS:
        return FORMS[form]
    nearest = get_close_matches(str(form), FORMS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise LawError(f"unknown law form {form!r}; {hint}known: {', '.join(FORMS)}")


def fittable() -> list[str]:
    """The ids of the forms that :func:`qscale.laws.fit` can fit."""
    return [form.id for form in FORMS.values() if form.axes]
