"""From the words of a recipe to a quantizer module."""

from __future__ import annotations

from qscale.formats import QuantSpec
from qscale.formats.methods import METHODS, check_served, parse_call
from qscale.quantizers.absmax import Absmax, StochasticAbsmax
from qscale.quantizers.lsq import LSQ
from qscale.quantizers.quantizer import Quantizer
from qscale.quantizers.quest import Quest
from qscale.quantizers.scaled import LAC, LWC, Clip
from qscale.quantizers.seq import SEQ
from qscale.quantizers.statsq import StatsQ

#: Every quantizer by the name that a recipe uses.
QUANTIZERS: dict[str, type[Quantizer]] = {
    "absmax": Absmax,
    "clip": Clip,
    "lwc": LWC,
    "lac": LAC,
    "lsq": LSQ,
    "quest": Quest,
    "statsq": StatsQ,
    "seq": SEQ,
}
assert QUANTIZERS.keys() == METHODS.keys()


def make_quantizer(
    method: str, spec: QuantSpec, *, operand: str, shape: tuple[int, ...], name: str = ""
) -> Quantizer:
    """The module that quantizes one operand of a layer.

    Args:
        method: As a recipe writes it, such as ``absmax`` or ``clip(0.9)``.
        spec: Format and groups.
        operand: ``weight`` or ``input``.
        shape: Of the weight, ``(out_features, in_features)``, or ``(in_features,)`` of the input.
        name: What the seeds of random rounding are made of; the dotted name of the operand.

    Raises:
        SpecError: Unknown quantizer, or it does not serve this operand or spec; the message names what does.
    """
    known, parameter = parse_call(method)
    check_served(method, operand, spec)
    if known == "absmax":
        return StochasticAbsmax(spec, name) if spec.rounding == "stochastic" else Absmax(spec)
    if known == "clip":
        assert parameter is not None
        return Clip(spec, parameter)
    if known == "lac":
        return LAC(spec, shape[-1])
    if known in ("lwc", "lsq", "seq"):
        return {"lwc": LWC, "lsq": LSQ, "seq": SEQ}[known](spec, shape)
    return {"quest": Quest, "statsq": StatsQ}[known](spec)
