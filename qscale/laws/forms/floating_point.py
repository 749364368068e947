"""Sun et al.: training in floating point of E exponent and M mantissa bits, a scale for B values."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.form import D, FloatArray, Form, Inputs, N, Parameter, Params, Variable


def _bits(name: str, kind: str) -> Variable:
    return Variable(name=name, unit=f"{kind} bits", least=0.0, least_allowed=True, least_fits=True)


BLOCK = Variable(name="B", unit="values that share one scale", least=1.0, least_allowed=True)


def rounding(p: Params, x: Inputs) -> FloatArray:
    """What the format adds to the loss."""
    layout = p["gamma"] * (x["E"] + 0.5) ** p["delta"] * (x["M"] + 0.5) ** p["nu"]
    return np.asarray(x["D"] ** p["beta"] / x["N"] ** p["alpha"] * np.log2(x["B"]) / layout)


def _value(p: Params, x: Inputs) -> FloatArray:
    base = p["n"] / x["N"] ** p["alpha"] + p["d"] / x["D"] ** p["beta"] + p["eps"]
    return np.asarray(base + rounding(p, x))


def _slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    size, data, added = p["n"] / x["N"] ** p["alpha"], p["d"] / x["D"] ** p["beta"], rounding(p, x)
    return {
        "n": size / p["n"],
        "alpha": -(size + added) * np.log(x["N"]),
        "d": data / p["d"],
        "beta": (added - data) * np.log(x["D"]),
        "eps": np.ones_like(size),
        "gamma": -added / p["gamma"],
        "delta": -added * np.log(x["E"] + 0.5),
        "nu": -added * np.log(x["M"] + 0.5),
    }


FORMS = (
    Form(
        id="fp-quant",
        formula="L = n / N^alpha + d / D^beta + eps + "
        "D^beta / N^alpha * log2(B) / (gamma * (E + 0.5)^delta * (M + 0.5)^nu)",
        target="loss",
        parameters=(
            Parameter(name="n", meaning="scale of the size term", unit="nats/token * N^alpha"),
            Parameter(name="alpha", meaning="exponent of size, in two terms"),
            Parameter(name="d", meaning="scale of the data term", unit="nats/token * D^beta"),
            Parameter(name="beta", meaning="exponent of data, in two terms"),
            Parameter(name="eps", meaning="loss that nothing removes", unit="nats/token"),
            Parameter(name="gamma", meaning="divides the error of the format"),
            Parameter(name="delta", meaning="worth of exponent bits"),
            Parameter(name="nu", meaning="worth of mantissa bits"),
        ),
        variables=(N, D, _bits("E", "exponent"), _bits("M", "mantissa"), BLOCK),
        citation="Sun et al. 2025, arXiv:2501.02423",
        function=_value,
        slope=_slope,
        start={"n": 70.0, "alpha": 0.25, "d": 7e4, "beta": 0.5, "eps": 1.9}
        | {"gamma": 1e4, "delta": 3.0, "nu": 3.0},
        bounds={
            "n": (1e-300, np.inf),
            "d": (1e-300, np.inf),
            "eps": (0.0, np.inf),
            "gamma": (1e-300, np.inf),
        },
        notes=(
            "a format is sign, E and M bits: P = E + M + 1; a scale per channel stands for log2 B = "
            "13.1567; the constants of the paper's law for a scale per tensor are not at hand",
        ),
    ),
)
