"""How the tokens of a run are best shared between full precision and QAT (Dremov et al.)."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import CHINCHILLA, CHINCHILLA_TERMS, P, falls
from qscale.laws.forms.form import D, FloatArray, Form, Inputs, LogAxis, N, Parameter, Params, Term, Variable

CITATION = "Dremov et al. 2025, arXiv:2509.22935"


def _tokens(name: str, when: str) -> Variable:
    return Variable(name=name, unit=f"tokens of {when}, raw count", least=0.0, least_allowed=False)


def _fraction(p: Params, x: Inputs) -> FloatArray:
    return np.asarray(np.exp(-p["a"] / np.log(x["S"])))


def _fraction_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    return {"a": -_fraction(p, x) / np.log(x["S"])}


def _decay(parameter: str) -> LogAxis:
    return LogAxis(parameter=parameter, variable="P", sign=-1, transform="exp")


FORMS = (
    Form(
        id="qat-fraction",
        formula="f = exp(ln S - a / ln S) / S = exp(-a / ln S)",
        target="fraction",
        unit="1",
        parameters=(Parameter(name="a", meaning="how long full-precision training stays worth while"),),
        variables=(
            Variable(
                name="S", unit="tokens per parameter byte, 8 * D / (N * bits)", least=1.0, least_allowed=False
            ),
        ),
        citation=CITATION,
        function=_fraction,
        slope=_fraction_slope,
        start={"a": 6.0},
        bounds={"a": (0.0, np.inf)},
        notes=("the logarithm is taken to be natural; the paper does not say",),
    ),
    Form(
        id="qat-split-loss",
        formula="L = A / N^alpha + B / D^beta + E + theta * exp(-kappa * P) + phi * exp(-chi * P) "
        "/ (N^psi * S_qat^omega) + lam * exp(-mu * P) / (N^nu * S_fp^xi * S_qat^rho)",
        target="loss",
        parameters=(
            *CHINCHILLA,
            Parameter(name="theta", meaning="scale of what no training repairs", unit="nats/token"),
            Parameter(name="kappa", meaning="how fast it falls with bits", unit="1/bit"),
            Parameter(name="phi", meaning="scale of what QAT repairs"),
            Parameter(name="chi", meaning="how fast it falls with bits", unit="1/bit"),
            Parameter(name="psi", meaning="how fast it falls with size"),
            Parameter(name="omega", meaning="how fast it falls with QAT"),
            Parameter(name="lam", meaning="scale of what full precision leaves to QAT"),
            Parameter(name="mu", meaning="how fast it falls with bits", unit="1/bit"),
            Parameter(name="nu", meaning="how fast it falls with size"),
            Parameter(name="xi", meaning="how fast it falls with full-precision training; may be negative"),
            Parameter(name="rho", meaning="how fast it falls with QAT"),
        ),
        variables=(
            N,
            D,
            P,
            _tokens("S_qat", "QAT per parameter byte"),
            _tokens("S_fp", "full precision per parameter byte"),
        ),
        citation=CITATION,
        terms=(
            *CHINCHILLA_TERMS,
            Term(scale="theta", axes=(_decay("kappa"),)),
            Term(scale="phi", axes=(_decay("chi"), falls("N", "psi"), falls("S_qat", "omega"))),
            Term(
                scale="lam",
                axes=(_decay("mu"), falls("N", "nu"), falls("S_fp", "xi"), falls("S_qat", "rho")),
            ),
        ),
        notes=(
            "the paper writes 2^(-kappa P): its rates times ln 2 are the ones here",
            "the constants are not at hand, and the sign of xi is unverified: the printed form falls with "
            "full-precision training, while the text says that such training makes QAT harder (xi < 0)",
        ),
    ),
)
