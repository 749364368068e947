"""Swapping the linear layers of a model's blocks for quantized ones."""

from __future__ import annotations

from torch import nn

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.quantizers import QuantLinear, make_quantizer


def quantize_model(model: nn.Module, recipe: Recipe | str) -> list[str]:
    """Replace the linear layers of the model's blocks, in place, by the recipe; return their names.

    Only layers inside a ``ModuleList`` (the blocks) are touched: embedding, norms and head stay in full
    precision. Parameters are shared with the layers replaced, so an optimizer keeps working.

    Raises:
        ConfigError: The recipe asks for a rotation, names a layer in an override that is not there, or
            touches no layer.
        SpecError: A spec without a kernel, or an unknown quantizer.
    """
    recipe = Recipe.parse(recipe)
    if recipe.rotation is not None:
        raise ConfigError(f"recipe {str(recipe)!r}: rotations are not trained yet; leave out the rotation")
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and any(part.isdigit() for part in name.split("."))
    }
    for key in recipe.overrides:
        if not any(f".{name}".endswith(f".{key.rpartition('.')[0]}") for name in layers):
            raise ConfigError(f"recipe {str(recipe)!r}: override {key!r} names no linear layer of the blocks")
    replaced = []
    for name, layer in layers.items():
        weight, inputs = (recipe.spec_for(name, operand) for operand in ("weight", "input"))
        if weight is None and inputs is None:
            continue
        quantizers = (make_quantizer(recipe.quantizer, spec) for spec in (weight, inputs))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, QuantLinear.from_linear(layer, *quantizers))
        replaced.append(name)
    if not replaced:
        raise ConfigError(f"recipe {str(recipe)!r} touches no linear layer of the blocks")
    return replaced
