"""Reads a study file: every key checked, every problem listed at once. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import partial
from reprlib import repr as short_repr
from typing import Any, TypeVar

from qscale.data.hub import HubSource
from qscale.data.tokenizer import parse
from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.formats.presets import PRESETS
from qscale.formats.recipe import ROLES
from qscale.models.families import FAMILIES, family_of
from qscale.models.ladder import ModelShape, name_of, shape_of
from qscale.sweep.grid import Study
from qscale.units import parse_count, short_count

KEYS = (
    "corpus",
    "tokenizer",
    "sizes",
    "family",
    "tokens",
    "recipes",
    "group_sizes",
    "decompose",
    "modes",
    "finetune_fractions",
    "seeds",
    "training",
    "workers",
)
STUDY_MODES = ("cooldown", "scratch", "finetune")
#: What ``decompose`` adds to each recipe: its weights and its inputs alone; the inputs of one role left out;
#: the input of one layer left out.
DECOMPOSITIONS = ("operands", "inputs", "layers")
CORPORA = ("python", "file:PATH", "hf:NAME")

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
}

_BARE_RECIPE = re.compile(r"w\d+a\d+")
_MOST_RUNS = 100_000
#: Fields of a model's shape that have no default.
_SHAPE = tuple(f.name for f in fields(ModelShape) if f.default is MISSING)
T = TypeVar("T")


class Reader:
    """Reads one study and gathers every problem, so that a user corrects them in one go."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self.data = data
        self.source = source
        self.problems: dict[str, None] = {}  # in the order found, each once
        self.bases: dict[str, str] = {}  # a size that the key family made, to the size it was made from

    def problem(self, text: str) -> None:
        self.problems[text] = None

    def study(self) -> Study:
        """The study, or one ConfigError with all problems."""
        for key in self.data:
            self.known("key", key, KEYS)
        for key in ("sizes", "tokens"):
            if key not in self.data:
                self.problem(f"the key {key!r} is missing")
        sizes = self.sizes()
        study = Study(
            corpus=self.corpus(),
            tokenizer=self.tokenizer(),
            sizes=sizes,
            tokens=self.by_size("tokens", self.data.get("tokens", []), sizes, parse_count),
            recipes=self.recipes(sizes),
            modes=self.modes(),
            finetune_fractions=self.fractions(),
            seeds=self.by_size("seeds", self.data.get("seeds", [0]), sizes, _seed),
            training=self.training(sizes),
            workers=self.workers(),
        )
        self.stop()
        self.check(study)
        self.stop()
        return study

    def stop(self) -> None:
        if self.problems:
            raise ConfigError(f"{self.source}: {'; '.join(self.problems)}")

    def check(self, study: Study) -> None:
        """Every point makes a valid run; a seed changes nothing about that."""
        runs = sum(
            len(study.tokens[s]) * (len(study.recipes[s]) + 1) * len(study.seeds[s]) for s in study.sizes
        )
        if runs * len(study.modes) > _MOST_RUNS:
            self.problem(f"more than {_MOST_RUNS} runs; split the study")
            return
        for size, shape in study.sizes.items():
            for recipe in study.recipes[size]:
                self.overrides(size, shape, Recipe.parse(recipe))
        for point in study.points():
            if point["seed"] == study.seeds[point["size"]][0]:
                try:
                    study.config("", **point).source()  # which is a run too
                except (ConfigError, SpecError) as error:
                    self.problem(f"{point['size']} with {short_count(point['tokens'])} tokens: {error}")

    def overrides(self, size: str, shape: ModelShape, recipe: Recipe) -> None:
        """Every override names a linear layer: of all blocks, or of one, such as layers.0.mlp.down_proj."""
        names = [linear.name for linear in shape.linears()]
        blocks = family_of(shape.family).blocks
        full = [f".{blocks}.{block}.{name}" for block in range(shape.num_layers) for name in names]
        for key in recipe.overrides:
            layer, _, operand = key.rpartition(".")
            if layer not in ROLES and not any(name.endswith(f".{layer}") for name in full):
                short = [name.rpartition(".")[2] for name in names]
                nearest = get_close_matches(layer, [*short, *names], n=1, cutoff=0.4)
                hint = f"did you mean {f'{nearest[0]}.{operand}'!r}? " if nearest else ""
                self.problem(
                    f"recipes: the override {key!r} names no linear layer of {size}; {hint}"
                    f"known: {', '.join(short)}; roles: {', '.join(ROLES)}"
                )

    def known(self, what: str, name: object, names: Iterable[str]) -> bool:
        names = list(names)
        if name in names:
            return True
        nearest = get_close_matches(str(name), names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        self.problem(f"unknown {what} {short_repr(name)}; {hint}known: {', '.join(names)}")
        return False

    def text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            self.problem(f"{key}: {short_repr(value)} is not a name")
            return ""
        return value

    def corpus(self) -> str:
        name = self.text("corpus", self.data.get("corpus", "python"))
        if name.startswith("hf:"):
            try:
                return str(HubSource.parse(name))
            except ConfigError as error:
                self.problem(str(error))
        elif name and not re.match("file:.", name):
            self.known("corpus", name, CORPORA)
        return name

    def tokenizer(self) -> str:
        name = self.text("tokenizer", self.data.get("tokenizer", "bytes"))
        try:
            kind, argument = parse(name) if name else ("bytes", "")
        except ConfigError as error:
            self.problem(str(error))
            return "bytes"
        return f"{kind}:{argument}" if argument else kind

    def each(self, key: str, value: object, read: Callable[[Any], T]) -> list[T]:
        """Every value of a list (or the one value), read; problems are noted under the key."""
        values: Sequence[Any] = value if isinstance(value, list) else [value]
        if not values:
            self.problem(f"{key}: the list is empty")
        found: list[T] = []
        for item in values:
            if isinstance(item, (list, dict)) or item is None:
                self.problem(f"{key}: {short_repr(item)} is not a single value")
                continue
            try:
                found.append(read(item))
            except (ConfigError, SpecError) as error:
                self.problem(f"{key}: {error}")
        return list(dict.fromkeys(found))

    def by_size(
        self, key: str, value: object, sizes: Mapping[str, ModelShape], read: Callable[[Any], T]
    ) -> dict[str, tuple[T, ...]]:
        """A list for all sizes, or a mapping from size to list that names every size.

        A size before its families stands for those that are not named themselves.
        """
        if not isinstance(value, dict):
            shared = tuple(self.each(key, value, read)) if key in self.data or value != [] else ()
            return dict.fromkeys(sizes, shared)
        given = self.for_sizes(key, value, sizes)
        for size in sizes:
            if size not in given:
                self.problem(f"{key}: nothing given for {size}")
        return {s: tuple(self.each(f"{key} of {s}", given[s], read)) if s in given else () for s in sizes}

    def for_sizes(
        self, key: str, value: Mapping[str, Any], sizes: Mapping[str, ModelShape]
    ) -> dict[str, Any]:
        """The entry of each size: under its name, else under that of the size before its family."""
        names = dict.fromkeys((*sizes, *self.bases.values()))
        for size in value:
            self.known(f"size in {key}", size, names)
        places = {size: size if size in value else self.bases.get(size, "") for size in sizes}
        return {size: value[place] for size, place in places.items() if place in value}

    def sizes(self) -> dict[str, ModelShape]:
        value = self.data.get("sizes", [])
        if value is None:
            self.problem("sizes: nothing is given; name sizes such as tiny-20k")
            return {}
        found: dict[str, ModelShape] = {}
        families = self.families()
        for item in value if isinstance(value, list) else [value]:
            try:
                if isinstance(item, dict):
                    given = {key: field for key, field in item.items() if key != "name"}
                    if lacking := [name for name in _SHAPE if name not in given]:
                        raise ConfigError(
                            f"a shape needs {', '.join(_SHAPE)}; {', '.join(lacking)} not given"
                        )
                    shape = ModelShape.from_json(given)
                    name = self.text("sizes: name", item.get("name", name_of(shape)))
                else:
                    shape = shape_of(str(item))
                    name = name_of(shape) if str(item).endswith(".json") else str(item)
                named = self.in_families(name, shape, families)
            except (ConfigError, TypeError) as error:
                self.problem(f"sizes: {error}")
                continue
            for name, shape in named.items():
                if name in found and found[name] != shape:
                    self.problem(f"sizes: two shapes are called {name!r}; give each a name of its own")
                found[name] = shape
        if "sizes" in self.data and value == []:
            self.problem("sizes: the list is empty")
        return found

    def families(self) -> list[str]:
        """Every size is taken in each of them; without the key, in its own."""
        given = self.each("family", self.data["family"], str) if "family" in self.data else []
        return [family for family in given if self.known("family", family, FAMILIES)]

    def in_families(self, name: str, shape: ModelShape, families: list[str]) -> dict[str, ModelShape]:
        """A size in each family, under names such as ``tiny-20k-opt``; in its own the name stays."""
        found = {}
        for family in families or [shape.family]:
            own = name if family == shape.family else f"{name}-{family}"
            found[own] = shape.in_family(family)
            if own != name:
                self.bases[own] = name
        return found

    def recipes(self, sizes: Mapping[str, ModelShape]) -> dict[str, tuple[str, ...]]:
        """Recipes without a granularity take each group size in turn; others stand as they are."""
        given = self.data.get("recipes", [])
        names = self.each("recipes", given, str) if given != [] else []
        bare = [name for name in names if _is_bare(name)]
        if bare and "group_sizes" not in self.data:
            self.problem(f"recipes: {bare[0]!r} has no granularity: add group_sizes, or write {bare[0]}:g32")
        if "group_sizes" in self.data and not bare:
            self.problem(
                "group_sizes: no recipe takes them; write recipes without a granularity, such as w4a4"
            )
        groups = self.by_size("group_sizes", self.data.get("group_sizes", []), sizes, _span)
        found: dict[str, tuple[str, ...]] = {}
        for size in sizes:
            texts = [
                text
                for name in names
                for text in ([f"{name}:{span}" for span in groups[size]] if name in bare else [name])
            ]
            found[size] = self.decomposed(self.each("recipes", texts, _recipe), sizes[size]) if texts else ()
        return found

    def decomposed(self, recipes: list[str], shape: ModelShape) -> tuple[str, ...]:
        """The recipes, and behind each what the key ``decompose`` asks to take it apart with."""
        asked = self.each("decompose", self.data["decompose"], str) if "decompose" in self.data else []
        asked = [name for name in asked if self.known("decomposition", name, DECOMPOSITIONS)]
        found: dict[str, None] = {}
        for text in recipes:
            recipe = Recipe.parse(text)
            found[text] = None
            if recipe.weight is None or recipe.input is None:
                continue
            if "operands" in asked:
                found |= dict.fromkeys(str(recipe.only(operand)) for operand in ("weight", "input"))
            if "inputs" in asked:
                found |= dict.fromkeys(str(recipe.without_input_of(role)) for role in ROLES)
            if "layers" in asked:
                names = _layers_with_inputs(shape, recipe)
                found |= dict.fromkeys(str(recipe.without_input_of(name)) for name in names)
        return tuple(found)

    def fractions(self) -> tuple[float, ...]:
        """Parts of the tokens that the mode finetune trains on."""
        if "finetune_fractions" not in self.data:
            if "finetune" in self.modes():
                self.problem(
                    "the mode finetune needs finetune_fractions, such as [0.1, 0.2] (qscale train: "
                    "--finetune-fraction 0.1)"
                )
            return ()
        return tuple(self.each("finetune_fractions", self.data["finetune_fractions"], _fraction))

    def modes(self) -> tuple[str, ...]:
        given = self.each("modes", self.data.get("modes", ["cooldown"]), str)
        return tuple(mode for mode in given if self.known("mode", mode, STUDY_MODES))

    def training(self, sizes: Mapping[str, ModelShape]) -> dict[str, dict[str, Any]]:
        """Overrides by size; a size that a mapping leaves out keeps the default."""
        given = self.data.get("training", {})
        found: dict[str, dict[str, Any]] = {size: {} for size in sizes}
        if not isinstance(given, dict):
            self.problem(f"training: {short_repr(given)} is not a mapping such as 'context: 128'")
            return found
        for field, value in given.items():
            if not self.known("key in training", field, TRAINING):
                continue
            if isinstance(value, dict):
                by_size = self.for_sizes(f"training.{field}", value, sizes)
            else:
                by_size = dict.fromkeys(sizes, value)
            for size, single in by_size.items():
                if isinstance(single, list):
                    self.problem(
                        f"training: {field}={short_repr(single)} is a list; give one value, or one for each "
                        "size as a mapping"
                    )
                    continue
                for typed in self.each("training", single, partial(_typed, field)):
                    found[size][field] = typed
        return found

    def workers(self) -> int | None:
        value = self.data.get("workers")
        if value is not None and (type(value) is not int or value < 1):
            self.problem(f"workers: {short_repr(value)} is not a positive whole number")
            return None
        return value


def _typed(field: str, value: object) -> Any:
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


def _seed(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ConfigError(f"{short_repr(value)} is not a whole number from 0 up")
    return value


def _fraction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{short_repr(value)} is not a part between 0 and 1 of the tokens")
    return float(value)


def _span(value: object) -> str:
    """``g32`` for 32; ``channel`` as it is."""
    if type(value) is int and value >= 1:
        return f"g{value}"
    if value == "channel":
        return "channel"
    raise ConfigError(
        f"{short_repr(value)} is not a positive group size; write 32, or channel for a whole row"
    )


def _layers_with_inputs(shape: ModelShape, recipe: Recipe) -> Iterable[str]:
    """The layers of all blocks whose input the recipe quantizes."""
    kept = recipe.kept_blocks(shape.num_layers)
    for name, linear in shape.layers():
        block = int(name.split(".")[1])
        if block not in kept and recipe.spec_for(name, "input", linear.role) is not None:
            yield name


def _is_bare(name: str) -> bool:
    """Whether a granularity is missing: ``w4a4``, or a ready-made name that takes one."""
    return bool(_BARE_RECIPE.fullmatch(name)) or (name in PRESETS and PRESETS[name].takes_span)


def _recipe(text: str) -> str:
    recipe = Recipe.parse(text)
    try:
        recipe.check()
    except SpecError as error:
        raise SpecError(f"{text}: {error}") from error
    return str(recipe)
