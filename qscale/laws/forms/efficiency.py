"""Quantization as a smaller model: effective parameter multipliers (EPM, eff)."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import CHINCHILLA, CHINCHILLA_TERMS, falls
from qscale.laws.forms.form import D, FloatArray, Form, Inputs, N, Parameter, Params, Term, Variable


def _terms(p: Params, x: Inputs) -> tuple[FloatArray, FloatArray]:
    size = p["A"] / (x["N"] * p["eff_N"]) ** p["alpha"]
    return size, p["B"] / (x["D"] * p["eff_D"]) ** p["beta"]


def _joint(p: Params, x: Inputs) -> FloatArray:
    size, data = _terms(p, x)
    return np.asarray((size + data) ** p["gamma"] + p["E"])


def _joint_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    size, data = _terms(p, x)
    total = size + data
    outer = p["gamma"] * total ** (p["gamma"] - 1)
    return {
        "A": outer * size / p["A"],
        "B": outer * data / p["B"],
        "E": np.ones_like(total),
        "alpha": -outer * size * np.log(x["N"] * p["eff_N"]),
        "beta": -outer * data * np.log(x["D"] * p["eff_D"]),
        "gamma": total ** p["gamma"] * np.log(total),
        "eff_N": -outer * size * p["alpha"] / p["eff_N"],
        "eff_D": -outer * data * p["beta"] / p["eff_D"],
    }


FORMS = (
    Form(
        id="eff-table",
        formula="L = A[P] / N^alpha + B / D^beta + E",
        target="loss",
        parameters=CHINCHILLA,
        variables=(
            N,
            D,
            Variable(
                name="P", unit="bits per value, or the name of a scheme", least=0.0, least_allowed=False
            ),
        ),
        citation="Frantar et al. 2025, arXiv:2502.16440; Panferov et al. 2025, arXiv:2502.05003",
        terms=(Term(scale="A", axes=(falls("N", "alpha"),), by="P"), *CHINCHILLA_TERMS[1:]),
        notes=(
            "the papers' L = A / (N * eff[P])^alpha + ...: A[P] = A * eff[P]^-alpha "
            "(qscale.laws.derived.scales_of_eff and eff_of_scales)",
        ),
    ),
    Form(
        id="eff-joint",
        formula="L = (A / (N * eff_N)^alpha + B / (D * eff_D)^beta)^gamma + E",
        target="loss",
        parameters=(
            *CHINCHILLA,
            Parameter(name="gamma", meaning="outer exponent of the sum of both terms"),
            Parameter(name="eff_N", meaning="effective parameters, as a share of N: forward error"),
            Parameter(name="eff_D", meaning="effective tokens, as a share of D: backward error"),
        ),
        variables=(N, D),
        citation="Castro et al. 2025, arXiv:2505.14669",
        function=_joint,
        slope=_joint_slope,
        start={
            "A": 1e5,
            "B": 5e5,
            "E": 1.5,
            "alpha": 0.55,
            "beta": 0.55,
            "gamma": 0.3,
            "eff_N": 0.8,
            "eff_D": 0.9,
        },
        bounds={
            "A": (1e-300, np.inf),
            "B": (1e-300, np.inf),
            "E": (0.0, np.inf),
            "gamma": (1e-3, 3.0),
            "eff_N": (1e-6, 10.0),
            "eff_D": (1e-6, 10.0),
        },
        notes=(
            "eff_N and eff_D are the ratios to a baseline: hold both at 1 on unquantized runs, then fit them",
        ),
    ),
)
