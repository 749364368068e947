"""What is kept of quantized layers: their weights, and their input quantizers as JSON and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.models.attention import quantize_keys_and_values
from qscale.ptq.inputs import Divided, RuntimeScaled, Static
from qscale.quantizers import Absmax, Clip, QuantLinear, Rotated, Shared, StochasticAbsmax, make_quantizer

Tree = dict[str, Any] | None


def block_state(name: str, block: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a block after a pass, by their names in the model, and a note to build it again.

    Returns:
        Tensors, which share no memory, and a note: ``inputs``, the input quantizers and the layers that have
        each in common; ``quantized``, the specs of layers; ``biases``, layers that have one; ``attentions``,
        the specs of those that quantize keys and values.

    Raises:
        ConfigError: A layer has an input quantizer that cannot be described.
    """
    linears = {n: m for n, m in block.named_modules() if isinstance(m, QuantLinear)}
    groups: dict[int, list[str]] = {}
    for layer, module in linears.items():
        if module.input_quantizer is not None:
            keep_signs(module.input_quantizer)
            groups.setdefault(id(module.input_quantizer), []).append(layer)
        if module.weight_quantizer is not None:
            raise ConfigError(f"layer {name}.{layer} still quantizes its weight: give a model after a pass")
    note = {
        "inputs": [
            {
                "layers": [f"{name}.{n}" for n in layers],
                "quantizer": described(linears[layers[0]].input_quantizer),
            }
            for layers in groups.values()
        ],
        "quantized": {f"{name}.{layer}": module.weight_spec for layer, module in linears.items()},
        "biases": [f"{name}.{layer}" for layer, module in linears.items() if module.bias is not None],
        "attentions": {
            f"{name}.{n}": str(m.kv_quantizers["key"].spec)
            for n, m in block.named_modules()
            if hasattr(m, "kv_quantizers")
        },
    }
    tensors = {f"{name}.{key}": x.detach() for key, x in block.state_dict().items()}
    shared = {key: x.clone() if ".input_quantizer." in key else x for key, x in tensors.items()}
    return shared, note


def described(module: nn.Module | None) -> Tree:
    """An input quantizer as JSON; its tensors are its ``state_dict``.

    Raises:
        ConfigError: It is of a kind that has no description.
    """
    if module is None:
        return None
    if isinstance(module, Shared):
        return {"kind": "shared", "users": module.users, "of": described(module.quantizer)}
    if isinstance(module, Divided):
        return {"kind": "divided", "shift": module.shift is not None, "of": described(module.quantizer)}
    if isinstance(module, Rotated):
        signs = None if module.signs is None else len(module.signs)
        found = {"kind": "rotated", "block": module.block, "signs": signs, "of": described(module.quantizer)}
        return found if module.head is None else {**found, "head": module.head}
    if isinstance(module, RuntimeScaled):
        of = described(module.quantizer)
        return {"kind": "runtime", "over": module.over, "group": module.group, "of": of}
    if isinstance(module, Static):
        return {"kind": "static", "spec": module.text}
    if isinstance(module, (Absmax, StochasticAbsmax)):
        return {
            "kind": "absmax",
            "spec": module.text.replace(":stochastic", ""),
        }  # evaluation rounds to nearest
    if isinstance(module, Clip):
        return {"kind": f"clip({module.ratio!r})", "spec": module.text}
    raise ConfigError(f"an input quantizer {type(module).__name__} cannot be saved; leave --out away")


def built(tree: Tree, width: int) -> nn.Module | None:
    """An input quantizer from its description, its tensors still to be loaded.

    Raises:
        ConfigError: It is not a description.
        SpecError: A spec in it cannot be read.
    """
    if tree is None:
        return None
    try:
        kind = tree["kind"]
        if kind == "shared":
            inner = built(tree["of"], width)
            assert inner is not None
            return Shared(inner, int(tree["users"]))
        if kind == "divided":
            shift = torch.zeros(width) if tree["shift"] else None
            return Divided(built(tree["of"], width), torch.ones(width), shift)
        if kind == "rotated":
            signs = None if tree["signs"] is None else torch.ones(int(tree["signs"]))
            head = None if tree.get("head") is None else int(tree["head"])
            rotated = Rotated(built(tree["of"], width), int(tree["block"]), signs, head)  # type: ignore[arg-type]
            keep_signs(rotated)
            return rotated
        if kind == "runtime":
            if tree["over"] not in ("sequence", "batch"):
                raise ConfigError(f"{tree!r} describes no input quantizer")
            return RuntimeScaled(built(tree["of"], width), tree["over"], int(tree["group"]))  # type: ignore[arg-type]
        if kind == "static":
            return Static(QuantSpec.parse(tree["spec"]), 1.0)
        return make_quantizer(kind, QuantSpec.parse(tree["spec"]), operand="input", shape=(width,))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{tree!r} describes no input quantizer") from error


def keep_signs(module: nn.Module) -> None:
    """Have the signs of rotations among a model's tensors: what loads them cannot make them anew."""
    for inner in module.modules():
        if isinstance(inner, Rotated) and inner.signs is not None:
            inner.register_buffer("signs", inner.signs, persistent=True)


def install(
    model: nn.Module,
    inputs: Iterable[Mapping[str, Any]],
    biases: Iterable[str],
    attentions: Mapping[str, str],
) -> None:
    """Put quantized layers with the input quantizers described into a model, their tensors to be loaded.

    Raises:
        ConfigError: The model has no such linear layer, or a description cannot be read.
        SpecError: Likewise.
    """
    for name in biases:
        linear = _linear(model, name)
        if linear.bias is None:
            linear.bias = nn.Parameter(torch.empty_like(linear.weight[:, 0]), requires_grad=False)
    for group in inputs:
        quantizer = None
        for name in group["layers"]:
            linear = _linear(model, name)
            if quantizer is None:
                quantizer = built(group["quantizer"], linear.in_features)
                assert quantizer is not None
                quantizer.to(linear.weight.device)
            layer = QuantLinear.from_linear(linear, None, quantizer)
            layer.train(linear.training)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
    for name, spec in attentions.items():
        quantize_keys_and_values(model, QuantSpec.parse(spec), {name: model.get_submodule(name)})


def _linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        found = model.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"the model has no layer {name!r}, which its quantization_config names") from error
    if not isinstance(found, nn.Linear):
        raise ConfigError(f"layer {name!r} is a {type(found).__name__}, no linear layer")
    return found
