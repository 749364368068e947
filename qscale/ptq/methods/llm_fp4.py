"""LLM-FP4: floats whose exponent biases are real numbers, searched by the error of the layer's output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import FORMATS, Grid, QuantSpec
from qscale.kernels import fake_quant
from qscale.ptq.inputs import Static
from qscale.ptq.layers import Change, Layer, Rounded, Site, bits_of
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Need, Statistics
from qscale.quantizers import Absmax

#: The least and the largest candidate, as parts of the bias that is begun with.
_LOW, _HIGH = 0.01, 1.2
_MOST_EXPONENT_BITS = 5
_AT_ONCE = 2**22  # elements that are tried together


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMFP4(Step):
    """Searched exponent biases (LLM-FP4, Liu et al. 2023, arXiv:2310.16836).

    A real exponent bias ``b`` is a scale: ``s = 2**(B - b)`` with ``B`` the bias of the format. It begins at
    ``b0 = 2**E - log2(max|x|) + log2(2 - 2**-M) - 1``, absmax; tried are ``b0`` and ``b0 (0.01 + 1.19 i /
    candidates)``, ``i`` from 0. Biases of weights are one an output row, that of an input one for all;
    ``rounds`` times first those of the weights are chosen, then the input's, by the L2 error of the layers'
    outputs with both rounded. With ``formats`` all splits of the bits into exponent (1 to 5) and mantissa
    are tried: of 4 bits E1M2, E2M1 and E3M0.

    With ``preshift`` channels of the input have biases of their own: whole numbers ``k = log2(max|x| /
    max|x_j|)``, rounded, from 0 to ``2**E - 1`` (rule and ends unverified), folded into the weights as
    ``2**-k`` before the search, and kept where the error is then less.

    Weights are floats per channel, inputs floats per tensor; an input of integers, or not quantized, stays
    as it is, and weights alone are searched. Unlike the authors' code: ``b0`` itself is tried, so that no
    round ends worse than it began; weights are chosen once more after the last round; layers that share an
    input share its bias; a format is one for a layer's weights and one for an input (theirs unverified);
    errors are those of the sampled rows; a tie goes to the even code.
    """

    name: ClassVar[str] = "llm_fp4"
    kind: ClassVar[Kind] = "round"
    needs: ClassVar[tuple[Need, ...]] = ("rows",)

    candidates: int = parameter(100, "biases tried", low=1, high=10_000)
    rounds: int = parameter(3, "searches of weights and input in turn", low=1, high=100)
    formats: bool = parameter(True, "a search of exponent and mantissa bits")
    preshift: bool = parameter(True, "biases of input channels, folded into the weights")

    def check(self, layer: Layer) -> None:
        assert layer.spec is not None
        if not isinstance(layer.quantizer, Absmax) or not _serves(layer.spec, "channel"):
            raise SpecError(f"{layer.spec}: {self.name} searches scales of rows; use fp4_e2m1:channel")
        given = None if layer.input is None else layer.input.spec
        is_served = isinstance(layer.input, Absmax) and given is not None and _serves(given, "tensor")
        if given is not None and given.type == "float" and not is_served:
            raise SpecError(
                f"{given}: {self.name} finds one scale for all inputs; use a=fp4_e2m1:tensor, or integers"
            )

    def transform(self, site: Site) -> Change | None:
        """The input's scale, found with those of the weights, and the shifts of its channels."""
        first = site.layers[0]
        given = None if first.input is None else first.input.spec
        if given is None or given.type != "float":
            return None
        assert site.statistics.rows is not None
        scale = torch.ones_like(site.layers[0].weight[0])
        best = self._search(site, scale, given)
        if self.preshift and bool(((shifts := _shifts(site.statistics.rows, given)) != 1).any()):
            shifted = self._search(site, shifts, given)
            if shifted[0] < best[0]:
                best, scale = shifted, shifts
        return Change(scale=scale, quantizer=Static(*best[1:]))

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:
        """Round a weight under the scales that are best for the inputs as they are quantized."""
        assert statistics.rows is not None and layer.spec is not None
        inputs = layer.quantized_input(statistics.rows).double()
        target = statistics.rows.double() @ layer.rotate(layer.weight).double().t()
        spec, scales = self.weight_scales(weight, layer.spec, inputs, target)
        notes = [] if spec.format == layer.spec.format else [f"weights in {spec.format}"]
        if isinstance(layer.input, Static):
            notes.append(f"inputs in {layer.input.spec.format}")
        rounded = fake_quant(weight, spec, scale=scales[:, None])
        return Rounded(weight=rounded, bits=bits_of(layer.spec, weight.shape), notes=tuple(notes))

    def weight_scales(
        self, weight: Tensor, spec: QuantSpec, inputs: Tensor, target: Tensor
    ) -> tuple[QuantSpec, Tensor]:
        """The format of a weight, and the scale of each row, with the least ``||X Q(W)^T - Y||^2``.

        Args:
            weight: ``(rows, width)``.
            spec: The recipe's, per channel.
            inputs: ``X``, as they are quantized, float64.
            target: ``Y``, float64.
        """
        gram, cross = inputs.t() @ inputs, target.t() @ inputs
        found: list[tuple[float, QuantSpec, Tensor]] = []
        for tried in self._formats(spec):
            largest = weight.abs().amax(1)
            best, kept = torch.full_like(largest, torch.inf, dtype=torch.float64), torch.ones_like(largest)
            at_once = max(1, _AT_ONCE // weight.numel())
            for scales in torch.split(self._scales(largest, tried), at_once):
                copies = weight.expand(len(scales), *weight.shape)
                rounded = fake_quant(copies, tried, scale=scales[..., None]).double()
                errors = (rounded @ gram * rounded).sum(2) - 2 * (rounded * cross).sum(2)
                least, at = errors.min(0)
                better = least < best
                best = torch.where(better, least, best)
                kept = torch.where(better, scales.gather(0, at[None])[0], kept)
            found.append((float(best.sum()), tried, kept))
        _, spec, scales = min(found, key=lambda item: item[0])
        return spec, scales

    def input_scale(
        self, rows: Tensor, spec: QuantSpec, weights: list[Tensor], targets: list[Tensor]
    ) -> tuple[float, QuantSpec, float]:
        """The least error, and the format and the one scale of inputs that have it.

        Args:
            rows: Inputs in the layers' basis, not quantized.
            spec: The recipe's.
            weights: Of the layers, as they are rounded, float64.
            targets: What they shall give, float64.
        """
        weight, target = torch.cat(weights), torch.cat(targets, dim=1)
        found: list[tuple[float, QuantSpec, float]] = []
        for tried in self._formats(replace(spec, strategy="token")):
            scales = self._scales(rows.abs().amax()[None], tried)
            for scale in scales[:, 0]:
                output = fake_quant(rows, tried, scale=scale).double() @ weight.t()
                found.append((float((output - target).square().sum()), tried, float(scale)))
        return min(found, key=lambda item: item[0])

    def _search(self, site: Site, scale: Tensor, spec: QuantSpec) -> tuple[float, QuantSpec, float]:
        """Weights and input in turn; the error at last, and the input's format and scale."""
        first = site.layers[0]
        assert site.statistics.rows is not None
        rows = first.rotate(site.statistics.rows / scale)
        weights = [layer.rotate(layer.weight * scale) for layer in site.layers]
        targets = [rows.double() @ weight.double().t() for weight in weights]
        start = replace(spec, strategy="token")
        inputs = fake_quant(rows, start, scale=self._scales(rows.abs().amax()[None], start)[0]).double()
        found = None
        for _ in range(self.rounds):
            rounded = []
            for layer, weight, target in zip(site.layers, weights, targets, strict=True):
                if layer.spec is None:
                    rounded.append(weight.double())
                    continue
                own, scales = self.weight_scales(weight, layer.spec, inputs, target)
                rounded.append(fake_quant(weight, own, scale=scales[:, None]).double())
            found = self.input_scale(rows, spec, rounded, targets)
            inputs = fake_quant(rows, found[1], scale=rows.new_tensor(found[2])).double()
        assert found is not None
        return found

    def _formats(self, spec: QuantSpec) -> Iterator[QuantSpec]:
        """The recipe's format, and the other splits of its bits."""
        yield spec
        bits, own = spec.num_bits - 1, spec.row.exponent_bits
        for exponent in range(1, min(bits, _MOST_EXPONENT_BITS) + 1) if self.formats else ():
            if exponent != own and f"fp_e{exponent}m{bits - exponent}" in FORMATS:
                yield replace(spec, format=f"fp_e{exponent}m{bits - exponent}")

    def _scales(self, largest: Tensor, spec: QuantSpec) -> Tensor:
        """Scales that are tried, ``(candidates + 1, ...)``, float32; that of ``b0`` first."""
        grid = _grid(spec)
        start = grid.bias + (grid.max / largest.double()).log2()
        start = torch.where(largest > 0, start, torch.full_like(start, float(grid.bias)))
        parts = _LOW + torch.arange(self.candidates, dtype=torch.float64) * (_HIGH - _LOW) / self.candidates
        biases = torch.cat([start[None], parts.to(start.device)[:, None] * start])
        return (grid.bias - biases).clamp(-126, 126).exp2().float()


def _serves(spec: QuantSpec, strategy: str) -> bool:
    free = spec.row.scale_type == "free" and spec.scale_dtype is None and spec.dialect == "qscale"
    return spec.type == "float" and free and spec.strategy == strategy and spec.rounding == "even"


def _grid(spec: QuantSpec) -> Grid:
    grid = spec.row.grid
    assert grid is not None
    return grid


def _shifts(rows: Tensor, spec: QuantSpec) -> Tensor:
    """``2**-k`` of each channel; 1 where it was always 0."""
    largest = rows.abs().amax(0).double()
    k = (largest.amax() / largest).log2().round().clamp(0, 2**spec.row.exponent_bits - 1)
    return torch.where(largest > 0, (-k).exp2(), torch.ones_like(k)).float()
