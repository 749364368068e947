"""AQAS: the scale of each input channel that is best with weight and input quantized together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qscale.ptq.layers import Change, Site
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.methods.smoothquant import smoothing
from qscale.ptq.statistics import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class AQAS(Step):
    """Activation-quantization-aware scaling (Lee et al. 2023, EMNLP, from a summary).

    Of the scales that are tried the one with the least ``||Q(W s) Q(x / s) - W x||^2`` is taken, both
    quantizers those of the recipe, errors summed over the layers that share the input. Inputs become
    ``x / s``, weights ``W s``. Their W4A8 is ``w4a8:g128``, or dINT4 weights ``w=dint4:g128,a=int8:token``.

    The authors' search grid is not known. Ours: ``s = 1``, so that it never ends worse than without, and
    SmoothQuant's scales for ``alpha = 0, 1/grid, ..., 1``. Errors are those of the sampled rows. The authors
    calibrate at the sequence length of the task (SLAC): that is ``--length``.
    """

    name: ClassVar[str] = "aqas"
    kind: ClassVar[Kind] = "transform"
    needs: ClassVar[tuple[Need, ...]] = ("range", "rows")

    grid: int = parameter(20, "intervals of alpha from 0 to 1", low=1, high=1000)

    def transform(self, site: Site) -> Change | None:
        """The best scales of the grid; None where those are all 1."""
        found = site.statistics
        assert found.rows is not None and found.absmax is not None
        if all(layer.quantizer is None for layer in site.layers) and site.layers[0].input is None:
            return None
        largest = torch.stack([layer.weight.abs().amax(0) for layer in site.layers]).amax(0)
        best, kept = joint_error(site, torch.ones_like(found.absmax)), None
        for step in range(self.grid + 1):
            scale = smoothing(found.absmax, largest, step / self.grid)
            error = joint_error(site, scale)
            if error < best:
                best, kept = error, scale
        return None if kept is None else Change(scale=kept)


def joint_error(site: Site, scale: Tensor) -> float:
    """``||Q(W s) Q(x / s) - W x||^2`` over the sampled rows and the layers of a site, in float64."""
    rows = site.statistics.rows
    assert rows is not None
    first = site.layers[0]
    given = first.quantized_input(first.rotate(rows / scale)).double()
    error = 0.0
    for layer in site.layers:
        weight = layer.rotate(layer.weight * scale)
        if layer.quantizer is not None:
            weight = layer.quantizer(weight.to(layer.dtype))
        output = given @ weight.double().t()
        error += float((output - rows.double() @ layer.weight.double().t()).square().sum())
    return error
