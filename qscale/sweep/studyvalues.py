"""Single values of a study file, read and checked. No torch, but where methods are."""

from __future__ import annotations

import re
from contextlib import suppress
from reprlib import repr as short_repr
from typing import Any

from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.formats.presets import PRESETS
from qscale.formats.recipe import NOTHING, without_span

#: Fields of RunConfig that ``training`` may set, and the type of each.
TRAINING: dict[str, type] = {
    "batch_sequences": int,
    "context": int,
    "learning_rate": float,
    "warmup_steps": int,
    "cooldown_fraction": float,
    "cooldown_shape": str,
    "beta1": float,
    "beta2": float,
    "epsilon": float,
    "weight_decay": float,
    "gradient_clip": float,
    "eval_windows": int,
    "allow_repeat": bool,
    "schedule": str,
    "final_rate": float,
    "finetune_rate": float,
    "precision": str,
    "accumulation": int,
    "parametrization": str,
    "mup_width": int,
    "compiled": bool,
    "calibration_windows": int,
    "calibration_length": int,
}

_BARE_RECIPE = re.compile(r"w\d+a\d+")


def excluded_recipe(text: object) -> str:
    """A recipe as points have it; without a granularity it stands for all of them."""
    if not isinstance(text, str):
        raise ConfigError(f"{short_repr(text)} is not a recipe")
    return without_span(recipe(f"{text}:g32")) if is_bare(text) else recipe(text)


def excluded_group(value: object) -> int | str:
    text = span(value)
    return text if text == "channel" else int(text[1:])


def typed(field: str, value: object) -> Any:
    """The value as its field's type, so that ``1`` and ``1.0`` give one id."""
    wanted = TRAINING[field]
    if wanted is float and isinstance(value, str):  # YAML reads 3e-3 as text: it wants 3.0e-3
        with suppress(ValueError):
            value = float(value)
    if wanted is float and type(value) in (int, float):
        value = float(value)  # type: ignore[arg-type]
        if value == value and abs(value) != float("inf"):
            return value
    elif type(value) is wanted:
        return value
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[wanted]
    raise ConfigError(f"{field}={short_repr(value)} is not {kind}")


def seed(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ConfigError(f"{short_repr(value)} is not a whole number from 0 up")
    return value


def fraction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{short_repr(value)} is not a part between 0 and 1 of the tokens")
    return float(value)


def method(value: object) -> str:
    """The canonical text of a method."""
    if value == "rtn":
        return "rtn"
    if not isinstance(value, str):
        raise ConfigError(f"{short_repr(value)} is not a method such as gptq")
    from qscale.ptq.methods import Method  # torch with it: only studies that have methods pay for that

    return str(Method.parse(value))


def check_pass(recipe: str | None, method: str | None) -> None:
    """Make sure that a method has something to quantize: ``w16a16`` leaves it keys and values alone.

    Raises:
        ConfigError: The message says how a study leaves such a point out.
    """
    if recipe != NOTHING or method in (None, "rtn"):  # a run without a method sees to itself
        return
    from qscale.ptq.methods import Method
    from qscale.ptq.run import ptq_recipe

    try:
        ptq_recipe(recipe, Method.parse(method))
    except ConfigError as error:
        raise ConfigError(
            f"{error}; or leave it out (exclude: [{{recipe: {recipe}, method: {method!r}}}])"
        ) from error


def span(value: object) -> str:
    """``g32`` for 32; ``channel`` as it is."""
    if type(value) is int and value >= 1:
        return f"g{value}"
    if value == "channel":
        return "channel"
    raise ConfigError(
        f"{short_repr(value)} is not a positive group size; write 32, or channel for a whole row"
    )


def is_bare(name: str) -> bool:
    """Whether a granularity is missing: ``w4a4``, or a ready-made name that takes one."""
    if name == NOTHING:
        return False
    return bool(_BARE_RECIPE.fullmatch(name)) or (name in PRESETS and PRESETS[name].takes_span)


def recipe(text: str) -> str:
    recipe = Recipe.parse(text)
    try:
        recipe.check()
    except SpecError as error:
        raise SpecError(f"{text}: {error}") from error
    return str(recipe)
