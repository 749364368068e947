"""Rules for the learning rate and the batch in size and data (Step Law)."""

from __future__ import annotations

from qscale.laws.forms.common import falls, grows
from qscale.laws.forms.form import D, Form, N, Parameter, Term

CITATION = "Li et al. 2025, Step Law, arXiv:2503.04715"

FORMS = (
    Form(
        id="step-law-rate",
        formula="eta = k * D^b / N^a",
        target="learning_rate",
        unit="1",
        parameters=(
            Parameter(name="k", meaning="scale"),
            Parameter(name="a", meaning="how fast the best rate falls with size"),
            Parameter(name="b", meaning="how fast it grows with data"),
        ),
        variables=(N, D),
        citation=CITATION,
        terms=(Term(scale="k", axes=(falls("N", "a"), grows("D", "b"))),),
        notes=(
            "the schedule of the fit ends at a fixed rate; with decay to 0 the rate need not grow with D",
        ),
    ),
    Form(
        id="step-law-batch",
        formula="batch = k * D^b",
        target="batch",
        unit="tokens",
        parameters=(
            Parameter(name="k", meaning="scale", unit="tokens"),
            Parameter(name="b", meaning="how fast the best batch grows with data"),
        ),
        variables=(D,),
        citation=CITATION,
        terms=(Term(scale="k", axes=(grows("D", "b"),)),),
    ),
)
