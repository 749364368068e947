"""Reads a ``config.json`` as transformers writes it: the fields of a shape, or why it is none. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qscale import bounded
from qscale.errors import ConfigError
from qscale.models.families import Family, family_of

_PLAIN_ROPE = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


def read_shape_fields(path: Path | str) -> dict[str, Any]:
    """The fields of a :class:`~qscale.models.ladder.ModelShape` that a ``config.json`` describes.

    What changes the model and cannot be expressed is refused: another activation, biases where the family has
    none, sliding windows, scaled rotary positions, quantized layers. What belongs to training is not
    read: dropout, the initial weights, the longest context of rotary positions.

    Raises:
        ConfigError: The file cannot be read, is of another type, lacks a key, or describes a model that
            a shape cannot.
    """
    try:
        data = bounded.loads(bounded.read_text(path, bounded.MODEL_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(
            f"cannot read the model configuration {path}: {error.strerror}; give a config.json"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: it is not JSON: {bounded.one_line(error)}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise ConfigError(f"{path}: it has no model_type; give the config.json of a model")
    try:
        family = family_of(data["model_type"])
        fields = {**_fields(family, data), **_rope(family, data)}
        _check_fixed(family, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return fields


def _fields(family: Family, data: Mapping[str, Any]) -> dict[str, Any]:
    """Every field under its key; without one for keys and values, a head has its own."""
    fields: dict[str, Any] = {"family": family.name}
    for field, key in family.keys.items():
        optional = field in family.options or field == "num_kv_heads"
        value = data.get(key)
        if value is not None:
            fields[field] = _number(key, value, whole=field not in ("rope_theta", "norm_eps"))
        elif not optional or field in family.required:
            raise ConfigError(f"the key {key!r} is missing")
    fields.setdefault("num_kv_heads", fields["num_heads"])
    fields["tie_embeddings"] = data.get("tie_word_embeddings", family.ties_by_default)
    if type(fields["tie_embeddings"]) is not bool:
        raise ConfigError(f"tie_word_embeddings={fields['tie_embeddings']!r} is not true or false")
    return fields


def _number(key: str, value: object, *, whole: bool) -> object:
    if type(value) is int or (type(value) is float and not whole):
        return value
    raise ConfigError(f"{key}={value!r} is not {'a whole number' if whole else 'a number'}")


def _rope(family: Family, data: Mapping[str, Any]) -> dict[str, Any]:
    """The base of plain rotary positions, from the keys of transformers 4 or 5."""
    if not family.rotary:
        return {}
    scaling = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ConfigError(f"rope_scaling={scaling!r} is not a mapping")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" or not scaling.keys() <= set(_PLAIN_ROPE):
        raise ConfigError(
            f"rotary positions {scaling} are scaled, which is another model; "
            "qscale has plain ones: take the entry out to train with those"
        )
    part = scaling.get("partial_rotary_factor", data.get("partial_rotary_factor", data.get("rotary_pct")))
    if part is not None and part != family.rotary:
        raise ConfigError(f"rotary positions turn {part} of a head; {family.name} here turns {family.rotary}")
    theta = scaling.get("rope_theta")
    return {} if theta is None else {"rope_theta": _number("rope_theta", theta, whole=False)}


def _check_fixed(family: Family, data: Mapping[str, Any]) -> None:
    for key, value in family.fixed.items():
        if data.get(key, value) != value:
            raise ConfigError(f"{key}={data[key]!r}: {family.name} here has {value!r}, and nothing else")
    if data.get("quantization_config") is not None:
        raise ConfigError("quantization_config: take the config.json of the model before it was quantized")
    if set(data.get("layer_types") or ()) - {"full_attention"}:
        raise ConfigError(f"layer_types={data['layer_types']}: every block here has full attention")
    width = data.get("word_embed_proj_dim")
    if width is not None and width != data.get("hidden_size"):
        raise ConfigError(f"word_embed_proj_dim={width}: embeddings here are as wide as the blocks")
