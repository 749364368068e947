"""Grids of ``2**b`` levels without a zero, half a step from it: QuEST and StatsQ."""

from __future__ import annotations

from dataclasses import replace

from qscale.formats import QuantSpec
from qscale.quantizers.gates import ScaledRounding


def centred_rounding(spec: QuantSpec) -> ScaledRounding:
    """``y = (clamp(round(x / step + z), 0, 2**b - 1) - z) * step`` with ``z = 2**(b-1) - 1/2``.

    That is ``step * (k + 1/2)`` for k from ``-2**(b-1)`` to ``2**(b-1) - 1``: the integers with a real zero
    point that ``fake_quant`` has, which serve it here with steps of the caller's. The gradient passes where
    the rounded code is in range: ``|x| <= 2**(b-1) * step``, to a rounding.
    """
    asymmetric = replace(spec, dialect="qscale", symmetric=False, zero_point="float")
    return ScaledRounding(asymmetric, "clipped", zero_point=2.0 ** (spec.num_bits - 1) - 0.5)
