"""Reads a study file: every key checked, every problem listed at once. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import partial
from itertools import product
from reprlib import repr as short_repr
from typing import Any, TypeVar

from qscale.data.hub import HubSource
from qscale.data.tokenizer import parse
from qscale.errors import ConfigError, SpecError
from qscale.formats import Recipe
from qscale.formats.recipe import ROLES
from qscale.models.families import FAMILIES, family_of
from qscale.models.ladder import ModelShape, name_of, shape_of
from qscale.sweep import studyvalues
from qscale.sweep.grid import Exclusion, Grid, Identity, Source, Study, matches
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
    "methods",
    "seeds",
    "training",
    "zip",
    "include",
    "exclude",
    "workers",
)
#: Keys whose lists ``zip`` may pair, value by value.
AXES = (
    "corpus",
    "tokenizer",
    "sizes",
    "family",
    "tokens",
    "recipes",
    "group_sizes",
    "modes",
    "finetune_fractions",
    "methods",
    "seeds",
)
#: What an entry of ``exclude`` may name a point by.
EXCLUDABLE = (
    "corpus",
    "family",
    "size",
    "tokens",
    "recipe",
    "group_size",
    "mode",
    "finetune_fraction",
    "method",
    "seed",
)
#: Axes of which a grid has one value.
_SINGLE = ("corpus", "tokenizer")
#: Of the whole study: an entry of ``include`` has none of them.
_OF_THE_STUDY = ("include", "exclude", "workers")
STUDY_MODES = ("cooldown", "scratch", "finetune", "ptq")
#: What ``decompose`` adds to each recipe: its weights and its inputs alone; the inputs of one role left out;
#: the input of one layer left out.
DECOMPOSITIONS = ("operands", "inputs", "layers")
CORPORA = ("python", "file:PATH", "hf:NAME")

_MOST_RUNS = 100_000
_MOST_GRIDS = 10_000
#: Fields of a model's shape that have no default.
_SHAPE = tuple(f.name for f in fields(ModelShape) if f.default is MISSING)
T = TypeVar("T")


def read_study(data: Mapping[str, Any], source: str) -> Study:
    """The study that a file holds.

    Raises:
        ConfigError: Every problem found, in one line; ``source`` names the file.
    """
    problems: dict[str, None] = {}  # in the order found, each once
    whole = Reader(data, problems)
    for key in data:
        whole.known("key", key, KEYS)
    readers = [Reader(block, problems) for block in whole.blocks()]
    for reader in readers:
        reader.shapes = reader.read_sizes()
    names = [name for reader in readers for name in (*reader.shapes, *reader.bases.values())]
    study = Study(
        grids=tuple(reader.grid(names) for reader in readers),
        excluded=whole.exclusions(names),
        workers=whole.workers(),
    )
    if not problems:
        _check(study, whole)
    if problems:
        raise ConfigError(f"{source}: {'; '.join(problems)}")
    return study


def _check(study: Study, whole: Reader) -> None:
    """Every point makes a valid run, which a seed changes nothing about; every exclusion excludes some."""
    runs = sum(
        len(grid.tokens[s])
        * (len(grid.recipes[s]) + 1)
        * len(grid.seeds[s])
        * (len(grid.modes) + len(grid.methods))
        for grid in study.grids
        for s in grid.sizes
    )
    if runs > _MOST_RUNS:
        whole.problem(f"more than {_MOST_RUNS} runs; split the study")
        return
    for exclusion in study.excluded:
        if not any(matches(exclusion, grid, point) for grid in study.grids for point in grid.points()):
            words = ", ".join(f"{key} {' or '.join(map(str, each))}" for key, each in exclusion.items())
            whole.problem(f"exclude: no point has {words}")
    for grid in study.grids:
        for size, shape in grid.sizes.items():
            for recipe in grid.recipes[size]:
                whole.overrides(size, shape, Recipe.parse(recipe))
    for grid, point in study.points():
        if point["seed"] == grid.seeds[point["size"]][0]:
            try:
                studyvalues.check_pass(point["recipe"], point.get("method"))
                grid.config(Identity(""), **point).source()  # which is a run too
            except (ConfigError, SpecError) as error:
                whole.problem(f"{point['size']} with {short_count(point['tokens'])} tokens: {error}")
    if not any(True for _ in study.points()):
        whole.problem("exclude: no point is left")


class Reader:
    """Reads a study or one of its grids; problems gather, so that a user corrects them in one go."""

    def __init__(self, data: Mapping[str, Any], problems: dict[str, None]) -> None:
        self.data = data
        self.problems = problems
        self.bases: dict[str, str] = {}  # a size that the key family made, to the size it was made from
        self.everywhere: Iterable[str] = ()  # sizes of all grids of the study
        self.shapes: dict[str, ModelShape] = {}

    def problem(self, text: str) -> None:
        self.problems[text] = None

    def grid(self, everywhere: Iterable[str]) -> Grid:
        """The grid of :attr:`data`; mappings by size may name sizes that only other grids have."""
        self.everywhere = everywhere
        sizes = self.shapes
        return Grid(
            source=Source(self.corpus(), self.tokenizer()),
            sizes=sizes,
            tokens=self.by_size("tokens", self.data.get("tokens", []), sizes, parse_count),
            recipes=self.recipes(sizes),
            modes=self.modes(),
            finetune_fractions=self.fractions(),
            methods=self.methods(),
            seeds=self.by_size("seeds", self.data.get("seeds", [0]), sizes, studyvalues.seed),
            training=self.training(sizes),
        )

    def blocks(self) -> list[dict[str, Any]]:
        """What each grid is made of: the study's own keys, then each entry of ``include`` over them."""
        shared = {key: value for key, value in self.data.items() if key not in _OF_THE_STUDY}
        included = self.mappings("include", [key for key in KEYS if key not in _OF_THE_STUDY])
        blocks = [shared, *(_inherit(shared, block) for block in included)]
        if included and not {"sizes", "tokens"} & shared.keys():  # it only says what they share
            blocks = blocks[1:]
        for block in blocks:
            for key in ("sizes", "tokens"):
                if key not in block:
                    self.problem(f"the key {key!r} is missing")
        found = [each for block in blocks for each in self.unzipped(block)]
        if len(found) > _MOST_GRIDS:
            self.problem(f"zip and include make more than {_MOST_GRIDS} grids; split the study")
            return []
        return found

    def mappings(self, key: str, known: Sequence[str]) -> list[dict[str, Any]]:
        """A list of mappings that have known keys alone."""
        given = self.data.get(key, [])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            self.problem(f"{key}: {short_repr(given)} is not a list of mappings such as [{known[0]}: ...]")
            return []
        for each in given:
            for name in each:
                self.known(f"key in {key}", name, known)
        return given

    def unzipped(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        """The block for each tuple of zipped values, each corpus and each tokenizer."""
        asked = block.get("zip", [])
        asked = [asked] if isinstance(asked, list) and asked and isinstance(asked[0], str) else asked
        if not isinstance(asked, list) or not all(isinstance(names, list) for names in asked):
            self.problem(f"zip: {short_repr(asked)} is not a list of axes such as [sizes, tokens]")
            return []
        rows: list[list[dict[str, Any]]] = []
        for names in asked:
            if not all(self.known("axis in zip", name, AXES) for name in names):
                continue
            lists = {name: block.get(name) for name in names}
            if not all(isinstance(values, list) and values for values in lists.values()):
                self.problem(f"zip: each of {', '.join(names)} must be a list with something in it")
                continue
            lengths = {name: len(values or ()) for name, values in lists.items()}
            if len(set(lengths.values())) > 1:
                each = ", ".join(f"{name} has {length}" for name, length in lengths.items())
                self.problem(f"zip: the lists differ in length: {each}")
                continue
            count = min(lengths.values(), default=0)
            rows.append(
                [{n: _one(n, (values or ())[i]) for n, values in lists.items()} for i in range(count)]
            )
        sources: list[list[dict[str, Any]]] = [
            [{name: value} for value in block[name]]
            if isinstance(block.get(name), list) and block[name]
            else [{}]
            for name in _SINGLE
            if not any(name in names for names in asked)
        ]
        plain = {key: value for key, value in block.items() if key != "zip"}
        found = []
        for choice in product(*rows, *sources):
            found.append(plain | {key: value for part in choice for key, value in part.items()})
            if len(found) > _MOST_GRIDS:
                break
        return found

    def exclusions(self, sizes: Iterable[str]) -> tuple[Exclusion, ...]:
        """The entries of ``exclude``, each with the values that it names."""
        names = list(dict.fromkeys(sizes))
        read: dict[str, Callable[[Any], Any]] = {
            "tokens": parse_count,
            "recipe": studyvalues.excluded_recipe,
            "group_size": studyvalues.excluded_group,
            "seed": studyvalues.seed,
            "finetune_fraction": studyvalues.fraction,
            "method": studyvalues.method,
        }
        among = {"size": names, "mode": STUDY_MODES, "family": tuple(FAMILIES)}
        found = []
        for entry in self.mappings("exclude", EXCLUDABLE):
            if not entry:
                self.problem("exclude: an empty entry would exclude everything")
            values = {
                key: tuple(self.each(f"exclude: {key}", value, read.get(key, str)))
                for key, value in entry.items()
                if key in EXCLUDABLE
            }
            for key, known in among.items():
                for value in values.get(key, ()):
                    self.known(f"{key} in exclude", value, known)
            found.append(values)
        return tuple(found)

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
        names = dict.fromkeys((*sizes, *self.bases.values(), *self.everywhere))
        for size in value:
            self.known(f"size in {key}", size, names)
        places = {size: size if size in value else self.bases.get(size, "") for size in sizes}
        return {size: value[place] for size, place in places.items() if place in value}

    def read_sizes(self) -> dict[str, ModelShape]:
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
        bare = [name for name in names if studyvalues.is_bare(name)]
        if bare and "group_sizes" not in self.data:
            self.problem(f"recipes: {bare[0]!r} has no granularity: add group_sizes, or write {bare[0]}:g32")
        if "group_sizes" in self.data and not bare:
            self.problem(
                "group_sizes: no recipe takes them; write recipes without a granularity, such as w4a4"
            )
        groups = self.by_size("group_sizes", self.data.get("group_sizes", []), sizes, studyvalues.span)
        found: dict[str, tuple[str, ...]] = {}
        for size in sizes:
            texts = [
                text
                for name in names
                for text in ([f"{name}:{span}" for span in groups[size]] if name in bare else [name])
            ]
            found[size] = (
                self.decomposed(self.each("recipes", texts, studyvalues.recipe), sizes[size]) if texts else ()
            )
        return found

    def decomposed(self, recipes: list[str], shape: ModelShape) -> tuple[str, ...]:
        """The recipes, and behind each what the key ``decompose`` asks to take it apart with."""
        asked = self.each("decompose", self.data["decompose"], str) if self.data.get("decompose") else []
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
        if not self.data.get("finetune_fractions"):
            if "finetune" in self.modes():
                self.problem(
                    "the mode finetune needs finetune_fractions, such as [0.1, 0.2] (qscale train: "
                    "--finetune-fraction 0.1)"
                )
            return ()
        return tuple(self.each("finetune_fractions", self.data["finetune_fractions"], studyvalues.fraction))

    def methods(self) -> tuple[str, ...]:
        """Methods of quantization after training, in the mode ptq."""
        if "methods" not in self.data:
            return ("rtn",)
        if "ptq" not in self.modes():
            self.problem("methods: they are of the mode ptq; add it to modes, or leave methods out")
        return tuple(self.each("methods", self.data["methods"], studyvalues.method))

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
            if not self.known("key in training", field, studyvalues.TRAINING):
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
                for typed in self.each("training", single, partial(studyvalues.typed, field)):
                    found[size][field] = typed
        return found

    def workers(self) -> int | None:
        value = self.data.get("workers")
        if value is not None and (type(value) is not int or value < 1):
            self.problem(f"workers: {short_repr(value)} is not a positive whole number")
            return None
        return value


def _inherit(shared: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of ``include``: its own keys, and of the study's those that still make sense beside them."""
    left = dict(shared)
    zipped = left.get("zip", [])
    if set(block) & {name for part in zipped for name in ([part] if isinstance(part, str) else part)}:
        left.pop("zip", None)
    given = block.get("recipes", [])
    names = given if isinstance(given, list) else [given]
    if "recipes" in block and not any(isinstance(name, str) and studyvalues.is_bare(name) for name in names):
        left.pop("group_sizes", None)
    return {**left, **block}


def _one(axis: str, value: Any) -> Any:
    """One value of an axis, as a grid takes it."""
    return value if axis in _SINGLE else [value]


def _layers_with_inputs(shape: ModelShape, recipe: Recipe) -> Iterable[str]:
    """The layers of all blocks whose input the recipe quantizes."""
    kept = recipe.kept_blocks(shape.num_layers)
    for name, linear in shape.layers():
        block = int(name.split(".")[1])
        if block not in kept and recipe.spec_for(name, "input", linear.role) is not None:
            yield name
