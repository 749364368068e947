"""Curves in one variable x: the estimators M1 to M4, and powers that break."""

from __future__ import annotations

from functools import partial

import numpy as np

from qscale.laws.forms.common import grows
from qscale.laws.forms.form import FloatArray, Form, Inputs, Parameter, Params, Term, Variable

X = Variable(name="x", unit="any positive quantity: D, D/N, steps", least=0.0, least_allowed=False)
ESTIMATORS = "Alabdulmohsin et al. 2022, arXiv:2209.06640"
_HALVINGS = 100  # of a bisection: to the last bit
_FLAT = 700.0  # a logit beyond which exp leaves the doubles


def _break(p: Params, x: Inputs, i: int) -> tuple[FloatArray, FloatArray]:
    """``z = ln(x / d) / f`` of break i, and ``ln(1 + exp(z))``, which cannot overflow."""
    z = np.log(x["x"] / p[f"d{i}"]) / p[f"f{i}"]
    return z, np.logaddexp(0.0, z)


def _falling(breaks: int, p: Params, x: Inputs) -> FloatArray:
    out = p["b"] * x["x"] ** -p["c0"]
    for i in range(1, breaks + 1):
        out = out * np.exp(-p[f"c{i}"] * p[f"f{i}"] * _break(p, x, i)[1])
    return np.asarray(out)


def _broken(breaks: int, p: Params, x: Inputs) -> FloatArray:
    return np.asarray(p["a"] + _falling(breaks, p, x))


def _broken_slope(breaks: int, p: Params, x: Inputs) -> dict[str, FloatArray]:
    fall = _falling(breaks, p, x)
    out = {"a": np.ones_like(fall), "b": fall / p["b"], "c0": -fall * np.log(x["x"])}
    for i in range(1, breaks + 1):
        z, log = _break(p, x, i)
        past = np.exp(z - log)  # share of the break that lies behind: 0 to 1
        c, d, f = p[f"c{i}"], p[f"d{i}"], p[f"f{i}"]
        out |= {f"c{i}": -fall * f * log, f"d{i}": fall * c * past / d, f"f{i}": -fall * c * (log - past * z)}
    return out


def _bnsl(form: str, breaks: int) -> Form:
    numbers = range(1, breaks + 1)
    own = (("c", "change of slope", 0.1), ("d", "place in x", 300.0), ("f", "width in ln x", 0.5))
    start = {f"{name}{i}": at * 10.0 ** (i - 1 if name == "d" else 0) for i in numbers for name, _, at in own}
    factors = " * ".join(f"(1 + (x / d{i})^(1 / f{i}))^(-c{i} * f{i})" for i in numbers)
    return Form(
        id=form,
        formula=f"y = a + b * x^-c0 * {factors}",
        target="loss",
        parameters=(
            Parameter(name="a", meaning="limit"),
            Parameter(name="b", meaning="scale"),
            Parameter(name="c0", meaning="slope before any break"),
            *(
                Parameter(name=f"{name}{i}", meaning=f"{what} of break {i}")
                for i in numbers
                for name, what, _ in own
            ),
        ),
        variables=(X,),
        citation="Caballero et al. 2022, arXiv:2210.14891",
        function=partial(_broken, breaks),
        slope=partial(_broken_slope, breaks),
        start={"a": 0.1, "b": 1.0, "c0": 0.1} | start,
        bounds={"b": (1e-300, np.inf)} | {name: (1e-3, np.inf) for name in start if name[0] in "df"},
        notes=(
            "needs points on both sides of every break, three or more behind the last; overfits otherwise",
            "the paper's code has one break; the product over several is as others transcribe it",
        ),
    )


def _m3(p: Params, x: Inputs) -> FloatArray:
    return np.asarray(p["beta"] * (1 / x["x"] + p["gamma"]) ** p["c"])


def _m3_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    error, base = _m3(p, x), 1 / x["x"] + p["gamma"]
    return {"beta": error / p["beta"], "c": error * np.log(base), "gamma": error * p["c"] / base}


def _m4_distances(p: Params, x: Inputs) -> tuple[FloatArray, FloatArray]:
    """``e - e_inf`` and ``e_0 - e`` where the two sides meet, by bisection in the logit of their shares."""
    span = p["e_0"] - p["e_inf"]
    wanted = np.log(p["beta"]) + p["c"] * np.log(x["x"]) - (1 - p["alpha"]) * np.log(span)
    low, high = np.full(wanted.shape, -_FLAT), np.full(wanted.shape, _FLAT)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # ln share - alpha ln(1 - share) grows with the logit
        below = p["alpha"] * np.logaddexp(0.0, middle) - np.logaddexp(0.0, -middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return span * np.exp(-np.logaddexp(0.0, -low)), span * np.exp(-np.logaddexp(0.0, low))


def _m4(p: Params, x: Inputs) -> FloatArray:
    return np.asarray(p["e_inf"] + _m4_distances(p, x)[0])


def _m4_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    above, below = _m4_distances(p, x)
    stiff = 1 / above + p["alpha"] / below  # the difference of the logs of both sides changes so with e
    return {
        "e_inf": 1 / above / stiff,
        "e_0": p["alpha"] / below / stiff,
        "alpha": np.log(below) / stiff,
        "beta": 1 / p["beta"] / stiff,
        "c": np.log(x["x"]) / stiff,
    }


_LIMIT = Parameter(name="e_inf", meaning="error at endless x", unit="nats/token")
_BETA = Parameter(name="beta", meaning="scale")
_C = Parameter(name="c", meaning="exponent; negative")

FORMS = (
    _bnsl("bnsl", breaks=1),
    _bnsl("bnsl-2", breaks=2),
    Form(
        id="m1",
        formula="e = beta * x^c",
        target="loss",
        parameters=(_BETA, _C),
        variables=(X,),
        citation=ESTIMATORS,
        terms=(Term(scale="beta", axes=(grows("x", "c"),)),),
    ),
    Form(
        id="m2",
        formula="e = e_inf + beta * x^c",
        target="loss",
        parameters=(_LIMIT, _BETA, _C),
        variables=(X,),
        citation=ESTIMATORS,
        terms=(Term(scale="e_inf"), Term(scale="beta", axes=(grows("x", "c"),))),
    ),
    Form(
        id="m3",
        formula="e = beta * (1 / x + gamma)^c",
        target="loss",
        parameters=(
            _BETA,
            Parameter(name="c", meaning="exponent; not negative"),
            Parameter(name="gamma", meaning="1 / x at which the curve levels off"),
        ),
        variables=(X,),
        citation=ESTIMATORS,
        function=_m3,
        slope=_m3_slope,
        start={"beta": 10.0, "c": 0.3, "gamma": 1e-4},
        bounds={"beta": (1e-300, np.inf), "c": (0.0, 10.0), "gamma": (0.0, np.inf)},
    ),
    Form(
        id="m4",
        formula="(e - e_inf) / (e_0 - e)^alpha = beta * x^c",
        target="loss",
        parameters=(
            _LIMIT,
            Parameter(name="e_0", meaning="error at chance, where the curve begins", unit="nats/token"),
            Parameter(name="alpha", meaning="how long the curve stays at chance"),
            _BETA,
            _C,
        ),
        variables=(X,),
        citation=ESTIMATORS,
        function=_m4,
        slope=_m4_slope,
        start={"e_inf": 1.0, "e_0": 12.0, "alpha": 1.0, "beta": 10.0, "c": -0.3},
        bounds={"alpha": (0.0, 10.0), "beta": (1e-300, np.inf), "c": (-10.0, 0.0)},
        notes=("e_inf lies below every error of a fit and e_0 above; for curves that start at chance",),
    ),
)
