"""Modules that fake-quantize tensors, built on the kernels."""

from qscale.quantizers.absmax import Absmax, StochasticAbsmax
from qscale.quantizers.annealing import Annealing
from qscale.quantizers.linear import QuantLinear
from qscale.quantizers.lsq import LSQ
from qscale.quantizers.make import QUANTIZERS, make_quantizer
from qscale.quantizers.qkr import QueryKey
from qscale.quantizers.quantizer import Quantizer
from qscale.quantizers.quest import Quest
from qscale.quantizers.rotation import Rotated, signs_of
from qscale.quantizers.scaled import LAC, LWC, Clip
from qscale.quantizers.seq import SEQ
from qscale.quantizers.sharing import Shared
from qscale.quantizers.statsq import StatsQ

__all__ = [
    "LAC",
    "LSQ",
    "LWC",
    "QUANTIZERS",
    "SEQ",
    "Absmax",
    "Annealing",
    "Clip",
    "QuantLinear",
    "Quantizer",
    "QueryKey",
    "Quest",
    "Rotated",
    "Shared",
    "StatsQ",
    "StochasticAbsmax",
    "make_quantizer",
    "signs_of",
]
