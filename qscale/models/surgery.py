"""Swapping the linear layers of a model's blocks for quantized ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from qscale.errors import ConfigError, SpecError
from qscale.formats import QuantSpec, Recipe
from qscale.formats.recipe import ROLES
from qscale.formats.rotations import Rotation
from qscale.kernels.hadamard_matrices import decompose
from qscale.models.attention import quantize_keys_and_values
from qscale.models.query_key import find_attentions, reparameterize
from qscale.quantizers import Quantizer, QuantLinear, Rotated, Shared, make_quantizer, signs_of

Roles = Mapping[str, str] | Callable[[str], str | None]

#: Roles of layers by the last part of their name, where the caller does not say.
_ROLES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"), "qkv"),
    **dict.fromkeys(("o_proj", "out_proj"), "o"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h", "c_fc"), "fc1"),
    **dict.fromkeys(("down_proj", "fc2", "dense_4h_to_h"), "fc2"),
}


@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear layer of a block, and what the recipe makes of it."""

    name: str
    linear: nn.Linear
    role: str | None
    weight: QuantSpec | None
    input: QuantSpec | None

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def together(self) -> tuple[object, ...]:
        """Layers that agree in it may take the same tensor: Q, K and V of one block, or gate and up."""
        alone = None if self.role in ("qkv", "fc1") else self.name
        return (self.parent, self.role, alone, self.input, self.linear.in_features)


def quantize_model(
    model: nn.Module, recipe: Recipe | str, roles: Roles | None = None, *, within: str | None = None
) -> list[str]:
    """Replace the linear layers of the model's blocks, in place, by the recipe; return their names.

    Only layers inside a ``ModuleList`` (the blocks) are touched: embedding, norms and head stay in full
    precision. Parameters are shared with the layers replaced, so an optimizer keeps working; those that
    quantizers add are parameters of the model under ``weight_quantizer`` and ``input_quantizer``, of one
    dimension.

    Layers of a block that have the role ``qkv``, or ``fc1``, and the same spec have one input quantizer in
    common, learned parameters included: their input is one tensor, quantized once. A rotation takes the
    block asked for where it divides ``in_features`` and has a transform, else the largest power of two that
    divides it; random signs are a function of the layers' names.

    With ``qkr`` the weights of queries and keys are quantized as one product a head, in an attention module
    of our own (:class:`qscale.models.query_key.QueryKeyAttention`); inputs and values are as without it.

    Args:
        model: A causal language model of transformers, or any with linear layers in a ``ModuleList``.
        recipe: Or its text.
        roles: The role of each layer, ``qkv``, ``o``, ``fc1`` or ``fc2``, by its dotted name: a mapping, or a
            function that may give None. None goes by the usual names (``q_proj``, ``down_proj``, ...).
        within: The dotted name of a block: only its layers are replaced, perhaps none. Block by block gives
            what all at once does.

    Raises:
        ConfigError: An override names a layer or role that is not there, the recipe touches no layer, keys
            and values cannot be reached, or queries and keys cannot be reparameterised.
        SpecError: A quantizer does not serve what it is given, or a width cannot be rotated.
    """
    recipe = Recipe.parse(recipe)
    layers, attentions = _planned(model, recipe, roles)
    quantized = [layer for layer in layers if layer.weight is not None or layer.input is not None]
    if not quantized and not attentions and recipe.kv is None:
        raise ConfigError(f"recipe {str(recipe)!r} touches no linear layer of the blocks")
    if within is not None:
        layers = [layer for layer in layers if layer.name.startswith(f"{within}.")]
        quantized = [layer for layer in quantized if layer.name.startswith(f"{within}.")]
        attentions = [name for name in attentions if name.startswith(f"{within}.")]
    for layer, new in _made(recipe, quantized):
        setattr(model.get_submodule(layer.parent), layer.name.rpartition(".")[2], new)
    reparameterize(model, recipe, attentions)
    if recipe.kv is not None:
        kept = recipe.kept_blocks(blocks_of(model))
        attending = attentions_of(model, roles, kept, f"recipe {str(recipe)!r}")
        if within is not None:
            attending = {name: each for name, each in attending.items() if name.startswith(f"{within}.")}
        quantize_keys_and_values(model, recipe.kv, attending)
    return [layer.name for layer in quantized]


def quantized_layers(
    model: nn.Module, recipe: Recipe | str, roles: Roles | None = None
) -> dict[str, QuantLinear]:
    """The layers that :func:`quantize_model` would put in, by name; the model stays as it is.

    Raises:
        ConfigError: As there.
        SpecError: As there.
    """
    recipe = Recipe.parse(recipe)
    layers, _ = _planned(model, recipe, roles)
    quantized = [layer for layer in layers if layer.weight is not None or layer.input is not None]
    if not quantized and recipe.kv is None:
        raise ConfigError(f"recipe {str(recipe)!r} touches no linear layer of the blocks")
    return {layer.name: new for layer, new in _made(recipe, quantized)}


def _planned(model: nn.Module, recipe: Recipe, roles: Roles | None) -> tuple[list[_Layer], list[str]]:
    """The linear layers of the blocks with their specs, and the attentions that qkr reparameterises."""
    recipe.check()
    linears = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and _block(name) is not None
    }
    named = {name: role_of(name, roles) for name in linears}
    _check_overrides(recipe, named)
    kept = recipe.kept_blocks(blocks_of(model))
    attentions = (
        [] if recipe.qkr is None else [n for n in find_attentions(model, recipe.qkr) if _block(n) not in kept]
    )
    products = {f"{name}.{part}" for name in attentions for part in ("q_proj", "k_proj")}
    _check_product_overrides(recipe, products)
    layers = [
        _Layer(
            name,
            linear,
            named[name],
            None if name in products else recipe.spec_for(name, "weight", named[name]),
            recipe.spec_for(name, "input", named[name]),
        )
        for name, linear in linears.items()
        if _block(name) not in kept
    ]
    return layers, attentions


def attentions_of(
    model: nn.Module, roles: Roles | None, kept: Collection[int], what: str
) -> dict[str, nn.Module]:
    """The modules of the blocks that have keys and values, by name: the parents of layers of role ``qkv``.

    Args:
        model: As for :func:`quantize_model`, before or after it.
        roles: As there.
        kept: Numbers of blocks that are left out.
        what: What needs them, for the message.

    Raises:
        ConfigError: There is none.
    """
    parents = {
        name.rpartition(".")[0]: None
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and (block := _block(name)) is not None
        and block not in kept
        and role_of(name, roles) == "qkv"
    }
    if not parents:
        raise ConfigError(f"{what}: no layer has the role 'qkv', so no keys are known")
    return {name: model.get_submodule(name) for name in parents}


def blocks_of(model: nn.Module) -> int:
    """How many blocks have linear layers."""
    numbers = (_block(name) for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
    return 1 + max((number for number in numbers if number is not None), default=-1)


def _block(name: str) -> int | None:
    """The number of the block that a layer lies in."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def role_of(name: str, roles: Roles | None = None) -> str | None:
    """The role of a layer by its dotted name: as the caller says, else by its last part.

    Raises:
        ConfigError: The caller gives a role that is none.
    """
    if roles is None:
        return _ROLES.get(name.rpartition(".")[2])
    role = roles(name) if callable(roles) else roles.get(name)
    if role is not None and role not in ROLES:
        raise ConfigError(f"layer {name!r} has the unknown role {role!r}; known: {', '.join(ROLES)}")
    return role


def _check_overrides(recipe: Recipe, named: Mapping[str, str | None]) -> None:
    for key in recipe.overrides:
        layer = key.rpartition(".")[0]
        if layer not in named.values() and not any(f".{name}".endswith(f".{layer}") for name in named):
            raise ConfigError(
                f"recipe {str(recipe)!r}: override {key!r} names no linear layer of the blocks, nor a role "
                f"of one ({', '.join(ROLES)})"
            )


def _check_product_overrides(recipe: Recipe, products: set[str]) -> None:
    for key in recipe.overrides:
        if any(f".{name}.weight".endswith(f".{key}") for name in products):
            raise ConfigError(
                f"recipe {str(recipe)!r}: override {key!r} would do nothing, as qkr={recipe.qkr} quantizes "
                "the product of the weights of queries and keys"
            )


def _groups(layers: Iterable[_Layer]) -> Iterable[list[_Layer]]:
    """Layers that may take the same tensor, together."""
    found: dict[tuple[object, ...], list[_Layer]] = {}
    for layer in layers:
        found.setdefault(layer.together, []).append(layer)
    return found.values()


def _made(recipe: Recipe, layers: list[_Layer]) -> Iterator[tuple[_Layer, QuantLinear]]:
    """Each layer with the quantized one in its place."""
    for group in _groups(layers):
        yield from _made_together(recipe, group)


def _made_together(recipe: Recipe, group: list[_Layer]) -> Iterator[tuple[_Layer, QuantLinear]]:
    """Quantized layers of those that take the same input."""
    first = group[0]
    common = first.name if len(group) == 1 else f"{first.parent}.{first.role}"
    width = first.linear.in_features
    alone: Quantizer | None = None
    if first.input is not None:
        alone = make_quantizer(
            recipe.quantizer_for("input"),
            first.input,
            operand="input",
            shape=(width,),
            name=f"{common}.input",
        )
    inputs = _rotated(alone, recipe, common, width)
    if inputs is not None and len(group) > 1:
        inputs = Shared(inputs, len(group))
    for layer in group:
        own: Quantizer | None = None
        if layer.weight is not None:
            own = make_quantizer(
                recipe.quantizer_for("weight"),
                layer.weight,
                operand="weight",
                shape=tuple(layer.linear.weight.shape),
                name=f"{layer.name}.weight",
            )
        weight = _rotated(own, recipe, common, width)
        new = QuantLinear.from_linear(layer.linear, weight, inputs)
        new.train(layer.linear.training).to(layer.linear.weight.device)
        yield layer, new


def _rotated(quantizer: Quantizer | None, recipe: Recipe, name: str, width: int) -> nn.Module | None:
    if recipe.rotation is None:
        return quantizer
    rotation = Rotation.parse(recipe.rotation)
    try:
        block = rotation.block_for(width, lambda size: decompose(size) is not None)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from error
    return Rotated(quantizer, block, signs_of(name, width) if rotation.signs else None)
