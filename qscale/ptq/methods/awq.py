"""AWQ: channels that see large inputs are scaled up before rounding, and ranges are clipped by a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qscale.ptq.layers import Change, Layer, Site
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import ROWS_AT_ONCE, Need, Statistics, output_error

_LEAST_SCALE = 1e-4
#: Names of layers whose ranges are not clipped in the authors' code: queries and keys.
_UNCLIPPED = ("q_", "k_", "query", "key", "Wqkv")


@dataclass(frozen=True, slots=True, kw_only=True)
class AWQ(Step):
    """Activation-aware scales and clipping (Lin et al. 2023, arXiv:2306.00978).

    Scales: with ``a`` the mean magnitude of each input channel and ``r = 0, 1/grid, ..., 1 - 1/grid``,
    ``s = max(a^r, 1e-4)``, divided by ``sqrt(max(s) min(s))``; the ``r`` is kept whose
    ``Q(W s)/s`` changes the output least. Weights become ``W s``, inputs ``x / s``.

    Clipping, a group of a row at a time: of the limits ``max|w| (1 - i/grid)``, ``i`` below ``shrink grid``,
    the one that changes the group's part of the output least. Layers that are queries or keys by name are
    left, as in the authors' code; so is a layer that clipping makes worse as a whole.

    Rounding to nearest follows, or a rounding step of the method's text, such as ``awq+gptq``. Unlike the
    authors' code: errors are those of the linear layers that share the input, summed, where theirs of Q, K
    and V is that of the attention; they are taken over all calibration tokens by second moments, theirs for
    clipping over 512; and scales that nothing before the layer can take stay at its input, where theirs
    leaves the layer alone.
    """

    name: ClassVar[str] = "awq"
    kind: ClassVar[Kind] = "transform"
    needs: ClassVar[tuple[Need, ...]] = ("moments", "mean")

    grid: int = parameter(20, "candidates", low=1, high=1000)
    shrink: float = parameter(0.5, "the part of a range that clipping may take", low=0.0, high=1.0)
    scale: bool = parameter(True, "scaling")
    clip: bool = parameter(True, "clipping")

    def transform(self, site: Site) -> Change | None:
        """The best scales of the grid; None where those are all 1."""
        found = site.statistics
        assert found.mean is not None and found.moments is not None
        if not self.scale or all(layer.quantizer is None for layer in site.layers):
            return None
        best, kept = torch.inf, None
        for step in range(self.grid):
            scale = candidate(found.mean, step / self.grid)
            error = site_error(site, scale)
            if error < best:
                best, kept = error, None if step == 0 else scale
        return None if kept is None else Change(scale=kept)

    def limit(self, layer: Layer, statistics: Statistics) -> Tensor | None:
        """The weight with each group of a row clamped to its best limit."""
        last = layer.name.rpartition(".")[2]
        weight = layer.rotate(layer.weight)
        if not self.clip or layer.spec is None or any(part in last for part in _UNCLIPPED):
            return None
        assert statistics.moments is not None and layer.quantizer is not None
        spec = layer.spec
        length = weight.shape[1] if spec.strategy == "tensor" else spec.group_length(weight.shape[1])
        length = max(1, min(length, weight.shape[1]))
        largest = _grouped(weight, length).abs().amax(2)
        own = _own_moments(statistics.moments, length)
        best, limits = torch.full_like(largest, torch.inf, dtype=torch.float64), largest.clone()
        for step in range(max(1, int(self.shrink * self.grid))):
            tried = largest * (1 - step / self.grid)
            rounded = layer.quantizer(_clamped(weight, tried, length).to(layer.dtype)).float()
            error = _group_errors(rounded - weight, own, length)
            better = error < best
            best, limits = torch.where(better, error, best), torch.where(better, tried, limits)
        clamped = _clamped(weight, limits, length)
        errors = [
            float(output_error(layer.quantizer(w.to(layer.dtype)).float() - weight, statistics.moments).sum())
            for w in (weight, clamped)
        ]
        return clamped if errors[1] < errors[0] else None


def candidate(mean: Tensor, ratio: float) -> Tensor:
    """The scales of one ratio, float32."""
    scale = mean.double().pow(ratio).clamp(min=_LEAST_SCALE)
    return (scale / (scale.max() * scale.min()).sqrt()).float()


def site_error(site: Site, scale: Tensor) -> float:
    """``sum ||X (Q(W s)/s - W)^T||^2`` over the layers of a site, Q rounding to nearest."""
    moments = site.statistics.moments
    assert moments is not None
    # (Q(W s) - W s) / s is weighed by M as its numerator is by M / s s^T, and that difference is exact.
    divided = (moments.double() / scale[:, None].double()).div_(scale.double())
    error = 0.0
    for layer in site.layers:
        if layer.quantizer is not None:
            scaled = layer.weight * scale
            error += float(output_error(layer.nearest(scaled) - scaled, divided).sum())
    return error


def _grouped(weight: Tensor, length: int) -> Tensor:
    """``(rows, groups, length)``, the last group filled up with zeros."""
    fill = -weight.shape[1] % length
    filled = nn.functional.pad(weight, (0, fill)) if fill else weight
    return filled.view(len(weight), -1, length)


def _clamped(weight: Tensor, limits: Tensor, length: int) -> Tensor:
    """Each group of a row held to its limit, ``(rows, groups)``."""
    groups, limit = _grouped(weight, length), limits[:, :, None]
    return torch.clamp(groups, -limit, limit).view(len(weight), -1)[:, : weight.shape[1]]


def _own_moments(moments: Tensor, length: int) -> Tensor:
    """The moments within each group, ``(groups, length, length)``."""
    fill = -len(moments) % length
    padded = nn.functional.pad(moments.double(), (0, fill, 0, fill))
    groups = len(padded) // length
    return padded.view(groups, length, groups, length).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _group_errors(difference: Tensor, own: Tensor, length: int) -> Tensor:
    """``||X_g d_g^T||^2`` of each group of a row, ``(rows, groups)``."""
    if len(own) == 1:
        return output_error(difference, own[0])[:, None]
    errors = []
    for part in torch.split(_grouped(difference, length), ROWS_AT_ONCE):
        d = part.transpose(0, 1).double()
        errors.append(torch.bmm(d, own).mul_(d).sum(2).t())
    return torch.cat(errors).clamp_(min=0.0)
