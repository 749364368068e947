"""One pass over a trained model, block by block, with text to calibrate on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from qscale.data.batches import TrainingBatches
from qscale.data.corpus import Corpus
from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.models.surgery import Roles, quantize_model
from qscale.ptq.block_pass import layer_of, quantize_block
from qscale.ptq.blocks import Calls, find_blocks
from qscale.ptq.methods import Method
from qscale.ptq.report import LayerReport, Report
from qscale.quantizers import QuantLinear

Emit = Callable[[dict[str, Any]], None]

#: Calibration text has an order of its own, whatever the seeds of training.
_SEED = 20221031


def calibration_windows(corpus: Corpus, count: int, length: int) -> np.ndarray:
    """``count`` windows of ``length`` tokens of the training split, the same ones every time.

    Returns:
        int64, ``(count, length)``. 128 windows of 2048 tokens are usual (unverified).

    Raises:
        ConfigError: Not at least one window of one token.
        CorpusError: The corpus has fewer.
    """
    if count < 1 or length < 1:
        raise ConfigError(f"{count} calibration windows of {length} tokens: at least one of each is needed")
    corpus.check(count * length, length)
    return TrainingBatches(corpus.train, length, _SEED).sequences(np.arange(count))[:, :-1]


@torch.no_grad()
def quantize_trained(
    model: nn.Module,
    recipe: Recipe | str,
    method: Method | str,
    windows: np.ndarray,
    *,
    roles: Roles | None = None,
    emit: Emit | None = None,
) -> Report:
    """Quantize a trained model in place, a block at a time, with calibration text.

    The layers that the recipe quantizes become quantized linear layers with fixed weights and the recipe's
    input quantizers; the rest of the model stays, but for norms and layers that took in a factor or were
    rotated (embeddings and head too, which a rotation unties). Each block
    is calibrated on the outputs of the blocks before it as quantized, inputs too; its own layers run without
    quantizers while their inputs are looked at, all of them at once.

    Args:
        model: A causal language model of transformers, not quantized, on the device where it shall compute.
        recipe: Or its text. Nothing in it may need training.
        method: Or its text, such as ``smoothquant+gptq``.
        windows: Calibration tokens, ``(count, length)``, of :func:`calibration_windows`.
        roles: As for :func:`qscale.models.surgery.quantize_model`.
        emit: Gets an event for each block and layer.

    Raises:
        ConfigError: The recipe learns or reparameterises, a weight or an input is not finite (the message
            names the layer), the model's blocks do not follow one another, or as surgery raises.
        SpecError: The method does not serve a spec or quantizer of the recipe.

    Example:
        >>> from qscale.models.families import build
        >>> from qscale.models.ladder import shape_of
        >>> model = build(shape_of("tiny-20k"), context=32, seed=0)
        >>> tokens = np.random.RandomState(0).randint(0, 256, (8, 32))
        >>> report = quantize_trained(model, "w4a16:g32", "gptq", tokens)
        >>> len(report.layers), report.bits_per_weight, report.relmse < report.relmse_nearest
        (14, 4.5, True)
    """
    recipe, method, emit = Recipe.parse(recipe), Method.parse(method), emit or _silent
    _check_recipe(recipe)
    if windows.ndim != 2 or not windows.size:
        raise ConfigError(
            f"calibration windows of shape {windows.shape}: (count, length) is wanted, not empty"
        )
    _check_weights(model)
    method.check_recipe(recipe)
    training = model.training
    model.eval()
    method.rotate(model)
    quantized = set(quantize_model(model, recipe, roles))
    blocks = find_blocks(model)
    for name, block in blocks.items():
        method.rotate_inputs(model, name, block, roles)
    for name in quantized:
        method.check(layer_of(name, model.get_submodule(name)))
    calls = Calls(model, blocks, windows)
    reports: list[LayerReport] = []
    for number, (name, block) in enumerate(blocks.items()):
        emit({"event": "block", "block": number, "blocks": len(blocks)})
        found = quantize_block(name, block, calls, method, roles)
        for report in found:
            emit({"event": "layer", "block": number, **report.to_json()})
        reports += found
        calls.hidden = [calls.run(name, batch) for batch in range(len(calls.hidden))]
    model.train(training)
    return Report(
        method=str(method),
        recipe=str(recipe),
        windows=windows.shape[0],
        length=windows.shape[1],
        layers=tuple(reports),
    )


def _silent(_: dict[str, Any]) -> None:
    """An Emit for callers who do not watch."""


def _check_recipe(recipe: Recipe) -> None:
    if learned := recipe.learned():
        raise ConfigError(
            f"recipe {str(recipe)!r}: {', '.join(learned)} must be trained; after training use a quantizer "
            "that needs none, such as absmax"
        )
    if recipe.qkr is not None:
        raise ConfigError(
            f"recipe {str(recipe)!r}: a pass rounds the weights of linear layers, qkr their products; "
            "leave it out"
        )


def _check_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear):
            raise ConfigError(f"layer {name} is quantized already: give the model as it was trained")
        if isinstance(module, nn.Linear) and not bool(module.weight.isfinite().all()):
            raise ConfigError(f"the weight of layer {name} holds a NaN or an infinity: nothing is quantized")
