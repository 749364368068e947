"""Kumar et al.: precision as a smaller model, ``N_eff = N * prod (1 - exp(-P / gamma))``, and PTQ on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qscale.laws.forms.common import BITS, CHINCHILLA, GD, GN, K, P, falls, grows
from qscale.laws.forms.form import D, FloatArray, Form, Inputs, LogAxis, N, Parameter, Params, Term, Variable

CITATION = "Kumar et al. 2024, arXiv:2411.04330"


def _bits(name: str, of: str) -> Variable:
    return Variable(
        name=name, unit=f"bits per value of {of}", least=0.0, least_allowed=False, least_fits=True
    )


PW, PA, PKV = _bits("Pw", "the weights"), _bits("Pa", "the inputs"), _bits("Pkv", "the KV cache")
P_POST = _bits("Ppost", "the weights after training")


@dataclass(frozen=True, slots=True)
class _Share:
    """``(1 - exp(-P / gamma + bias))^times``, the share of the parameters that P bits leave."""

    bits: str
    gamma: str
    bias: str | None = None
    times: int = 1

    def lost(self, p: Params, x: Inputs) -> FloatArray:
        lost = np.exp(-x[self.bits] / p[self.gamma] + (p[self.bias] if self.bias else 0.0))
        return np.minimum(lost, 1.0)  # a bias can take more than there is

    def value(self, p: Params, x: Inputs) -> FloatArray:
        return np.asarray((1 - self.lost(p, x)) ** self.times)

    def log_slope(self, p: Params, x: Inputs) -> dict[str, FloatArray]:
        """Of ln share, by each of its constants."""
        lost = self.lost(p, x)
        by_exponent = -self.times * lost / (1 - lost)
        out = {self.gamma: by_exponent * x[self.bits] / p[self.gamma] ** 2}
        return out | ({self.bias: by_exponent} if self.bias else {})


def effective_parameters(shares: tuple[_Share, ...], p: Params, x: Inputs) -> FloatArray:
    """``N_eff``."""
    out = np.asarray(x["N"])
    for share in shares:
        out = out * share.value(p, x)
    return out


def _loss(shares: tuple[_Share, ...]) -> Callable[[Params, Inputs], FloatArray]:
    def value(p: Params, x: Inputs) -> FloatArray:
        with np.errstate(divide="ignore"):  # no parameters left: a loss without bound
            size = p["A"] / effective_parameters(shares, p, x) ** p["alpha"]
        return np.asarray(size + p["B"] / x["D"] ** p["beta"] + p["E"])

    return value


def _loss_slope(shares: tuple[_Share, ...]) -> Callable[[Params, Inputs], dict[str, FloatArray]]:
    def slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
        effective = effective_parameters(shares, p, x)
        size, data = p["A"] / effective ** p["alpha"], p["B"] / x["D"] ** p["beta"]
        out = {
            "A": size / p["A"],
            "B": data / p["B"],
            "E": np.ones_like(size),
            "alpha": -size * np.log(effective),
            "beta": -data * np.log(x["D"]),
        }
        for share in shares:
            out |= {name: -p["alpha"] * size * part for name, part in share.log_slope(p, x).items()}
        return out

    return slope


_SHARES = (_Share("Pw", "gw"), _Share("Pa", "ga"), _Share("Pkv", "gkv"))
_BIASED = (_Share("Pw", "gw", "nw"), _Share("Pa", "ga", "na"), _Share("Pkv", "gkv", "nkv"))
_GAMMAS = (
    Parameter(name="gw", meaning="how many bits the weights need", unit="bits"),
    Parameter(name="ga", meaning="how many bits the inputs need", unit="bits"),
    Parameter(name="gkv", meaning="how many bits the KV cache needs", unit="bits"),
)
_BIASES = (
    Parameter(name="nw", meaning="bias in the exponent of the weights"),
    Parameter(name="na", meaning="bias in the exponent of the inputs"),
    Parameter(name="nkv", meaning="bias in the exponent of the KV cache"),
)
_GAMMA = Parameter(name="g", meaning="how many bits the quantized tensors need", unit="bits")
_START = {"A": 500.0, "B": 2000.0, "E": 2.0, "alpha": 0.35, "beta": 0.35}
_BOUNDS = {"A": (1e-300, np.inf), "B": (1e-300, np.inf), "E": (0.0, np.inf)}
_WIDTHS = (1e-2, 50.0)  # of a gamma
_NO_BIAS = (
    "the paper's constants come with biases in the exponents whose sign and place its text leaves open; "
    "they are left out here (precision-qat-biased has them), and the paper's optimum of 7 to 8 bits does "
    "not follow"
)


def _precision(
    form: str, shares: tuple[_Share, ...], own: tuple[Parameter, ...], formula: str, notes: tuple[str, ...]
) -> Form:
    """A loss in effective parameters."""
    bits = {variable.name: variable for variable in (PW, PA, PKV, P)}
    return Form(
        id=form,
        formula=f"L = A / N_eff^alpha + B / D^beta + E, N_eff = N * {formula}",
        target="loss",
        parameters=(*CHINCHILLA, *own),
        variables=(N, D, *(bits[share.bits] for share in shares)),
        citation=CITATION,
        function=_loss(shares),
        slope=_loss_slope(shares),
        start=_START | {q.name: 2.0 if q.unit == "bits" else 0.0 for q in own},
        bounds=_BOUNDS | {q.name: _WIDTHS if q.unit == "bits" else (-5.0, 5.0) for q in own},
        notes=notes,
    )


_PTQ = (
    Parameter(name="gpost", meaning="how many bits PTQ needs", unit="bits"),
    Parameter(name="cw", meaning="how training precision of the weights hardens them", unit="1/bit"),
    Parameter(name="ca", meaning="how training precision of the inputs hardens them", unit="1/bit"),
    Parameter(name="ckv", meaning="how training precision of the KV cache hardens it", unit="1/bit"),
)
_HARDENED = {"cw": "Pw", "ca": "Pa", "ckv": "Pkv"}


def _above(p: Params, x: Inputs, rate: str) -> tuple[FloatArray, FloatArray]:
    """``1 - exp(-c * (P - Ppost))``, 0 below, and its derivative by c."""
    gap = np.maximum(x[_HARDENED[rate]] - x["Ppost"], 0.0)
    return -np.expm1(-p[rate] * gap), gap * np.exp(-p[rate] * gap)


def _without(p: Params, x: Inputs, skip: str | None = None) -> FloatArray:
    """The PTQ delta, leaving out one of the three factors above."""
    out = p["k"] * np.exp(-x["Ppost"] / p["gpost"]) * x["D"] ** p["gD"]
    out = out / effective_parameters(_SHARES, p, x) ** p["gN"]
    for rate in _HARDENED:
        out = out * (1.0 if rate == skip else _above(p, x, rate)[0])
    return np.asarray(out)


def _unified_slope(p: Params, x: Inputs) -> dict[str, FloatArray]:
    delta = _without(p, x)
    out = {
        "k": delta / p["k"],
        "gN": -delta * np.log(effective_parameters(_SHARES, p, x)),
        "gD": delta * np.log(x["D"]),
        "gpost": delta * x["Ppost"] / p["gpost"] ** 2,
    }
    for share in _SHARES:
        out |= {name: -p["gN"] * delta * part for name, part in share.log_slope(p, x).items()}
    return out | {rate: _without(p, x, skip=rate) * _above(p, x, rate)[1] for rate in _HARDENED}


FORMS = (
    _precision(
        "precision-qat",
        _SHARES,
        _GAMMAS,
        "(1 - exp(-Pw / gw)) * (1 - exp(-Pa / ga)) * (1 - exp(-Pkv / gkv))",
        (_NO_BIAS,),
    ),
    _precision(
        "precision-qat-biased",
        _BIASED,
        (*_GAMMAS, *_BIASES),
        "(1 - exp(nw - Pw / gw)) * (1 - exp(na - Pa / ga)) * (1 - exp(nkv - Pkv / gkv))",
        (
            "one reading of the paper's biases, e^(x / gamma + n) with x = -P; sign and place are "
            "unverified, and its optimum of 7 to 8 bits does not follow from this reading either",
        ),
    ),
    _precision("precision-weights", (_Share("P", "g"),), (_GAMMA,), "(1 - exp(-P / g))", ()),
    _precision(
        "precision-cubed",
        (_Share("P", "g", times=3),),
        (_GAMMA,),
        "(1 - exp(-P / g))^3",
        ("weights, inputs and KV cache alike",),
    ),
    Form(
        id="precision-ptq",
        formula="delta = k * D^gD * exp(-c * P) / N^gN",
        target="delta",
        parameters=(K, GN, GD, BITS),
        variables=(N, D, P),
        citation=CITATION,
        terms=(
            Term(
                scale="k",
                axes=(
                    falls("N", "gN"),
                    grows("D", "gD"),
                    LogAxis(parameter="c", variable="P", sign=-1, transform="exp"),
                ),
            ),
        ),
        notes=("the paper's C_T is k and its gamma_post is 1/c",),
    ),
    Form(
        id="precision-unified",
        formula="delta = k * D^gD * exp(-Ppost / gpost) / N_eff^gN * prod_x (1 - exp(-c_x * (P_x - Ppost)))",
        target="delta",
        parameters=(K, GN, GD, *_PTQ, *_GAMMAS),
        variables=(N, D, PW, PA, PKV, P_POST),
        citation=CITATION,
        function=_without,
        slope=_unified_slope,
        start={"k": 0.06, "gN": 0.34, "gD": 0.5, "gpost": 0.6, "cw": 0.5, "ca": 0.5, "ckv": 0.5}
        | {"gw": 2.7, "ga": 2.2, "gkv": 1.0},
        bounds={"k": (1e-300, np.inf), "gpost": _WIDTHS, "gw": _WIDTHS, "ga": _WIDTHS, "gkv": _WIDTHS}
        | dict.fromkeys(_HARDENED, (0.0, 50.0)),
        notes=(
            "what PTQ adds to a model that was trained at Pw, Pa, Pkv; 0 where Ppost is one of them, and "
            "taken to be 0 above (the paper does not say)",
            "the constants c of the paper are not printed: the form alone",
        ),
    ),
)
