"""Loss against the shape of a model: width, depth, size and data, a power each (Gemstones)."""

from __future__ import annotations

from qscale.laws.forms.common import falls
from qscale.laws.forms.form import D, Form, N, Parameter, Term, Variable

CITATION = "McLeish et al. 2025, Gemstones, arXiv:2502.06857"
WIDTH = Variable(name="width", unit="hidden size", least=0.0, least_allowed=False)
DEPTH = Variable(name="depth", unit="layers", least=0.0, least_allowed=False)

_NAMES = {"width": ("W", "aW"), "depth": ("H", "aH"), "N": ("A", "alpha"), "D": ("B", "beta")}


def _sum_of_powers(form: str, variables: tuple[Variable, ...]) -> Form:
    named = [(variable.name, *_NAMES[variable.name]) for variable in variables]
    scales = [
        Parameter(name=scale, meaning=f"scale of the term in {name}", unit=f"nats/token * {name}^{exponent}")
        for name, scale, exponent in named
    ]
    exponents = [
        Parameter(name=exponent, meaning=f"how fast it falls with {name}") for name, _, exponent in named
    ]
    floor = Parameter(name="E", meaning="loss that nothing removes", unit="nats/token")
    terms = [Term(scale=scale, axes=(falls(name, exponent),)) for name, scale, exponent in named]
    return Form(
        id=form,
        formula=f"L = {' + '.join(f'{s} / {name}^{e}' for name, s, e in named)} + E",
        target="loss",
        parameters=(*scales, floor, *exponents),
        variables=variables,
        citation=CITATION,
        terms=(*terms, Term(scale="E")),
    )


FORMS = (
    _sum_of_powers("width-depth", (WIDTH, DEPTH, D)),
    _sum_of_powers("width-depth-size", (WIDTH, DEPTH, N, D)),
)
