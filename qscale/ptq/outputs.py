"""What quantization costs a model without a loss of its own, such as an encoder: errors of its outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.surgery import Roles, quantize_model
from qscale.ptq.block_pass import layer_of, quantize_layer
from qscale.ptq.methods import Kind, Method
from qscale.ptq.statistics import Need, Statistics
from qscale.quantizers import QuantLinear

#: What can be done to a layer on its own.
_KINDS: tuple[Kind, ...] = ("transform", "round", "correct")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputErrors:
    """``||y - y'||^2 / ||y||^2`` of outputs, over all batches; padding, where a mask tells it, left out."""

    layers: Mapping[str, float]  #: of each quantized layer, errors of its input included
    last: float  #: of the last hidden state


@torch.no_grad()
def output_errors(
    model: nn.Module,
    recipe: Recipe | str,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    method: Method | str = "rtn",
    calibration: Sequence[Mapping[str, Tensor]] | None = None,
    roles: Roles | None = None,
) -> OutputErrors:
    """Quantize a model's layers by a recipe, and compare its outputs with those of the model itself.

    Works on encoders (BERT, Whisper's encoder) and decoders alike, on text or on features; the model stays as
    it is. A method other than rounding to nearest calibrates each layer on its own inputs in the model that
    is not quantized, unlike a pass over a causal language model, where inputs are those behind quantized
    blocks; layers that take one input are changed apart, and changes of inputs stay there.

    Args:
        model: Of transformers; its output has ``last_hidden_state``, as that of ``AutoModel``.
        recipe: Or its text. Nothing in it may need training.
        batches: Arguments of the model, such as ``input_ids`` and ``attention_mask``, or ``input_features``.
        method: Or its text, of steps that change inputs, round or correct: ``awq+gptq``.
        calibration: Batches that the method calibrates on; None: those that errors are taken on.
        roles: As for :func:`qscale.models.surgery.quantize_model`.

    Raises:
        ConfigError: There is no batch, an output is not finite, the method has a step of another kind, or
            as surgery raises.
        SpecError: The method does not serve a layer, or as surgery raises.
    """
    recipe, method = Recipe.parse(recipe), Method.parse(method)
    if other := [step.name for step in method.steps if step.kind not in _KINDS]:
        raise ConfigError(
            f"method {method}: output errors are of layers calibrated one by one, and {', '.join(other)} "
            f"needs more: use steps that {', '.join(_KINDS)}, such as awq+gptq"
        )
    method.check_recipe(recipe)
    if learned := recipe.learned():
        raise ConfigError(f"recipe {str(recipe)!r}: {', '.join(learned)} must be trained")
    calibration = batches if calibration is None else calibration
    if not batches or not calibration:
        raise ConfigError("output errors need at least one batch, and so does a method that calibrates")
    quantized = copy.deepcopy(model).eval()
    names = quantize_model(quantized, recipe, roles)
    training = model.training
    model.eval()
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in (*names, "")}
    try:
        if str(method) != "rtn":
            _calibrate(model, quantized, names, method, calibration, roles)
        for batch in batches:
            mask = batch.get("attention_mask")
            plain, full = _outputs(model, names, batch)
            rounded, ours = _outputs(quantized, names, batch)
            for name in names:
                _add(sums[name], plain[name], rounded[name], mask)
            _add(sums[""], full, ours, mask)
    finally:
        model.train(training)
    errors = {name: lost / power if power > 0 else 0.0 for name, (lost, power) in sums.items()}
    return OutputErrors(last=errors.pop(""), layers=errors)


def _calibrate(
    model: nn.Module,
    quantized: nn.Module,
    names: Sequence[str],
    method: Method,
    batches: Sequence[Mapping[str, Tensor]],
    roles: Roles | None,
) -> None:
    """Quantize each layer from the inputs that it has in the model itself."""
    layers: dict[str, QuantLinear] = {name: quantized.get_submodule(name) for name in names}  # type: ignore[misc]
    for name, layer in layers.items():
        method.check(layer_of(name, layer))
    needs: set[Need] = {"rows", *method.needs}
    found = {
        name: Statistics(width=layer.in_features, needs=needs, name=f"layer {name}")
        for name, layer in layers.items()
    }
    mask: Tensor | None = None

    def gather(statistics: Statistics) -> Any:
        return lambda _, given: statistics.add(_unpadded(given[0], mask))

    handles = [model.get_submodule(n).register_forward_pre_hook(gather(s)) for n, s in found.items()]
    try:
        for batch in batches:
            mask = batch.get("attention_mask")
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, layer in layers.items():
        quantize_layer(name, layer, found.pop(name), method, roles)


def _unpadded(x: Tensor, mask: Tensor | None) -> Tensor:
    """The rows that a mask leaves, where it is one of these rows."""
    return x[mask.bool()] if mask is not None and mask.shape == x.shape[:2] else x


def _outputs(
    model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, output: found.update({name: output})

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        last: Tensor = model(**batch).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    return found, last


def _add(sums: list[float], plain: Tensor, rounded: Tensor, mask: Tensor | None) -> None:
    plain, rounded = _unpadded(plain, mask), _unpadded(rounded, mask)
    lost = float((rounded.double() - plain.double()).square().sum())
    power = float(plain.double().square().sum())
    if not (lost + power) < float("inf"):
        raise ConfigError("an output is not finite: the model, or what quantizes it, overflows")
    sums[0] += lost
    sums[1] += power
