"""Loss against size and data: Chinchilla."""

from __future__ import annotations

from qscale.laws.forms.form import D, Form, LogAxis, N, Parameter, Term

FORMS = (
    Form(
        id="chinchilla",
        formula="L = A / N^alpha + B / D^beta + E",
        target="loss",
        parameters=(
            Parameter(name="A", meaning="scale of the size term", unit="nats/token * N^alpha"),
            Parameter(name="B", meaning="scale of the data term", unit="nats/token * D^beta"),
            Parameter(name="E", meaning="loss that neither size nor data removes", unit="nats/token"),
            Parameter(name="alpha", meaning="how fast the size term falls"),
            Parameter(name="beta", meaning="how fast the data term falls"),
        ),
        variables=(N, D),
        citation="Hoffmann et al. 2022, arXiv:2203.15556",
        terms=(
            Term(scale="A", axes=(LogAxis(parameter="alpha", variable="N", sign=-1),)),
            Term(scale="B", axes=(LogAxis(parameter="beta", variable="D", sign=-1),)),
            Term(scale="E"),
        ),
    ),
)
