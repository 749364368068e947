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
    roles: Roles | None = None,
) -> OutputErrors:
    """Round a model's layers to nearest by a recipe, and compare its outputs with those of the model itself.

    Works on encoders (BERT, Whisper's encoder) and decoders alike, on text or on features; the model stays as
    it is.

    Args:
        model: Of transformers; its output has ``last_hidden_state``, as that of ``AutoModel``.
        recipe: Or its text. Nothing in it may need training.
        batches: Arguments of the model, such as ``input_ids`` and ``attention_mask``, or ``input_features``.
        roles: As for :func:`qscale.models.surgery.quantize_model`.

    Raises:
        ConfigError: There is no batch, an output is not finite, or as surgery raises.
        SpecError: As surgery raises.
    """
    recipe = Recipe.parse(recipe)
    if learned := recipe.learned():
        raise ConfigError(f"recipe {str(recipe)!r}: {', '.join(learned)} must be trained")
    if not batches:
        raise ConfigError("output errors need at least one batch")
    quantized = copy.deepcopy(model).eval()
    names = quantize_model(quantized, recipe, roles)
    training = model.training
    model.eval()
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in (*names, "")}
    try:
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
    if mask is not None and mask.shape == plain.shape[:2]:
        plain, rounded = plain[mask.bool()], rounded[mask.bool()]
    lost = float((rounded.double() - plain.double()).square().sum())
    power = float(plain.double().square().sum())
    if not (lost + power) < float("inf"):
        raise ConfigError("an output is not finite: the model, or what quantizes it, overflows")
    sums[0] += lost
    sums[1] += power
