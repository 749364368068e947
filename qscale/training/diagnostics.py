"""What quantization does to the tensors of each layer, measured on one batch; and how codes oscillate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qscale.formats import QuantSpec
from qscale.models.ladder import ModelShape
from qscale.quantizers import QuantLinear, QueryKey
from qscale.training.ranks import Ranks

_SAME_CODE = 1e-5  # relative difference of two values of a grid that are one
_MOMENTUM = 0.01  # of the moving average of oscillations
_MOST_SAMPLED = 1 << 20  # elements that a median is taken of


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiagnostics:
    """One linear layer of a block, on one batch. What a layer does not quantize is None.

    ``relmse`` is ``E[(q - x)^2] / E[x^2]``, in the rotated basis where the recipe rotates, and SQNR is
    ``-10 log10`` of it, in dB. ``clipped`` is the share of elements whose gradient the quantizer stops.
    ``kurtosis`` is ``E[(x - mean)^4] / sd^4`` of the plain input (3 for a normal one).

    Where queries and keys are reparameterised, ``query_key`` stands for both projections: its weight is the
    product, its input that of the queries, its elements and its gradient are those of the two projections.
    """

    layer: str
    role: str | None
    elements: int  #: of the weight
    weight_relmse: float | None
    weight_sqnr: float | None
    weight_clipped: float | None
    input_relmse: float | None
    input_sqnr: float | None
    input_clipped: float | None
    input_kurtosis: float
    input_peak: float  #: largest magnitude over the median magnitude: massive activations
    gradient_norm: float | None = None  #: of the weight's gradient, where there is one
    oscillation: float | None = None  #: see :class:`Oscillations`

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


def diagnose(
    model: nn.Module,
    tokens: Tensor,
    shape: ModelShape,
    oscillations: Oscillations | None = None,
    ranks: Ranks | None = None,
) -> list[LayerDiagnostics]:
    """Run one forward pass and look at every linear layer of the blocks as it ends, its weight being there.

    Nothing of the model changes: no gradient, no parameter, no state of a random quantizer. Of several
    processes all have to call it; all find the same.

    Args:
        model: With or without quantized layers.
        tokens: ``(sequences, context)``.
        shape: Names the roles.
        oscillations: Whose averages are taken along.
        ranks: The processes that train the model.

    Example:
        >>> from qscale.models.families import build
        >>> from qscale.models.ladder import shape_of
        >>> from qscale.models.surgery import quantize_model
        >>> shape = shape_of("tiny-20k")
        >>> model = build(shape, context=32, seed=0)
        >>> _ = quantize_model(model, "w4a16:g32")
        >>> first = diagnose(model, torch.arange(64).view(2, 32), shape)[0]
        >>> first.layer, first.role, first.input_relmse, 0.005 < first.weight_relmse < 0.02
        ('model.layers.0.self_attn.q_proj', 'qkv', None, True)
    """
    ranks, layers = ranks or Ranks(), dict(_linears(model))
    gradients = {name: _gradient_norm(layer, ranks) for name, layer in layers.items()}
    roles = {name: "qkv" if isinstance(x, QueryKey) else shape.role(name) for name, x in layers.items()}
    found: dict[str, LayerDiagnostics] = {}

    def look_at(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(layer, (nn.Linear, QueryKey))
            rate = None if oscillations is None else oscillations.rate(name)
            found[name] = _layer(name, layer, given[0], roles[name], gradients[name], rate)

        return hook

    handles = [layer.register_forward_hook(look_at(name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
        return [found[name] for name in layers]
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)


def relmse(found: Iterable[LayerDiagnostics]) -> tuple[float | None, float | None]:
    """The mean relmse of weights and of inputs over layers, weighted by their elements; None without any."""
    layers = list(found)
    means = []
    for operand in ("weight_relmse", "input_relmse"):
        pairs = [(value, x.elements) for x in layers if (value := getattr(x, operand)) is not None]
        total = sum(elements for _, elements in pairs)
        means.append(sum(value * elements for value, elements in pairs) / total if total else None)
    return means[0], means[1]


def _linears(model: nn.Module) -> Iterable[tuple[str, nn.Linear | QueryKey]]:
    """Those of the blocks; of projections that are one product, the product."""
    products = [module for module in model.modules() if isinstance(module, QueryKey)]
    within = {id(linear) for product in products for linear in (product.query, product.key)}
    for name, module in model.named_modules():
        in_block = any(part.isdigit() for part in name.split("."))
        if in_block and isinstance(module, (nn.Linear, QueryKey)) and id(module) not in within:
            yield name, module


def _weights(layer: nn.Linear | QueryKey) -> list[Tensor]:
    return [layer.query.weight, layer.key.weight] if isinstance(layer, QueryKey) else [layer.weight]


def _gradient_norm(layer: nn.Linear | QueryKey, ranks: Ranks) -> float | None:
    norms = [float(ranks.whole(w.grad).norm()) for w in _weights(layer) if w.grad is not None]
    return math.hypot(*norms) if norms else None


def _layer(
    name: str,
    layer: nn.Linear | QueryKey,
    x: Tensor,
    role: str | None,
    gradient_norm: float | None,
    oscillation: float | None,
) -> LayerDiagnostics:
    quantizers: tuple[nn.Module | None, nn.Module | None] = (None, None)
    if isinstance(layer, (QuantLinear, QueryKey)):
        quantizers = (layer.weight_quantizer, layer.input_quantizer)
    of_weight, of_input = _error(quantizers[0], layer.weight.detach()), _error(quantizers[1], x)
    flat = x.flatten().double()
    centred = flat - flat.mean()
    variance = float(centred.square().mean())
    median = float(x.abs().flatten()[:_MOST_SAMPLED].median())
    return LayerDiagnostics(
        layer=name,
        role=role,
        elements=sum(weight.numel() for weight in _weights(layer)),
        weight_relmse=of_weight[0],
        weight_sqnr=_decibels(of_weight[0]),
        weight_clipped=of_weight[1],
        input_relmse=of_input[0],
        input_sqnr=_decibels(of_input[0]),
        input_clipped=of_input[1],
        input_kurtosis=float(centred.pow(4).mean()) / variance**2 if variance > 0 else 0.0,
        input_peak=float(x.abs().max()) / median if median > 0 else 0.0,
        gradient_norm=gradient_norm,
        oscillation=oscillation,
    )


def _error(quantizer: nn.Module | None, x: Tensor) -> tuple[float | None, float | None]:
    """The relmse of one tensor, and the share of it whose gradient is stopped."""
    if quantizer is None or getattr(quantizer, "spec", None) is None:
        return None, None
    inner = getattr(quantizer, "quantizer", quantizer)
    if inner is not quantizer:  # shared, rotated, divided
        basis = getattr(quantizer, "basis", None)
        return _error(inner, x if basis is None else basis(x))
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        q = quantizer(leaf)
        (passed,) = torch.autograd.grad(q, leaf, torch.ones_like(q))
    power = float(x.double().square().sum())
    error = float((q.detach().double() - x.double()).square().sum())
    return (error / power if power > 0 else 0.0), float((passed == 0).double().mean())


def _decibels(ratio: float | None) -> float | None:
    """None also for an error of 0: JSON has no infinity."""
    return None if not ratio else -10 * math.log10(ratio)


class Oscillations:
    """How often the code of a weight turns back: up after down, or down after up.

    Of the event "the quantized value moved against its last move" a moving average over steps is kept for
    each weight, momentum 0.01; a layer's rate is the mean over its weights. Values are compared relative to
    the largest of their group, so that a scale that drifts moves no code. Of several processes all have to
    update theirs, and each keeps four numbers a weight, of all weights.

    Source: OFQ, ICML 2023 (its definition; behaviour on language models unverified).

    Example:
        >>> # after each optimizer step:  meter.update()
    """

    def __init__(self, model: nn.Module, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.layers: dict[str, QuantLinear | QueryKey] = {}
        self.groups: dict[str, int | None] = {}  #: elements in a group of weights; None: a row
        for name, layer in model.named_modules():
            spec = getattr(getattr(layer, "weight_quantizer", None), "spec", None)
            if isinstance(layer, (QuantLinear, QueryKey)) and isinstance(spec, QuantSpec):
                self.layers[name], self.groups[name] = layer, spec.group_size
        self._last: dict[str, Tensor] = {}
        self._moved: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Look at the codes after a step."""
        for name, layer in self.layers.items():
            quantizer = layer.weight_quantizer
            assert quantizer is not None
            training = quantizer.training
            learned = {name: self.ranks.whole(p) for name, p in quantizer.named_parameters()}
            weight = self.ranks.whole(layer.weight)
            # random rounding would draw, and count the draw
            q = functional_call(quantizer.eval(), learned, (weight,))
            quantizer.train(training)
            code = q / _group_absmax(q, self.groups[name])
            if name not in self._last:
                self._last[name] = code
                self._moved[name], self._average[name] = torch.zeros_like(code), torch.zeros_like(code)
                continue
            step = code - self._last[name]
            step = torch.where(step.abs() > _SAME_CODE, step.sign(), torch.zeros_like(step))
            turned = (step * self._moved[name] < 0).to(code.dtype)
            self._average[name].lerp_(turned, _MOMENTUM)
            self._moved[name] = torch.where(step != 0, step, self._moved[name])
            self._last[name] = code

    def rate(self, name: str) -> float | None:
        """The mean over a layer's weights; None before two updates, or where it quantizes no weight."""
        return float(self._average[name].mean()) if name in self._average else None


def _group_absmax(q: Tensor, group: int | None) -> Tensor:
    """The largest magnitude of the group of each element, 1 where all are 0."""
    rows, width = q.shape
    size = group or width
    whole = nn.functional.pad(q.abs(), (0, -width % size)).view(rows, -1, size)
    peak = whole.amax(dim=-1, keepdim=True).expand_as(whole).reshape(rows, -1)[:, :width]
    return torch.where(peak > 0, peak, torch.ones_like(peak))


def summary(found: Iterable[LayerDiagnostics]) -> Mapping[str, float | None]:
    """What a record keeps of a run's diagnostics."""
    weight, inputs = relmse(found)
    return {"relmse_weight": weight, "relmse_input": inputs}
