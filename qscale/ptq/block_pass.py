"""One block of a pass: its inputs looked at, changed where the method says, its layers rounded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qscale.models.surgery import Roles, role_of
from qscale.ptq.blocks import Calls, plain
from qscale.ptq.folding import fold, is_norm, take_in, writer_of
from qscale.ptq.inputs import Divided, unshared, wrapped
from qscale.ptq.layers import Change, Layer, Rounded, Site, basis_of, bits_of
from qscale.ptq.methods import Method, Step
from qscale.ptq.report import LayerReport
from qscale.ptq.statistics import Need, Statistics
from qscale.ptq.tuning import Tuning
from qscale.quantizers import Quantizer, QuantLinear, Rotated, Shared

_CHANGE_BITS = 16  # of each number that stays at an input


def quantize_block(
    name: str, block: nn.Module, calls: Calls, method: Method, roles: Roles | None = None
) -> list[LayerReport]:
    """Quantize a block in place, whose linear layers surgery has replaced already.

    Raises:
        ConfigError: An input is not finite.
    """
    linears = {n: module for n, module in block.named_modules() if isinstance(module, QuantLinear)}
    if not linears:
        return []

    def output() -> Tensor:
        with plain(block):
            return calls.run(name, 0) - calls.hidden[0]

    inputs = _calibrated(name, block, linears, calls, method, roles)
    tuning = _tuning(name, block, calls) if any(step.tunes for step in method.steps) else None
    for step in method.steps:
        for one in inputs:
            if (change := step.transform(one.site)) is not None:
                one.change(change, inputs, output)
    for one in inputs:
        _round(one, method)
    if tuning is not None:
        _tune(tuning, method, [place for one in inputs for place in one.places])
    return [report for one in inputs for report in _reports(one)]


def quantize_layer(
    name: str, module: QuantLinear, statistics: Statistics, method: Method, roles: Roles | None = None
) -> LayerReport:
    """Quantize one layer in place, whose linear layer surgery has replaced, from statistics of its input.

    Nothing else of the model is touched: a change of the input stays at the layer. Steps of kind
    ``transform``, ``round`` and ``correct`` do their work, no other.
    """
    module.input_quantizer = unshared(module.input_quantizer)
    rows = statistics.rows
    assert rows is not None
    place = _place(name, module, rows)
    one = _Input(
        places=[place],
        site=Site(
            layers=[place.layer],
            statistics=statistics,
            role=role_of(name, roles),
            quantizer=module.input_quantizer,
        ),
        producer=None,
        rows=rows,
    )
    for step in method.steps:
        if (change := step.transform(one.site)) is not None:
            one.change(change, [one], lambda: rows)
    _round(one, method)
    return _reports(one)[0]


def layer_of(name: str, module: nn.Module) -> Layer:
    """What methods see of a layer that surgery has replaced."""
    assert isinstance(module, QuantLinear)
    quantizer, rotate, unrotate = basis_of(module.weight_quantizer)
    return Layer(
        name=name,
        weight=module.weight.detach().float().clone(),
        quantizer=quantizer,
        rotate=rotate,
        unrotate=unrotate,
        dtype=module.weight.dtype,
        input=_input_quantizer(module),
    )


def _input_quantizer(module: QuantLinear) -> Quantizer | None:
    """That of a layer's input, in the layer's basis."""
    return basis_of(unshared(module.input_quantizer))[0]


@dataclass(slots=True, kw_only=True, eq=False)
class _Place:
    """A layer of the model, and what it gave on the sampled inputs before anything was changed."""

    module: QuantLinear
    layer: Layer
    signal: Tensor  #: without the bias
    bias: Tensor  #: as it was
    nearest: float  #: the error of rounding to nearest
    rounded: Rounded | None = None

    def error(self, output: Tensor) -> float:
        """``||y - y'||^2 / ||y||^2``, the bias left out of the latter."""
        power = float(self.signal.double().square().sum())
        lost = float((output.double() - self.signal.double() - self.bias.double()).square().sum())
        return lost / power if power > 0 else 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Input:
    """An input, its layers, and where changes of it went."""

    places: list[_Place]
    site: Site
    producer: nn.Module | None
    rows: Tensor  #: sampled inputs as they reach the layers
    kept: Change | None = None  #: what stays at the input
    folded: bool | None = None
    is_static: bool = False  #: its quantizer holds a scale

    def change(self, change: Change, inputs: list[_Input], output: Callable[[], Tensor]) -> None:
        """Change the input, in what is before it where it goes, else at the layers."""
        if change.quantizer is not None:
            self._requantize(change.quantizer)
        if change.is_none:
            return
        self.site.statistics = self.site.statistics.divided(change.scale, change.shift)
        modules = [place.module for place in self.places]
        if self.kept is None and fold(change, modules, self.producer, output):
            shift = 0.0 if change.shift is None else change.shift
            self.rows = (self.rows - shift) / change.scale
            self.folded = self.folded is not False
            for place in (place for one in inputs for place in one.places):
                if place.module is self.producer:
                    place.signal, place.bias = place.signal / change.scale, place.bias / change.scale
        else:
            self.kept, self.folded = _both(self.kept, change), False
        for one in inputs:
            one._refresh()

    def _requantize(self, quantizer: Quantizer) -> None:
        before = unshared(self.places[0].module.input_quantizer)
        quantizer = quantizer.to(self.rows.device)
        self._put(before.around(quantizer) if isinstance(before, Rotated) else quantizer)
        for place in self.places:
            place.layer.input = quantizer
        self.is_static = True

    def _put(self, quantizer: nn.Module) -> None:
        """Have the layers quantize their input so."""
        quantizer.train(self.places[0].module.training)
        new = quantizer if len(self.places) == 1 else Shared(quantizer, len(self.places))
        for place in self.places:
            place.module.input_quantizer = new

    def _refresh(self) -> None:
        for place in self.places:
            weight = place.module.weight.detach().float()
            place.layer.weight = weight.clone() if self.kept is None else weight * self.kept.scale

    def leave(self) -> None:
        """Have the layers divide their input by what stays at it."""
        if self.kept is None:
            return
        before = unshared(self.places[0].module.input_quantizer)
        self._put(Divided(before, self.kept.scale, self.kept.shift))
        for place in self.places:
            take_in(place.module, self.kept)

    def wrap(self, step: Step) -> None:
        """Have a step put its own around what quantizes the input."""
        before = unshared(self.places[0].module.input_quantizer)
        new = wrapped(before, lambda quantizer: step.wrap(self.site, quantizer))
        if new is not None and new is not before:
            self._put(new)


def _both(first: Change | None, then: Change) -> Change:
    """Two changes as one."""
    if first is None:
        return then
    shift = first.shift
    if then.shift is not None:
        moved = first.scale * then.shift
        shift = moved if shift is None else shift + moved
    return Change(scale=first.scale * then.scale, shift=shift)


def _calibrated(
    name: str,
    block: nn.Module,
    linears: dict[str, QuantLinear],
    calls: Calls,
    method: Method,
    roles: Roles | None,
) -> list[_Input]:
    """The inputs of the block's quantized layers, looked at while it runs without quantizers."""
    sources, makers = _sources(name, block, linears, calls)
    groups: dict[Hashable, list[str]] = {}
    for layer, module in linears.items():
        # inputs that are quantized or rotated apart are inputs of their own
        groups.setdefault((sources[layer], id(module.input_quantizer)), []).append(layer)
    needs: set[Need] = {"rows", *method.needs}
    found = {
        layers[0]: Statistics(
            width=linears[layers[0]].in_features, needs=needs, name=f"layer {name}.{layers[0]}"
        )
        for layers in groups.values()
    }

    def gather(statistics: Statistics) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: statistics.add(given[0])

    handles = [linears[first].register_forward_pre_hook(gather(s)) for first, s in found.items()]
    try:
        with plain(block):
            for batch in range(len(calls.hidden)):
                calls.run(name, batch)
    finally:
        for handle in handles:
            handle.remove()
    inputs = []
    for layers in groups.values():
        statistics = found[layers[0]]
        assert statistics.rows is not None
        places = [_place(f"{name}.{layer}", linears[layer], statistics.rows) for layer in layers]
        inputs.append(
            _Input(
                places=places,
                site=Site(
                    layers=[place.layer for place in places],
                    statistics=statistics,
                    role=role_of(f"{name}.{layers[0]}", roles),
                    quantizer=unshared(places[0].module.input_quantizer),
                ),
                producer=makers.get(sources[layers[0]], writer_of(block, layers[0])),
                rows=statistics.rows,
            )
        )
    return inputs


def _sources(
    name: str, block: nn.Module, linears: dict[str, QuantLinear], calls: Calls
) -> tuple[dict[str, Hashable], dict[Hashable, nn.Module]]:
    """Which memory each layer takes as its input, and which norms wrote it."""
    alive: list[Tensor] = []  # so that no two of them are ever in one place
    sources: dict[str, Hashable] = {}
    makers: dict[Hashable, nn.Module] = {}

    def place(x: Tensor) -> Hashable:
        alive.append(x)
        return x.data_ptr(), x.numel()

    def takes(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: sources.update({layer: place(given[0])})

    def gives(module: nn.Module, _: tuple[Tensor, ...], made: Tensor) -> None:
        makers[place(made)] = module

    handles = [module.register_forward_pre_hook(takes(layer)) for layer, module in linears.items()]
    handles += [m.register_forward_hook(gives) for m in block.modules() if is_norm(m)]
    try:
        with plain(block):
            calls.run(name, 0)
    finally:
        for handle in handles:
            handle.remove()
    return sources, makers


def _place(name: str, module: QuantLinear, rows: Tensor) -> _Place:
    weight = module.weight.detach().float()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().float().clone()
    place = _Place(
        module=module, layer=layer_of(name, module), signal=rows @ weight.t(), bias=bias, nearest=0.0
    )
    place.nearest = place.error(module(rows.to(module.weight.dtype)).float())
    return place


def _round(one: _Input, method: Method) -> None:
    """Round the layers of an input and leave them in the model."""
    first = one.places[0]
    is_rotated = isinstance(first.module.weight_quantizer, Rotated)
    statistics = one.site.statistics.rotated(first.layer.rotate) if is_rotated else one.site.statistics
    results = [_round_one(place.layer, method, statistics) for place in one.places]
    one.leave()
    for step in method.steps:
        one.wrap(step)
    for place, rounded in zip(one.places, results, strict=True):
        place.rounded = rounded
        spec = place.layer.spec
        place.module.fix(rounded.weight, None if spec is None else str(spec))


def _tuning(name: str, block: nn.Module, calls: Calls) -> Tuning:
    """What the block gives before anything of it is changed, to be matched."""
    with plain(block):
        targets = [calls.run(name, batch) for batch in range(len(calls.hidden))]
    return Tuning(
        name=name,
        inputs=calls.hidden,
        targets=targets,
        call=lambda hidden, weights: calls.call(name, hidden, weights),
    )


def _tune(tuning: Tuning, method: Method, places: list[_Place]) -> None:
    """Have steps learn the block, and leave what they learned in its layers."""
    named = {place.layer.name.removeprefix(f"{tuning.name}."): place for place in places}
    for name, place in named.items():
        if place.layer.quantizer is not None and place.rounded is not None:
            tuning.layers[name], tuning.rounded[name] = place.layer, place.rounded
    for step in method.steps:
        if step.tunes:
            step.tune(tuning)
    for name, place in named.items():
        place.rounded = tuning.rounded.get(name, place.rounded)
        assert place.rounded is not None
        place.module.weight.copy_(place.rounded.weight)


def _reports(one: _Input) -> list[LayerReport]:
    """What became of the layers of an input."""
    shared = sum(place.layer.weight.numel() for place in one.places)
    extra = 0.0
    if one.kept is not None:
        numbers = len(one.kept.scale) * (1 if one.kept.shift is None else 2)
        extra = _CHANGE_BITS * numbers / shared
    if one.is_static:
        extra += _CHANGE_BITS / shared
    reports = []
    for place in one.places:
        rounded = place.rounded
        assert rounded is not None
        output = place.module(one.rows.to(place.module.weight.dtype)).float()
        reports.append(
            LayerReport(
                layer=place.layer.name,
                role=one.site.role,
                elements=place.module.weight.numel(),
                relmse_nearest=place.nearest,
                relmse=place.error(output),
                bits=rounded.bits + extra,
                folded=one.folded,
                notes=rounded.notes,
            )
        )
    return reports


def _round_one(layer: Layer, method: Method, statistics: Statistics) -> Rounded:
    target = layer.rotate(layer.weight)
    if layer.quantizer is None:
        full = torch.finfo(layer.dtype).bits
        return Rounded(weight=target, bits=bits_of(None, target.shape, full))
    weight = target
    for step in method.steps:
        limited = step.limit(layer, statistics)
        weight = weight if limited is None else limited
    rounded = method.rounding.round(layer, weight, statistics)
    for step in method.steps:
        rounded = step.correct(layer, target, rounded, statistics)
    return rounded
