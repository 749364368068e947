"""The laws of Kaplan et al.: one power a variable, and no loss that nothing removes.

``(Nc / N)^aN`` is written ``A / N^aN`` with ``A = Nc^aN`` where it is a term of a sum.
"""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import falls
from qscale.laws.forms.form import D, FloatArray, Form, Inputs, N, Parameter, Params, Term, Variable

CITATION = "Kaplan et al. 2020, arXiv:2001.08361"
PF_DAYS = Variable(name="C", unit="training compute, PF-days (8.64e19 FLOP)", least=0.0, least_allowed=False)
STEPS = Variable(
    name="S", unit="optimizer steps at a batch far above critical", least=0.0, least_allowed=False
)


def _one(form: str, variable: Variable, scale: str, exponent: str) -> Form:
    name = variable.name
    return Form(
        id=form,
        formula=f"L = {scale} / {name}^{exponent}",
        target="loss",
        parameters=(
            Parameter(name=scale, meaning=f"{name}c^{exponent}", unit=f"nats/token * {name}^{exponent}"),
            Parameter(name=exponent, meaning=f"how fast the loss falls with {name}"),
        ),
        variables=(variable,),
        citation=CITATION,
        terms=(Term(scale=scale, axes=(falls(name, exponent),)),),
    )


def _size_data(p: Params, x: Inputs) -> FloatArray:
    return np.asarray(_bracket(p, x)[1] ** p["aD"])


def _bracket(p: Params, x: Inputs) -> tuple[FloatArray, FloatArray]:
    size = (p["Nc"] / x["N"]) ** (p["aN"] / p["aD"])
    return size, size + p["Dc"] / x["D"]


def _size_data_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    size, bracket = _bracket(p, x)
    outer = bracket ** (p["aD"] - 1)
    log = np.log(p["Nc"] / x["N"])
    return {
        "Nc": outer * size * p["aN"] / p["Nc"],
        "Dc": outer * p["aD"] / x["D"],
        "aN": outer * size * log,
        "aD": outer * (bracket * np.log(bracket) - size * log * p["aN"] / p["aD"]),
    }


FORMS = (
    _one("kaplan-size", N, "A", "aN"),
    _one("kaplan-data", D, "B", "aD"),
    _one("kaplan-compute", PF_DAYS, "K", "aC"),
    Form(
        id="kaplan-size-data",
        formula="L = ((Nc / N)^(aN / aD) + Dc / D)^aD",
        target="loss",
        parameters=(
            Parameter(name="Nc", meaning="size at which the loss is 1 with endless data", unit="parameters"),
            Parameter(name="Dc", meaning="data at which the loss is 1 at endless size", unit="tokens"),
            Parameter(name="aN", meaning="how fast the loss falls with size"),
            Parameter(name="aD", meaning="how fast the loss falls with data"),
        ),
        variables=(N, D),
        citation=CITATION,
        function=_size_data,
        slope=_size_data_slope,
        start={"Nc": 6.4e13, "Dc": 1.8e13, "aN": 0.076, "aD": 0.103},
        bounds={"Nc": (1e-300, np.inf), "Dc": (1e-300, np.inf), "aN": (1e-3, 3.0), "aD": (1e-3, 3.0)},
        notes=("has no loss that nothing removes, so it fails at scale: for comparison",),
    ),
    Form(
        id="kaplan-size-steps",
        formula="L = A / N^aN + B / S^aS",
        target="loss",
        parameters=(
            Parameter(name="A", meaning="Nc^aN", unit="nats/token * N^aN"),
            Parameter(name="B", meaning="Sc^aS", unit="nats/token * S^aS"),
            Parameter(name="aN", meaning="how fast the loss falls with size"),
            Parameter(name="aS", meaning="how fast the loss falls with steps"),
        ),
        variables=(N, STEPS),
        citation=CITATION,
        terms=(
            Term(scale="A", axes=(falls("N", "aN"),)),
            Term(scale="B", axes=(falls("S", "aS"),)),
        ),
        notes=("S counts the steps that a batch far above the critical one would need",),
    ),
)
