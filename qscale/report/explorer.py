"""What the page's law explorer is given: laws as their files have them, forms as terms, formats as bits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qscale.errors import LawError, QScaleError, SpecError
from qscale.formats import QuantSpec, Recipe
from qscale.laws import Law
from qscale.laws.design import fitted_names, reference_names
from qscale.laws.forms import Form
from qscale.planning import bits_per_weight

#: Beside every study: laws of delta, then laws of the total loss. The first of either is chosen first.
PUBLISHED = ("chen2025/w4a4", "chen2025/w4a16", "chen2025/w16a4")
BASELINES = ("chen2025/baseline", "hoffmann2022/chinchilla")

#: Weight formats whose bytes can be asked for; ``{G}`` is the number of elements that share a scale.
FORMATS = (
    "int8:g{G}",
    "int6:g{G}",
    "int5:g{G}",
    "int4:g{G}",
    "int4:g{G}:asym",
    "int3:g{G}",
    "int2:g{G}",
    "fp8_e4m3:g{G}",
    "fp6_e2m3:g{G}",
    "fp4_e2m1:g{G}",
    "nf4:g{G}",
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
)
UNQUANTIZED = "bf16"
_PROBE = 32  # a group at which the bits of a scale and of its zero point are read off
_FULL_BITS = 16


def describe(
    delta_laws: Mapping[str, Law],
    loss_laws: Mapping[str, Law],
    totals: Mapping[float, float],
) -> dict[str, Any]:
    """Everything that ``explorer.js`` computes from: plain values, ready for JSON.

    Args:
        delta_laws: By the name that is shown: laws to choose from, of a delta or of a loss.
        loss_laws: Laws of the unquantized loss in N and D.
        totals: All parameters of a model by N, as a study counted them.

    Returns:
        ``laws`` and ``baselines`` (name, weight format, the law file's content), ``forms`` by id,
        ``formats``, ``totals``, and ``left_out``: a sentence for each law that is not there.
    """
    laws, left = _kept(delta_laws, targets=("delta", "loss"))
    baselines, left_too = _kept(loss_laws, targets=("loss",))
    forms = {law.form.id: form_description(law.form) for _, law in [*laws, *baselines]}
    return {
        "laws": [_entry(name, law) for name, law in laws],
        "baselines": [_entry(name, law) for name, law in baselines],
        "forms": forms,
        "formats": formats(),
        "totals": sorted([float(n), float(total)] for n, total in totals.items()),
        "left_out": [*left, *left_too],
    }


def form_description(form: Form) -> dict[str, Any]:
    """The terms, scales and axes of a form, and the domain of its variables.

    Raises:
        LawError: The form has no terms.

    Example:
        >>> from qscale.laws import forms
        >>> form_description(forms.get("qat-power"))["terms"][0]["axes"][0]
        {'parameter': 'gN', 'variable': 'N', 'sign': -1, 'transform': 'identity'}
    """
    if not form.terms:
        raise LawError(f"form {form.id!r} is no sum of products of powers: it has no terms")
    return {
        "formula": form.formula,
        "target": form.target,
        "unit": form.unit,
        "variables": [
            {
                "name": v.name,
                "unit": v.unit,
                "least": v.least,
                "least_allowed": v.least_allowed,
                "most": v.most if v.most < float("inf") else None,
                "levels": list(v.levels),
            }
            for v in form.variables
        ],
        "terms": [
            {
                "scale": term.scale,
                "by": term.by,
                "levels": list(term.levels),
                "axes": [
                    {
                        "parameter": a.parameter,
                        "variable": a.variable,
                        "sign": a.sign,
                        "transform": a.transform,
                    }
                    for a in term.axes
                ],
            }
            for term in form.terms
        ],
        "at_reference": dict(zip(fitted_names(form), reference_names(form), strict=True)),
    }


def formats() -> list[dict[str, Any]]:
    """Weight formats with their bits: ``bits + shared / G``, or ``bits`` where the block is the format's own.

    Example:
        >>> for row in formats():
        ...     if row["name"] in ("int4", "mxfp4"):
        ...         print(row)
        {'name': 'int4', 'bits': 4.0, 'shared': 16.0, 'code': 4}
        {'name': 'mxfp4', 'bits': 4.25, 'shared': 0.0, 'code': 4}
    """
    found: list[dict[str, Any]] = [
        {"name": UNQUANTIZED, "bits": float(_FULL_BITS), "shared": 0.0, "code": _FULL_BITS}
    ]
    for pattern in FORMATS:
        text = pattern.format(G=_PROBE)
        code = QuantSpec.parse(text).num_bits
        bits = bits_per_weight(text)
        grouped = "{G}" in pattern
        found.append(
            {
                "name": pattern.replace(":g{G}", ""),
                "bits": float(code) if grouped else bits,
                "shared": (bits - code) * _PROBE if grouped else 0.0,
                "code": code,
            }
        )
    return found


def weight_format(law: Law) -> str:
    """The name in :func:`formats` of what a law's recipe stores weights in; ``bf16`` where it says nothing.

    >>> from qscale import laws
    >>> weight_format(laws.load("chen2025/w4a4")), weight_format(laws.load("chen2025/w16a4"))
    ('int4', 'bf16')
    """
    known = {row["name"] for row in formats()}
    recipe = law.quantization.get("recipe") or ""
    head, comma, rest = recipe.partition(",")
    for text in (recipe, f"{head}:g{_PROBE}{comma}{rest}"):
        try:
            spec = Recipe.parse(text).weight
        except (SpecError, QScaleError):
            continue
        if spec is None:
            return UNQUANTIZED
        name = spec.format + ("" if spec.symmetric else ":asym")
        return name if name in known else UNQUANTIZED
    return UNQUANTIZED


def _kept(laws: Mapping[str, Law], targets: Iterable[str]) -> tuple[list[tuple[str, Law]], list[str]]:
    kept: list[tuple[str, Law]] = []
    left = []
    for name, law in laws.items():
        why = None
        if not law.usable:
            why = f"it cannot be evaluated: {law.status}"
        elif not law.form.terms:
            why = f"its form {law.form.id} is no sum of products of powers; qscale predict evaluates it"
        elif law.form.target not in targets:
            why = f"it is a law of {law.form.target}"
        elif any(kept_law == law for _, kept_law in kept):
            continue
        if why is None:
            kept.append((name, law))
        else:
            left.append(f"{name} is left out: {why}.")
    return kept, left


def _entry(name: str, law: Law) -> dict[str, Any]:
    return {"name": name, "format": weight_format(law), "file": json.loads(law.dumps())}
