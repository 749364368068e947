"""OutlierTune: each input channel has a scale of its own, which the weights carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qscale.ptq.layers import Change, Site
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierTune(Step):
    """Per-channel scales of activations at no cost (arXiv:2406.18832, from its abstract).

    Inputs become ``(x - z) / s``, weights ``W s``, biases ``b + W z``, so that one scale per tensor is one a
    channel of ``x``. ``z = (max + min) / 2`` balances each channel's range (unverified) and ``s`` is half
    that range; without ``symmetrize`` ``z = 0`` and ``s = max|x|``. Ranges are those of calibration.
    Channels that never change keep their scale. Order of the steps and calibration: not known.
    The scale of the tensor is found at run time, as the recipe's input spec says; it lies near 1.
    """

    name: ClassVar[str] = "outlier_tune"
    kind: ClassVar[Kind] = "transform"
    needs: ClassVar[tuple[Need, ...]] = ("range",)

    symmetrize: bool = parameter(True, "a shift that balances each channel")

    def transform(self, site: Site) -> Change | None:
        """Half the range of each channel, and its middle."""
        found = site.statistics
        assert found.low is not None and found.high is not None and found.absmax is not None
        if not self.symmetrize:
            return Change(scale=torch.where(found.absmax > 0, found.absmax, torch.ones_like(found.absmax)))
        half, middle = found.high / 2 - found.low / 2, found.high / 2 + found.low / 2
        return Change(scale=torch.where(half > 0, half, torch.ones_like(half)), shift=middle)
