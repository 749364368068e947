"""What quantization-aware training costs in size, data, group size and rounding error."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import (
    BITS,
    CHINCHILLA,
    CHINCHILLA_TERMS,
    GD,
    GG,
    GN,
    K,
    P,
    falls,
    grows,
)
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

_SIZE, _DATA = falls("N", "gN"), grows("D", "gD")
_GROUP = LogAxis(parameter="gG", variable="G", sign=1, transform="log2")
_QUANTIZED = Variable(
    name="P", unit="bits per value; none for unquantized runs", least=0.0, least_allowed=False
)
_METHOD = Variable(
    name="method",
    unit="name of the quantization; none for unquantized runs",
    least=0.0,
    least_allowed=False,
)


def _saturating(p: Params, x: Inputs) -> FloatArray:
    logs = np.log2(x["G"])
    filled = (x["D"] / (p["x0"] * x["N"])) ** p["gD"]
    return np.asarray(p["k"] * x["D"] ** p["gD"] * logs ** p["gG"] / x["N"] ** p["gN"] / (1 + filled))


def _saturating_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    delta = _saturating(p, x)
    ratio = x["D"] / (p["x0"] * x["N"])
    share = ratio ** p["gD"] / (1 + ratio ** p["gD"])
    logs = np.log2(x["G"])
    return {
        "k": delta / p["k"],
        "gN": -delta * np.log(x["N"]),
        "gD": delta * (np.log(x["D"]) - share * np.log(ratio)),
        "gG": delta * np.log(logs, out=np.zeros_like(logs), where=logs > 0),  # 0 at G = 1, the limit
        "x0": delta * share * p["gD"] / p["x0"],
    }


FORMS = (
    Form(
        id="qat-unified",
        formula="delta = k * D^gD * (log2 G)^gG / N^gN",
        target="delta",
        parameters=(K, GN, GD, GG),
        variables=(N, D, G),
        citation="Chen et al. 2025, arXiv:2505.14302",
        terms=(Term(scale="k", axes=(_SIZE, _DATA, _GROUP)),),
    ),
    Form(
        id="qat-saturating",
        formula="delta = k * D^gD * (log2 G)^gG / N^gN / (1 + (D / (x0 * N))^gD)",
        target="delta",
        parameters=(
            K,
            GN,
            GD,
            GG,
            Parameter(
                name="x0",
                meaning="D/N at which delta is half of where it levels off",
                unit="tokens/parameter",
            ),
        ),
        variables=(N, D, G),
        citation="qscale; qat-unified (arXiv:2505.14302) with growth in D that ends",
        function=_saturating,
        slope=_saturating_slope,
        start={"k": 0.2, "gN": 0.2, "gD": 0.15, "gG": 0.7, "x0": 300.0},
        bounds={"k": (1e-300, np.inf), "gD": (0.0, 5.0), "x0": (1e-3, 1e9)},
        notes=(
            "a choice of our own, from no source: public deltas stop growing with D at D/N of a few hundred; "
            "compare it with qat-unified on held-out D",
        ),
    ),
    Form(
        id="qat-power",
        formula="delta = k * D^gD / N^gN",
        target="delta",
        parameters=(K, GN, GD),
        variables=(N, D),
        citation="Chen et al. 2025, arXiv:2505.14302, at one group size",
        terms=(Term(scale="k", axes=(_SIZE, _DATA)),),
    ),
    Form(
        id="qat-table",
        formula="delta = k[P] * D^gD / N^gN",
        target="delta",
        parameters=(K, GN, GD),
        variables=(N, D, P),
        citation="qscale; qat-power with a scale for each bit width",
        terms=(Term(scale="k", axes=(_SIZE, _DATA), by="P"),),
    ),
    Form(
        id="noise",
        formula="delta = k * D^gD * r^c / N^gN",
        target="delta",
        parameters=(K, GN, GD, Parameter(name="c", meaning="how fast delta grows with the rounding error")),
        variables=(
            N,
            D,
            Variable(
                name="r",
                unit="relative quantization error, E[(x - q)^2] / E[x^2]",
                least=0.0,
                least_allowed=True,
            ),
        ),
        citation="qscale",
        terms=(Term(scale="k", axes=(_SIZE, _DATA, grows("r", "c"))),),
        notes=(
            "our own: in place of bits, format and group size stands what they do to the tensors, so that "
            "one law may hold for many formats; c = 1 is a loss in proportion to the error. r is measured "
            "on the tensors, or that of random ones (qscale.formats.relmse)",
        ),
    ),
    Form(
        id="additive-table",
        formula="L = A / N^alpha + B / D^beta + E + k[P] * D^gD / N^gN",
        target="loss",
        parameters=(*CHINCHILLA, K, GN, GD),
        variables=(N, D, _QUANTIZED),
        citation="qscale, on the runs of arXiv:2502.05003",
        terms=(*CHINCHILLA_TERMS, Term(scale="k", axes=(_SIZE, _DATA), by="P")),
    ),
    Form(
        id="additive-bits",
        formula="L = A / N^alpha + B / D^beta + E + k * D^gD * exp(-c * P) / N^gN",
        target="loss",
        parameters=(*CHINCHILLA, K, GN, GD, BITS),
        variables=(N, D, P),
        citation="qscale, on the runs of arXiv:2502.05003",
        terms=(
            *CHINCHILLA_TERMS,
            Term(
                scale="k",
                axes=(_SIZE, _DATA, LogAxis(parameter="c", variable="P", sign=-1, transform="exp")),
            ),
        ),
    ),
    Form(
        id="joint-table",
        formula="L = A / N^alpha + B / D^beta + E + k[method] * D^gD * (log2 G)^gG / N^gN",
        target="loss",
        parameters=(*CHINCHILLA, K, GN, GD, GG),
        variables=(N, D, G, _METHOD),
        citation="baseline and delta in one fit; Chen et al. 2025, arXiv:2505.14302",
        terms=(*CHINCHILLA_TERMS, Term(scale="k", axes=(_SIZE, _DATA, _GROUP), by="method")),
        notes=(
            "at method none G is read and changes nothing; where matched pairs exist, a fit of their "
            "differences is many times tighter, for the misfit of the baseline cancels in it",
        ),
    ),
)
