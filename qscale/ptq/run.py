"""One pass over a trained model, block by block, with text to calibrate on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from qscale.data.batches import TrainingBatches
from qscale.data.corpus import Corpus
from qscale.errors import ConfigError, CorpusError
from qscale.formats import Recipe
from qscale.formats.recipe import NOTHING
from qscale.models.surgery import Roles, quantize_model, quantized_layers
from qscale.ptq.block_pass import layer_of, quantize_block
from qscale.ptq.blocks import Calls
from qscale.ptq.cache.calibrate import quantize_caches
from qscale.ptq.held_out import HeldOut, Source, losses
from qscale.ptq.methods import Method
from qscale.ptq.partial import Partial, to_device
from qscale.ptq.report import CacheReport, LayerReport, Left, Report
from qscale.ptq.sources import Memory
from qscale.ptq.stored import block_state
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
    available = max(0, (len(corpus.train) - 1) // length)
    if count > available:
        raise CorpusError(
            f"corpus {corpus.name!r} has {available:,} calibration windows of {length:,} tokens in its "
            f"training split, fewer than the {count:,} asked for: ask for fewer (--windows) or shorter ones "
            "(--length), or name a larger corpus"
        )
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
    training = model.training
    model.eval()
    report = quantize_blocks(Memory(model), recipe, method, windows, roles=roles, emit=emit)
    model.train(training)
    return report


@torch.no_grad()
def quantize_blocks(
    source: Source,
    recipe: Recipe | str | None,
    method: Method | str,
    windows: np.ndarray,
    *,
    roles: Roles | None = None,
    emit: Emit | None = None,
    held_out: np.ndarray | None = None,
    partial: Partial | None = None,
) -> Report:
    """The pass itself, over blocks that are in memory, or that come one by one and go.

    Args:
        source: :class:`qscale.ptq.sources.Memory` or :class:`qscale.ptq.sources.Folder`.
        recipe: As for :func:`quantize_trained`; so the next four.
        method: Or its text.
        windows: Calibration tokens.
        roles: As for surgery.
        emit: Gets an event for each block and layer.
        held_out: Sequences of ``(count, context + 1)`` tokens; the report then has their losses before and
            after, each of them a block at a time.
        partial: Where finished blocks are written; those that are there already are not done again.

    Raises:
        ConfigError: As :func:`quantize_trained`.
        SpecError: Likewise.
        StoreError: A finished block cannot be written.
    """
    method, emit = Method.parse(method), emit or _silent
    recipe = ptq_recipe(recipe, method)
    _check(recipe, method, windows)
    model, blocks = source.model, source.blocks
    left: tuple[Left, ...] = ()
    if recipe is not None:
        layers = quantized_layers(model, recipe, roles)
        _check_layers(layers, method)
        left = _left_as_they_are(model, layers)
    before = None
    if held_out is not None:
        once = _once if partial is None else partial.once
        before = once("before", lambda: losses(source, held_out))
    method.rotate_outer(model)
    names = list(blocks)
    source.load(names[0])
    calls = Calls(model, blocks, windows)
    evaluated = None if held_out is None else HeldOut(model, blocks, held_out)
    # Keys and values are quantized when all blocks are, in memory: then none may come from the disk.
    notes = [] if partial is None or method.cache is not None else partial.notes()
    reports = [LayerReport.from_json(layer) for note in notes for layer in note["layers"]]
    if partial is not None and notes:
        source.free(names[0])
        kept = partial.states(len(notes) - 1)
        device = calls.tokens[0].device
        calls.hidden = to_device(kept["calibration"], device)
        if evaluated is not None:
            evaluated.calls.hidden = to_device(kept["held_out"], device)
        emit({"event": "resumed", "blocks_done": len(notes), "blocks": len(names)})
    for number, (name, block) in enumerate(blocks.items()):
        if number < len(notes):
            continue
        emit({"event": "block", "block": number, "blocks": len(names)})
        source.load(name)
        method.rotate_block(model, name, block)
        found: list[LayerReport] = []
        if recipe is not None:
            quantize_model(model, recipe, roles, within=name)
            method.rotate_inputs(model, name, block, roles)
            found = quantize_block(name, block, calls, method, roles)
        for report in found:
            emit({"event": "layer", "block": number, **report.to_json()})
        reports += found
        states = {"calibration": calls} | ({} if evaluated is None else {"held_out": evaluated.calls})
        for each in states.values():
            each.advance(name)
        if partial is not None:
            weights, note = block_state(name, block)
            note["layers"] = [report.to_json() for report in found]
            partial.finish(number, weights, note, {kind: each.hidden for kind, each in states.items()})
        source.free(name)
    caches: list[CacheReport] = []
    after = None if evaluated is None else evaluated.losses()
    if method.cache is not None:
        without = () if recipe is None else recipe.kept_blocks(len(blocks))
        caches = quantize_caches(model, method.cache, windows, roles=roles, kept=without, emit=emit)
        after = None if held_out is None else losses(source, held_out)
    return Report(
        method=str(method),
        recipe=NOTHING if recipe is None else str(recipe),
        windows=windows.shape[0],
        length=windows.shape[1],
        layers=tuple(reports),
        caches=tuple(caches),
        left=left,
        before=before,
        after=after,
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
    if recipe is not None and not (parsed := Recipe.parse(recipe)).is_empty:
        return parsed
    if method.cache is None:
        raise ConfigError(
            f"recipe {NOTHING} quantizes no layer, and method {method} no keys and values: add kv, say, or "
            "give another recipe"
        )
    idle = [step.name for step in method.steps if step.kind not in ("rotate", "cache") and step.name != "rtn"]
    if idle:
        raise ConfigError(f"recipe {NOTHING} quantizes no layer: {', '.join(idle)} would have nothing to do")
    return None


def pass_identity(
    source: Source,
    recipe: Recipe | None,
    method: Method,
    windows: np.ndarray,
    held_out: np.ndarray | None,
) -> dict[str, Any]:
    """All that the bytes of a pass depend on: what goes on from a finished block must agree in it."""
    import transformers

    import qscale

    return {
        "model": source.identity(),
        "recipe": NOTHING if recipe is None else str(recipe),
        "method": str(method),
        "calibration": _hash(windows),
        "held_out": None if held_out is None else _hash(held_out),
        "versions": [qscale.__version__, torch.__version__, transformers.__version__],
        "threads": torch.get_num_threads(),
    }


def _hash(tokens: np.ndarray) -> str:
    return f"{tokens.shape} {hashlib.sha256(np.ascontiguousarray(tokens, dtype='<i8').tobytes()).hexdigest()}"


def _silent(_: dict[str, Any]) -> None:
    """An Emit for callers who do not watch."""


def _once(_: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    return compute()


def _check(recipe: Recipe | None, method: Method, windows: np.ndarray) -> None:
    """Raise where a pass makes no sense, before anything is looked at."""
    if windows.ndim != 2 or not windows.size:
        raise ConfigError(
            f"calibration windows of shape {windows.shape}: (count, length) is wanted, not empty"
        )
    if recipe is None:
        return
    method.check_recipe(recipe)
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


def _check_layers(layers: Mapping[str, QuantLinear], method: Method) -> None:
    """Raise where the method does not serve a layer, before anything is changed."""
    for name, layer in layers.items():
        if layer.weight.is_meta:
            zero = torch.zeros((), dtype=layer.weight.dtype)  # what only looks like a matrix takes no memory
            layer.weight = nn.Parameter(zero.expand(layer.weight.shape), requires_grad=False)
        method.check(layer_of(name, layer))


def _left_as_they_are(model: nn.Module, quantized: Collection[str]) -> tuple[Left, ...]:
    """Modules with a matrix of their own that is not quantized."""
    return tuple(
        Left(layer=name, type=type(module).__name__, elements=sum(p.numel() for p in own))
        for name, module in model.named_modules()
        if name not in quantized and (own := [p for p in module.parameters(recurse=False) if p.ndim > 1])
    )
