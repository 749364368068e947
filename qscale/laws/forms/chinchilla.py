"""Loss against size and data: Chinchilla and its relatives."""

from __future__ import annotations

from qscale.laws.forms.common import CHINCHILLA, CHINCHILLA_TERMS, falls, grows
from qscale.laws.forms.form import D, Form, N, Parameter, Term, Variable

FORMS = (
    Form(
        id="chinchilla",
        formula="L = A / N^alpha + B / D^beta + E",
        target="loss",
        parameters=CHINCHILLA,
        variables=(N, D),
        citation="Hoffmann et al. 2022, arXiv:2203.15556",
        terms=CHINCHILLA_TERMS,
    ),
    Form(
        id="chinchilla-tied",
        formula="L = A / N^alpha + B / D^alpha + E",
        target="loss",
        parameters=tuple(p for p in CHINCHILLA if p.name != "beta"),
        variables=(N, D),
        citation="Chen et al. 2025, arXiv:2505.14302",
        terms=(
            Term(scale="A", axes=(falls("N", "alpha"),)),
            Term(scale="B", axes=(falls("D", "alpha"),)),
            Term(scale="E"),
        ),
    ),
    Form(
        id="over-training",
        formula="L = E + (a * M^eta + b / M^eta) / C^eta",
        target="loss",
        parameters=(
            Parameter(name="E", meaning="loss that compute does not remove", unit="nats/token"),
            Parameter(name="a", meaning="scale of the size term", unit="nats/token * FLOP^eta"),
            Parameter(name="b", meaning="scale of the data term", unit="nats/token * FLOP^eta"),
            Parameter(name="eta", meaning="how fast both terms fall with compute"),
        ),
        variables=(
            Variable(name="C", unit="training compute, FLOP", least=0.0, least_allowed=False),
            Variable(name="M", unit="training tokens per parameter", least=0.0, least_allowed=False),
        ),
        citation="Gadre et al. 2024, arXiv:2403.08540",
        terms=(
            Term(scale="E"),
            Term(scale="a", axes=(grows("M", "eta"), falls("C", "eta"))),
            Term(scale="b", axes=(falls("M", "eta"), falls("C", "eta"))),
        ),
        notes=("the paper's constants are not at hand: the form alone",),
    ),
)
