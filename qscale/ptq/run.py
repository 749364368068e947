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
from qscale.ptq.cache.calibrate import quantize_caches
from qscale.ptq.methods import Method
from qscale.ptq.report import CacheReport, LayerReport, Report
from qscale.quantizers import QuantLinear

Emit = Callable[[dict[str, Any]], None]

#: The recipe of a pass that quantizes no linear layer.
NOTHING = "w16a16"
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
    recipe: Recipe | str | None,
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
        recipe: Or its text. Nothing in it may need training. None, or ``w16a16``, quantizes no layer: for a
            method that quantizes keys and values.
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
    method, emit = Method.parse(method), emit or _silent
    recipe = ptq_recipe(recipe, method)
    if recipe is not None:
        _check_recipe(recipe)
        method.check_recipe(recipe)
    if windows.ndim != 2 or not windows.size:
        raise ConfigError(
            f"calibration windows of shape {windows.shape}: (count, length) is wanted, not empty"
        )
    _check_weights(model)
    training = model.training
    model.eval()
    method.rotate(model)
    quantized = set() if recipe is None else set(quantize_model(model, recipe, roles))
    blocks = find_blocks(model)
    for name, block in blocks.items():
        method.rotate_inputs(model, name, block, roles)
    for name in quantized:
        method.check(layer_of(name, model.get_submodule(name)))
    calls = Calls(model, blocks, windows)
    reports: list[LayerReport] = []
    for number, (name, block) in enumerate(blocks.items() if recipe is not None else ()):
        emit({"event": "block", "block": number, "blocks": len(blocks)})
        found = quantize_block(name, block, calls, method, roles)
        for report in found:
            emit({"event": "layer", "block": number, **report.to_json()})
        reports += found
        calls.hidden = [calls.run(name, batch) for batch in range(len(calls.hidden))]
    caches: list[CacheReport] = []
    if method.cache is not None:
        kept = () if recipe is None else recipe.kept_blocks(len(blocks))
        caches = quantize_caches(model, method.cache, windows, roles=roles, kept=kept, emit=emit)
    model.train(training)
    return Report(
        method=str(method),
        recipe=NOTHING if recipe is None else str(recipe),
        windows=windows.shape[0],
        length=windows.shape[1],
        layers=tuple(reports),
        caches=tuple(caches),
    )


def ptq_recipe(recipe: Recipe | str | None, method: Method) -> Recipe | None:
    """The recipe of a pass; None where it quantizes no linear layer, ``w16a16``, but only keys and values.

    Raises:
        ConfigError: Nothing would be quantized, or a step of the method has no layers to work on.
        SpecError: The recipe cannot be read.

    Example:
        >>> ptq_recipe("w16a16", Method.parse("kv(spec=int4:token)")) is None
        True
    """
    if recipe not in (None, NOTHING):
        return Recipe.parse(recipe)
    if method.cache is None:
        raise ConfigError(
            f"recipe {NOTHING} quantizes no layer, and method {method} no keys and values: add kv, say, or "
            "give another recipe"
        )
    idle = [step.name for step in method.steps if step.kind not in ("rotate", "cache") and step.name != "rtn"]
    if idle:
        raise ConfigError(f"recipe {NOTHING} quantizes no layer: {', '.join(idle)} would have nothing to do")
    return None


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
