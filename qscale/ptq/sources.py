"""Where the blocks of a pass come from: a model in memory, or a folder read one block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qscale import bounded
from qscale.errors import ConfigError
from qscale.ptq.blocks import find_blocks
from qscale.ptq.weights import Weights
from qscale.quantizers import QuantLinear


class Memory:
    """A model that is in memory as a whole.

    Args:
        model: A causal language model, not quantized.

    Raises:
        ConfigError: It has no one list of blocks, is quantized already, or a weight is not finite.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, QuantLinear):
                raise ConfigError(f"layer {name} is quantized already: give the model as it was trained")
        check_finite("", model)
        self.model = model
        self.blocks = find_blocks(model)

    def load(self, name: str) -> None:
        """Have a block's weights in memory."""

    def free(self, name: str) -> None:
        """Let a block's weights go."""

    def identity(self) -> str:
        """A hash of every weight."""
        found = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


class Folder:
    """A causal language model of transformers in a folder of safetensors files, one block in memory.

    The parts outside the blocks are in memory throughout. A block's tensors are read when it is loaded, in
    the dtype that the model's config names, and let go when it is freed.

    Args:
        folder: Of ``save_pretrained``.
        device: Where tensors go.

    Raises:
        ConfigError: The config or a file cannot be read, tensors are missing or of another shape, the model
            is quantized already, its blocks cannot be told, or a weight outside of them is not finite.
        UnstreamableError: The files hold other tensors than the model has, which transformers makes of them
            as it loads (experts in one, layers split), so that they must be loaded as a whole.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.weights = Weights(folder)
        self.device = torch.device(device)
        self.model = _skeleton(folder, self.weights.dtype)
        self.blocks = find_blocks(self.model)
        self._loaded: set[str] = set()
        self._stored = _stored_names(self.model, self.weights)
        inside = tuple(f"{name}." for name in self.blocks)
        outer = [name for name in self._stored if not name.startswith(inside)]
        self._put(outer)
        tie = getattr(self.model, "tie_weights", None)
        if tie is not None:
            tie()
        for name, buffer in self.model.named_buffers():
            if not name.startswith(inside) and buffer.device != self.device:
                _set(self.model, name, buffer.to(self.device))
        check_finite("", self.model)
        self.model.eval()

    def load(self, name: str) -> None:
        """Read a block's weights, where they are not in memory.

        Raises:
            ConfigError: A file is damaged, or a weight is not finite; the message names the layer.
        """
        if name in self._loaded:
            return
        self._put([key for key in self._stored if key.startswith(f"{name}.")])
        block = self.blocks[name]
        for key, buffer in block.named_buffers():
            _set(block, key, buffer.to(self.device))
        check_finite(name, block)
        self._loaded.add(name)

    def free(self, name: str) -> None:
        """Let a block's weights go."""
        self.blocks[name].to("meta")
        self._loaded.discard(name)

    def identity(self) -> str:
        """A hash of the files."""
        return self.weights.sha256()

    def _put(self, names: list[str]) -> None:
        table = {self._stored[name]: name for name in names}
        for stored, tensor in self.weights.read(table).items():
            name = table[stored]
            place = self.model.get_submodule(name.rpartition(".")[0])
            old = getattr(place, name.rpartition(".")[2])
            tensor = tensor.to(device=self.device, dtype=old.dtype)
            _set(self.model, name, tensor)


class UnstreamableError(ConfigError):
    """A model that must be loaded as a whole."""


def check_finite(prefix: str, module: nn.Module) -> None:
    """Make sure that no parameter that is in memory holds a NaN or an infinity.

    Raises:
        ConfigError: One does; the message names it and its layer.
    """
    for name, parameter in module.named_parameters(prefix):
        if not parameter.is_meta and not bool(parameter.isfinite().all()):
            layer, _, last = name.rpartition(".")
            raise ConfigError(f"the {last} of layer {layer} holds a NaN or an infinity: nothing is quantized")


def _skeleton(folder: Path, stored: torch.dtype) -> nn.Module:
    """The model with its parameters on the meta device and its buffers as they are made."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(config, "quantization_config", None) is not None:
            raise ConfigError(
                f"{str(folder)!r} is quantized already (quantization_config in its config.json): "
                "give the model as it was trained"
            )
        dtype = getattr(config, "dtype", None) or stored
        make: Callable[..., nn.Module] = AutoModelForCausalLM.from_config
        with init_empty_weights(include_buffers=False):
            model = make(config, dtype=dtype)
        generation = folder / "generation_config.json"
        if generation.is_file():
            from transformers import GenerationConfig

            own: Any = GenerationConfig.from_pretrained(folder, local_files_only=True)
            model.generation_config = own
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{str(folder)!r}: transformers cannot make it: {bounded.one_line(error)}"
        ) from error
    model.name_or_path = ""  # type: ignore[assignment]
    config._name_or_path = ""
    if getattr(model, "_keep_in_fp32_modules_strict", None) and dtype != torch.float32:
        raise UnstreamableError(f"{str(folder)!r}: parts of it stay in float32 and others do not")
    return model


def _stored_names(model: nn.Module, weights: Weights) -> dict[str, str]:
    """The name in the files of each tensor that the model has."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    wanted = model.state_dict()
    found: dict[str, str] = {}
    for name in wanted:
        names = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        stored = next((one for one in names if one in weights.file_of), None)
        if stored is not None:
            found[name] = stored
    conversions = _conversions(model)
    if any(name not in found for name in wanted):
        for stored in weights.file_of:
            renamed = _renamed(stored, conversions, prefix, wanted)
            if renamed in wanted:
                found.setdefault(renamed, stored)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    tied_names = {*tied, *tied.values()} if any(value in found for value in tied.values()) else set(tied)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = [name for name in wanted if name in parameters and name not in found and name not in tied_names]
    if missing and any(hasattr(each, "operations") for each in conversions):
        raise UnstreamableError(f"{str(weights.folder)!r}: transformers makes {missing[0]} of other tensors")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"{str(weights.folder)!r}: tensor {missing[0]}{more} of the model is in no file: shards are "
            "missing, or config.json is of another model"
        )
    for name, stored in found.items():
        if tuple(wanted[name].shape) != weights.shapes[stored]:
            raise ConfigError(
                f"{str(weights.file_of[stored])!r}: tensor {stored} has shape "
                f"{list(weights.shapes[stored])}, the config asks for {list(wanted[name].shape)}: "
                "config.json and weights are not of one model"
            )
    return found


def _conversions(model: nn.Module) -> list[Any]:
    """What this transformers makes of the names and tensors of files as it loads them."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # before version 5: names are as they are
        return []
    return list(get_model_conversion_mapping(model))  # type: ignore[arg-type]


def _renamed(stored: str, conversions: list[Any], prefix: str, wanted: Mapping[str, Any]) -> str:
    if not conversions:
        return stored
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    return str(rename_source_key(stored, renamings, [], prefix, wanted)[0])  # type: ignore[arg-type]


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    parent, _, last = name.rpartition(".")
    module = model.get_submodule(parent)
    if last in module._buffers:
        module._buffers[last] = tensor
    else:
        module._parameters[last] = nn.Parameter(tensor, requires_grad=False)
