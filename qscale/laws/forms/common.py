"""Variables, constants and terms that several forms share."""

from __future__ import annotations

from qscale.laws.forms.form import LogAxis, Parameter, Term, Variable

P = Variable(name="P", unit="bits per value", least=0.0, least_allowed=False, least_fits=True)


def grows(variable: str, parameter: str) -> LogAxis:
    """``variable^parameter``."""
    return LogAxis(parameter=parameter, variable=variable, sign=1)


def falls(variable: str, parameter: str) -> LogAxis:
    """``variable^-parameter``."""
    return LogAxis(parameter=parameter, variable=variable, sign=-1)


#: ``A / N^alpha + B / D^beta + E``.
CHINCHILLA = (
    Parameter(name="A", meaning="scale of the size term", unit="nats/token * N^alpha"),
    Parameter(name="B", meaning="scale of the data term", unit="nats/token * D^beta"),
    Parameter(name="E", meaning="loss that neither size nor data removes", unit="nats/token"),
    Parameter(name="alpha", meaning="how fast the size term falls"),
    Parameter(name="beta", meaning="how fast the data term falls"),
)
CHINCHILLA_TERMS = (
    Term(scale="A", axes=(falls("N", "alpha"),)),
    Term(scale="B", axes=(falls("D", "beta"),)),
    Term(scale="E"),
)

#: Of ``k * D^gD * (log2 G)^gG * exp(-c P) / N^gN`` and its parts.
K = Parameter(name="k", meaning="scale; means nothing without its exponents", unit="nats/token * N^gN / D^gD")
GN = Parameter(name="gN", meaning="how fast delta falls with model size")
GD = Parameter(name="gD", meaning="how fast delta grows with training tokens")
GG = Parameter(name="gG", meaning="how fast delta grows with log2 of the group size")
BITS = Parameter(
    name="c", meaning="how fast delta falls with bits: a bit multiplies it by exp(-c)", unit="1/bit"
)
