"""SmoothQuant: large input channels are divided, and the weights of those channels multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qscale.ptq.layers import Change, Site
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Need

_LEAST = 1e-5
#: Roles of layers that take the output of a norm.
_AFTER_NORMS = ("qkv", "fc1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothQuant(Step):
    """Migration of activation outliers into weights (Xiao et al. 2022, arXiv:2211.10438).

    ``s_j = max|x_j|^alpha / max_i|W_ij|^(1 - alpha)``, the maximum over all layers that share the input;
    that of the weights and ``s`` itself at least 1e-5. Inputs become ``x / s``, weights ``W s``. A channel
    that was always 0 keeps its scale (``s = 1``), where the authors' would be 1e-5.

    The authors smooth the inputs behind norms, those of QKV and of the first layers of the FFN; ``all``
    smooths every input (SmoothRot, arXiv:2506.05413, does so for the last layer of the FFN, then rotates).
    """

    name: ClassVar[str] = "smoothquant"
    kind: ClassVar[Kind] = "transform"
    needs: ClassVar[tuple[Need, ...]] = ("range",)

    alpha: float = parameter(0.5, "how much goes to the weights", low=0.0, high=1.0)
    inputs: str = parameter("norms", "the inputs smoothed", of=("norms", "all", "fc2"))

    def transform(self, site: Site) -> Change | None:
        """The scales of a site."""
        if self.inputs == "norms" and site.role not in _AFTER_NORMS:
            return None
        if self.inputs == "fc2" and site.role != "fc2":
            return None
        assert site.statistics.absmax is not None
        largest = torch.stack([layer.weight.abs().amax(0) for layer in site.layers]).amax(0)
        return Change(scale=smoothing(site.statistics.absmax, largest, self.alpha))


def smoothing(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``s`` of the largest magnitudes of inputs and weights, float32."""
    x, w = inputs.double(), weights.double().clamp(min=_LEAST)
    scale = (x.pow(alpha) / w.pow(1 - alpha)).clamp(min=_LEAST)
    return torch.where(x > 0, scale, torch.ones_like(scale)).float()
