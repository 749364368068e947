"""Loss over the steps of one run.

The variable of the first two forms is a whole schedule, the rate of each step in order, and the value a whole
curve. :mod:`qscale.laws.curves` evaluates them at some steps and fits them to several curves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qscale.errors import LawError
from qscale.laws.forms.form import FloatArray, Form, Inputs, Parameter, Params, Variable

RATE = Variable(
    name="eta",
    unit="learning rate of each step, in order: a whole schedule",
    least=0.0,
    least_allowed=True,
    least_fits=True,
)
_SMALLEST = 1e-10  # a rate of 0 has no negative power
_CHUNK = 2**20  # numbers held at once


def checked_schedule(eta: FloatArray) -> FloatArray:
    """The schedule, if it is one."""
    eta = np.asarray(eta, dtype=np.float64)
    if eta.ndim != 1 or not len(eta) or not eta[0] > 0:
        raise LawError(
            f"eta of shape {eta.shape}: a schedule is the list of the rates of all steps, "
            "and begins with one that is not 0"
        )
    return eta


def areas(eta: FloatArray, lam: float) -> tuple[FloatArray, FloatArray]:
    """S1 and S2 of the annealing law after each step.

    ``S1 = sum eta``, warm-up included; ``S2 = sum m``, ``m_i = lam * m_(i-1) + eta_(i-1) - eta_i`` from the
    first peak of the schedule on: each drop of the rate pays for about ``1 / (1 - lam)`` steps.

    Example:
        >>> s1, s2 = areas([1.0, 2.0, 2.0, 1.0, 1.0], 0.5)
        >>> s1.tolist(), s2.tolist()
        ([1.0, 3.0, 5.0, 6.0, 7.0], [0.0, 0.0, 0.0, 1.0, 1.5])
    """
    s1, s2, _ = _areas(checked_schedule(np.asarray(eta, dtype=np.float64)), lam)
    return s1, s2


def _areas(eta: FloatArray, lam: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """S1, S2 and the derivative of S2 by lam."""
    drops = np.zeros_like(eta)
    first = int(np.argmax(eta)) + 1
    drops[first:] = eta[first - 1 : -1] - eta[first:]
    memory, slope = np.zeros_like(eta), np.zeros_like(eta)
    m = dm = 0.0
    for i, drop in enumerate(drops.tolist()):
        dm = m + lam * dm
        m = lam * m + drop
        memory[i], slope[i] = m, dm
    return np.cumsum(eta), np.cumsum(memory), np.cumsum(slope)


def _annealing(p: Params, x: Inputs) -> FloatArray:
    s1, s2, _ = _areas(checked_schedule(x["eta"]), p["lam"])
    return np.asarray(p["L0"] + p["A"] * s1 ** -p["alpha"] - p["C"] * s2)


def _annealing_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    s1, s2, by_memory = _areas(checked_schedule(x["eta"]), p["lam"])
    power = s1 ** -p["alpha"]
    return {
        "L0": np.ones_like(s1),
        "A": power,
        "alpha": -p["A"] * power * np.log(s1),
        "C": -s2,
        "lam": -p["C"] * by_memory,
    }


def multi_power_parts(p: Params, eta: FloatArray, steps: NDArray[np.intp]) -> dict[str, FloatArray]:
    """The loss of the multi-power law after the given steps (from 0), and its derivatives by the constants.

    The work is the number of steps asked for times that of the steps whose rate differs from the one before.
    """
    eta = checked_schedule(eta)
    s1 = np.cumsum(eta)
    change = np.flatnonzero(np.diff(eta)) + 1
    drop, before = -np.diff(eta)[change - 1], s1[change - 1]
    lr = np.maximum(eta[change], _SMALLEST)
    sums = {name: np.zeros(len(steps)) for name in ("B", "C", "beta", "gamma")}
    rows = max(1, _CHUNK // max(1, len(change)))
    for start in range(0, len(steps), rows):
        here = slice(start, start + rows)
        area = np.maximum(s1[steps[here], None] - before, 0.0)  # S_k(t); 0 for changes still to come
        q = lr ** -p["gamma"] * area
        base = 1 + p["C"] * q
        kept = base ** -p["beta"]
        inner = p["B"] * drop * p["beta"] * kept / base
        sums["B"][here] = ((1 - kept) * drop).sum(axis=1)
        sums["C"][here] = (inner * q).sum(axis=1)
        sums["beta"][here] = (p["B"] * drop * kept * np.log(base)).sum(axis=1)
        sums["gamma"][here] = -(inner * p["C"] * q * np.log(lr)).sum(axis=1)
    power = s1[steps] ** -p["alpha"]
    out = {"L0": np.ones(len(steps)), "A": power, "alpha": -p["A"] * power * np.log(s1[steps])}
    out |= {name: -total for name, total in sums.items()}
    return out | {"loss": p["L0"] + p["A"] * power - p["B"] * sums["B"]}


def _multi_power(p: Params, x: Inputs) -> FloatArray:
    return multi_power_parts(p, x["eta"], np.arange(np.size(x["eta"])))["loss"]


def _multi_power_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    parts = multi_power_parts(p, x["eta"], np.arange(np.size(x["eta"])))
    return {name: part for name, part in parts.items() if name != "loss"}


def _massive(p: Params, x: Inputs) -> FloatArray:
    at = p["gam"] * x["t"] + p["t0"]
    return np.asarray(p["A"] * np.exp(-p["lam"] * at) * np.log(at) + p["K"])


def _massive_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    at = p["gam"] * x["t"] + p["t0"]
    decay = np.exp(-p["lam"] * at)
    by_at = p["A"] * decay * (1 / at - p["lam"] * np.log(at))
    return {
        "A": decay * np.log(at),
        "lam": -p["A"] * at * decay * np.log(at),
        "gam": by_at * x["t"],
        "t0": by_at,
        "K": np.ones_like(at),
    }


_L0 = Parameter(name="L0", meaning="loss at endless training", unit="nats/token")
_A = Parameter(name="A", meaning="scale of the area term", unit="nats/token * rate^alpha")
_ALPHA = Parameter(name="alpha", meaning="how fast the loss falls with the area under the rate")

FORMS = (
    Form(
        id="lr-annealing",
        formula="L = L0 + A / S1^alpha - C * S2, S1 = sum eta, S2 = sum m, "
        "m_i = lam * m_(i-1) + eta_(i-1) - eta_i",
        target="loss",
        parameters=(
            _L0,
            _A,
            _ALPHA,
            Parameter(name="C", meaning="what a drop of the rate pays", unit="nats/token / rate"),
            Parameter(name="lam", meaning="memory of a drop: 1 / (1 - lam) steps"),
        ),
        variables=(RATE,),
        citation="Tissue et al. 2024, arXiv:2408.11029",
        function=_annealing,
        slope=_annealing_slope,
        start={"L0": 2.5, "A": 0.6, "alpha": 0.45, "C": 0.5, "lam": 0.999},
        bounds={"A": (1e-300, np.inf), "alpha": (0.0, 5.0), "lam": (0.0, 0.99999)},
        notes=(
            "one model, batch and peak rate; S2 is counted from the end of the warm-up. Compares schedules "
            "of one family: steps at rate 0 keep lowering it, and so does any larger rate",
        ),
    ),
    Form(
        id="multi-power",
        formula="L = L0 + A / S1^alpha - B * sum_k (eta_(k-1) - eta_k) * "
        "(1 - (1 + C * S_k / eta_k^gamma)^-beta), S_k = sum of eta from step k on",
        target="loss",
        parameters=(
            _L0,
            _A,
            _ALPHA,
            Parameter(name="B", meaning="what a drop of the rate pays in the end", unit="nats/token / rate"),
            Parameter(name="C", meaning="how soon it pays", unit="rate^(gamma - 1)"),
            Parameter(name="beta", meaning="exponent of how soon"),
            Parameter(name="gamma", meaning="how much sooner at a small rate"),
        ),
        variables=(RATE,),
        citation="Luo et al. 2025, arXiv:2503.12811",
        function=_multi_power,
        slope=_multi_power_slope,
        start={"L0": 2.5, "A": 0.6, "alpha": 0.45, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.65},
        bounds={"A": (1e-300, np.inf), "alpha": (0.0, 5.0), "C": (1e-300, np.inf)}
        | {"beta": (0.0, 10.0), "gamma": (0.0, 5.0)},
        notes=(
            "one model, batch and peak rate. The sum runs over the warm-up too; a rate of 0 counts as 1e-10 "
            "in its power. A whole curve takes the square of its steps: qscale.laws.curves.losses takes "
            "some of them",
        ),
    ),
    Form(
        id="ma-dynamics",
        formula="r = A * exp(-lam * x) * ln(x) + K, x = gam * t + t0",
        target="ratio",
        unit="1",
        parameters=(
            Parameter(name="A", meaning="scale"),
            Parameter(name="lam", meaning="how fast the rise decays"),
            Parameter(name="gam", meaning="how fast training passes", unit="1/step"),
            Parameter(name="t0", meaning="where it begins"),
            Parameter(name="K", meaning="level in the end"),
        ),
        variables=(Variable(name="t", unit="training step", least=0.0, least_allowed=True, least_fits=True),),
        citation="arXiv:2508.03616",
        function=_massive,
        slope=_massive_slope,
        start={"A": 1000.0, "lam": 0.3, "gam": 1e-4, "t0": 1.0, "K": 10.0},
        bounds={"lam": (1e-9, 1e3), "gam": (1e-12, 1e3), "t0": (1e-9, 1e3)},
        notes=("r = max |h| / median |h| of a layer's output; the constants of the layers are not at hand",),
    ),
)
