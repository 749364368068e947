"""What quantization after training costs. Exponents belong to a method: never pool methods in one fit."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import BITS, GD, GG, GN, K, P, falls, grows
from qscale.laws.forms.form import (
    D,
    FloatArray,
    Form,
    G,
    Inputs,
    LogAxis,
    N,
    Parameter,
    Params,
    Term,
    Variable,
)

_SHARE = Variable(
    name="Qr",
    unit="share of the parameters in low precision",
    least=0.0,
    least_allowed=True,
    least_fits=True,
    most=1.0,
)
_BLOCK = Variable(name="Qb", unit="values that share one scale", least=0.0, least_allowed=False)
_GROWTH = Parameter(name="A", meaning="how fast delta grows with the share in low precision")
_MIXED = "Cao et al. 2024, arXiv:2410.06722"
_MIXED_NOTE = (
    "the paper's constants are not at hand, and belong to a method: the form alone, as others transcribe it"
)


def _mixed(p: Params, x: Inputs) -> FloatArray:
    share = p["C"] * np.exp(p["A"] * x["Qr"]) / x["N"] ** p["gN"]
    return np.asarray(share * (x["Qb"] + p["d"]) ** p["gc"])


def _mixed_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    delta = _mixed(p, x)
    return {
        "C": delta / p["C"],
        "A": delta * x["Qr"],
        "gN": -delta * np.log(x["N"]),
        "gc": delta * np.log(x["Qb"] + p["d"]),
        "d": delta * p["gc"] / (x["Qb"] + p["d"]),
    }


FORMS = (
    Form(
        id="ptq-loglinear",
        formula="delta = k * D^gD * (log2 G)^gG * exp(-c * P) / N^gN",
        target="delta",
        parameters=(K, GN, GD, GG, BITS),
        variables=(N, D, G, P),
        citation="qscale, on Table 1 of Shao et al. 2023, arXiv:2308.13137",
        terms=(
            Term(
                scale="k",
                axes=(
                    falls("N", "gN"),
                    grows("D", "gD"),
                    LogAxis(parameter="gG", variable="G", sign=1, transform="log2"),
                    LogAxis(parameter="c", variable="P", sign=-1, transform="exp"),
                ),
            ),
        ),
    ),
    Form(
        id="qid",
        formula="delta = k * D^b / (N^a * P^g)",
        target="delta",
        parameters=(
            Parameter(name="k", meaning="scale", unit="nats/token * N^a * bit^g / D^b"),
            Parameter(name="a", meaning="how fast delta falls with model size"),
            Parameter(name="b", meaning="how fast delta grows with training tokens"),
            Parameter(name="g", meaning="how fast delta falls with bits, a power"),
        ),
        variables=(N, D, P),
        citation="Ouyang et al. 2024, arXiv:2411.17691",
        terms=(Term(scale="k", axes=(falls("N", "a"), grows("D", "b"), falls("P", "g"))),),
    ),
    Form(
        id="mixed-ptq",
        formula="delta = C * exp(A * Qr) / N^gN",
        target="delta",
        parameters=(
            Parameter(name="C", meaning="scale", unit="nats/token * N^gN"),
            _GROWTH,
            GN,
        ),
        variables=(N, _SHARE),
        citation=_MIXED,
        terms=(
            Term(
                scale="C",
                axes=(LogAxis(parameter="A", variable="Qr", sign=1, transform="exp"), falls("N", "gN")),
            ),
        ),
        notes=(_MIXED_NOTE,),
    ),
    Form(
        id="mixed-ptq-block",
        formula="delta = C * exp(A * Qr) * (Qb + d)^gc / N^gN",
        target="delta",
        parameters=(
            Parameter(name="C", meaning="scale", unit="nats/token * N^gN"),
            _GROWTH,
            GN,
            Parameter(name="gc", meaning="how fast delta grows with the block"),
            Parameter(name="d", meaning="offset of the block", unit="values"),
        ),
        variables=(N, _SHARE, _BLOCK),
        citation=_MIXED,
        function=_mixed,
        slope=_mixed_slope,
        start={"C": 1.0, "A": 1.0, "gN": 0.2, "gc": 0.2, "d": 1.0},
        bounds={"C": (1e-300, np.inf), "d": (0.0, np.inf)},
        notes=(_MIXED_NOTE,),
    ),
    Form(
        id="task-ptq",
        formula="-ln Acc = A * N^a * (log2 P)^b * (log2 Cb)^c * G^d",
        target="neg_log_accuracy",
        unit="1",
        parameters=(
            Parameter(name="A", meaning="scale"),
            Parameter(name="a", meaning="exponent of size"),
            Parameter(name="b", meaning="exponent of log2 of the bits"),
            Parameter(name="c", meaning="exponent of log2 of the calibration samples"),
            Parameter(name="d", meaning="exponent of the group size"),
        ),
        variables=(
            N,
            Variable(name="P", unit="bits per value", least=1.0, least_allowed=False),
            Variable(name="Cb", unit="calibration samples", least=1.0, least_allowed=False),
            G,
        ),
        citation="Zhou et al. 2025, arXiv:2508.18609",
        terms=(
            Term(
                scale="A",
                axes=(
                    grows("N", "a"),
                    LogAxis(parameter="b", variable="P", sign=1, transform="log2"),
                    LogAxis(parameter="c", variable="Cb", sign=1, transform="log2"),
                    grows("G", "d"),
                ),
            ),
        ),
        notes=(
            "Acc is the accuracy above chance, (Acc - Acc_random) / (1 - Acc_random). A law of accuracy, "
            "not of delta: its exponents do not compare with gN or gG",
            "exponents by skill, as others transcribe them (a, b, c, d): general -0.359, -1.067, -0.032, "
            "0.073; memorisation -0.315, -0.964, -0.040, 0.064; application -0.400, -1.100, -0.030, 0.075; "
            "reasoning -0.320, -1.200, -0.025, 0.085; the scale A is not given",
        ),
    ),
)
