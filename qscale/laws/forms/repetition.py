"""Loss when data are repeated: tokens seen again, and parameters beyond what they feed, count for less."""

from __future__ import annotations

import numpy as np

from qscale.laws.forms.common import CHINCHILLA
from qscale.laws.forms.form import D, FloatArray, Form, Inputs, N, Parameter, Params, Variable

UNIQUE = Variable(name="U", unit="unique training tokens, raw count", least=0.0, least_allowed=False)


def worth(given: FloatArray, unique: FloatArray, rate: float) -> FloatArray:
    """``U + U * R * (1 - exp(-(given / U - 1) / R))`` above U, ``given`` below: what repeats are worth."""
    repeats = np.maximum(given / unique - 1, 0.0)
    return np.asarray(np.minimum(given, unique) - unique * rate * np.expm1(-repeats / rate))


def optimal_size(p: Params, unique: FloatArray) -> FloatArray:
    """The size beyond which parameters are excess for U unique tokens."""
    balance = p["alpha"] * p["A"] / (p["beta"] * p["B"])
    return np.asarray((unique ** p["beta"] * balance) ** (1 / p["alpha"]))


def _value(p: Params, x: Inputs) -> FloatArray:
    size = worth(x["N"], optimal_size(p, x["U"]), p["R_N"])
    data = worth(x["D"], x["U"], p["R_D"])
    return np.asarray(p["E"] + p["A"] / size ** p["alpha"] + p["B"] / data ** p["beta"])


def _by_rate(given: FloatArray, unique: FloatArray, rate: float) -> FloatArray:
    """Derivative of :func:`worth` by the rate."""
    z = np.maximum(given / unique - 1, 0.0) / rate
    return np.asarray(unique * (-np.expm1(-z) - z * np.exp(-z)))


def _by_unique(given: FloatArray, unique: FloatArray, rate: float) -> FloatArray:
    """Derivative of :func:`worth` by the unique amount; 0 where nothing repeats."""
    z = np.maximum(given / unique - 1, 0.0) / rate
    inner = 1 - rate * np.expm1(-z) - np.exp(-z) * given / unique
    return np.where(given > unique, inner, 0.0)


def _slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    enough = optimal_size(p, x["U"])
    size, data = worth(x["N"], enough, p["R_N"]), worth(x["D"], x["U"], p["R_D"])
    size_term, data_term = p["A"] / size ** p["alpha"], p["B"] / data ** p["beta"]
    by_size, by_data = -p["alpha"] * size_term / size, -p["beta"] * data_term / data
    # the size that is enough depends on all four constants
    through = by_size * _by_unique(x["N"], enough, p["R_N"]) * enough / p["alpha"]
    return {
        "A": size_term / p["A"] + through / p["A"],
        "B": data_term / p["B"] - through / p["B"],
        "E": np.ones_like(size_term),
        "alpha": -size_term * np.log(size) + through * (1 / p["alpha"] - np.log(enough)),
        "beta": -data_term * np.log(data) + through * (np.log(x["U"]) - 1 / p["beta"]),
        "R_D": by_data * _by_rate(x["D"], x["U"], p["R_D"]),
        "R_N": by_size * _by_rate(x["N"], enough, p["R_N"]),
    }


FORMS = (
    Form(
        id="data-constrained",
        formula="L = A / N'^alpha + B / D'^beta + E, D' = U + U * R_D * (1 - exp(-(D / U - 1) / R_D)), "
        "N' alike with R_N above the size that is optimal for U",
        target="loss",
        parameters=(
            *CHINCHILLA,
            Parameter(name="R_D", meaning="how many repeats of the data keep their worth", unit="repeats"),
            Parameter(name="R_N", meaning="how far excess parameters keep theirs", unit="times the optimum"),
        ),
        variables=(N, D, UNIQUE),
        citation="Muennighoff et al. 2023, arXiv:2305.16264",
        function=_value,
        slope=_slope,
        start={"A": 500.0, "B": 1500.0, "E": 1.9, "alpha": 0.35, "beta": 0.35, "R_D": 15.0, "R_N": 5.0},
        bounds={"A": (1e-300, np.inf), "B": (1e-300, np.inf), "E": (0.0, np.inf)}
        | {"alpha": (1e-3, 3.0), "beta": (1e-3, 3.0), "R_D": (1e-2, 1e4), "R_N": (1e-2, 1e4)},
    ),
)
