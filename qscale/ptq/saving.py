"""A quantized model as a folder that transformers reads."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from qscale.models import attention
from qscale.ptq import layouts
from qscale.ptq.blocks import find_blocks
from qscale.ptq.layouts.plain import Plain
from qscale.ptq.partial import Partial, check_target, storing, sync
from qscale.ptq.stored import block_state
from qscale.ptq.weights import INDEX
from qscale.quantizers import Quantizer

#: What was done, beside the weights.
NOTE = "qscale.json"

#: What a tokenizer is made of, copied along where it is there.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class Saved(NamedTuple):
    """What a folder holds of a model."""

    layout: str
    without: tuple[str, ...]  #: in full precision there, quantized where losses were taken


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a tokenizer that a folder holds."""
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


@torch.no_grad()
def save(
    model: nn.Module,
    folder: Path,
    note: Mapping[str, Any],
    files: Sequence[Path] = (),
    layout: str = "auto",
) -> None:
    """Write a model that is in memory and has been through a pass to a new folder, whole or not at all.

    What quantizes keys and values after a step of kind ``cache`` is taken out of the model and not written.

    Args:
        model: Of transformers.
        folder: New, or empty.
        note: For ``qscale.json``.
        files: Copied along, such as a tokenizer's.
        layout: As for :func:`qscale.ptq.layouts.chosen`.

    Raises:
        ConfigError: The folder is not empty, a weight is not fixed yet, or the layout does not hold the
            model.
        StoreError: It cannot be written.
    """
    check_target(folder)
    stored = _leave_caches(model)
    states = [block_state(name, block) for name, block in find_blocks(model).items()]
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        notes = [found for _, found in states]
        _write(model, temporary, notes, lambda number: states[number][0], note, files, layout, folder, stored)
        with storing(folder):
            sync(temporary)
            temporary.chmod(0o755)
            temporary.replace(folder)  # of an empty folder too
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@torch.no_grad()
def publish(
    partial: Partial, model: nn.Module, note: Mapping[str, Any], files: Sequence[Path], layout: str
) -> Saved:
    """Make the folder of a pass whose blocks are all finished.

    Returns:
        What it has become, and what of the model that was measured is not in it.

    Raises:
        ConfigError: The layout does not hold the model.
        StoreError: It cannot be written.
    """
    stored = _leave_caches(model)
    made = partial.begin_model()
    saved = _write(model, made, partial.notes(), partial.weights, note, files, layout, partial.out, stored)
    partial.publish()
    return saved


def _leave_caches(model: nn.Module) -> bool:
    """Take away what a step of kind ``cache`` put into the attentions: no layout holds it.

    Returns:
        Whether there was something.
    """
    quantizers = [m.kv_quantizers["key"] for m in model.modules() if hasattr(m, "kv_quantizers")]  # type: ignore[index]
    found = any(not isinstance(quantizer, Quantizer) for quantizer in quantizers)
    if found:
        attention.leave(model)
    return found


def _without(layout: str, notes: Sequence[Mapping[str, Any]], *, caches: bool) -> tuple[str, ...]:
    """What a layout leaves in full precision that was quantized."""
    plain = layout == Plain.name
    inputs = plain and any(_quantizes(each["quantizer"]) for note in notes for each in note["inputs"])
    caches = caches or (plain and any(note["attentions"] for note in notes))
    return tuple(name for name, lost in (("inputs", inputs), ("keys and values", caches)) if lost)


def _quantizes(quantizer: Mapping[str, Any] | None) -> bool:
    """Whether a quantizer, as :func:`qscale.ptq.stored.described`, does more than rotate or divide."""
    while quantizer is not None and "of" in quantizer:
        quantizer = quantizer["of"]
    return quantizer is not None


def _write(
    model: nn.Module,
    folder: Path,
    notes: Sequence[Mapping[str, Any]],
    weights: Callable[[int], dict[str, Tensor]],
    note: Mapping[str, Any],
    files: Sequence[Path],
    layout: str,
    out: Path,
    caches: bool,
) -> Saved:
    """Every file of a folder that will be ``out``: a shard for what is outside the blocks, one for each."""
    chosen = layouts.chosen(layout, notes, weights)
    saved = Saved(chosen.name, _without(chosen.name, notes, caches=caches))
    shards = 1 + len(notes)
    table: dict[str, str] = {}
    size = 0
    for number in range(shards):
        tensors = _outside(model) if number == 0 else chosen.convert(weights(number - 1), notes[number - 1])
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        with storing(out):
            try:
                save_file(
                    {key: x.detach().cpu().contiguous() for key, x in tensors.items()},
                    folder / name,
                    metadata={"format": "pt"},
                )
            except SafetensorError as error:  # it wraps what the system says
                raise OSError(str(error)) from error
        table |= dict.fromkeys(tensors, name)
        size += sum(x.numel() * x.element_size() for x in tensors.values())
    config: Any = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if (about := chosen.config()) is not None:
        config.quantization_config = about
    generation: Any = getattr(model, "generation_config", None)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
    with storing(out):
        config.save_pretrained(folder)
        if generation is not None:
            generation.save_pretrained(folder)
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        for file in files:
            shutil.copyfile(file, folder / file.name)
        text = json.dumps({**note, **saved._asdict()}, indent=1, allow_nan=False)
        (folder / NOTE).write_text(text + "\n", encoding="utf-8")
    return saved


def _outside(model: nn.Module) -> dict[str, Tensor]:
    """What is not in the blocks; of tied tensors the first."""
    inside = tuple(f"{name}." for name in find_blocks(model))
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for name, tensor in model.state_dict().items():
        if name.startswith(inside):
            continue
        place = (tensor.data_ptr(), tensor.numel())
        if place not in seen:
            seen.add(place)
            found[name] = tensor
    return found
