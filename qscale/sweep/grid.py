"""A study: grids of axes, less what it excludes, to run configurations with their baselines. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from qscale import bounded
from qscale.data.tokenizer import TokenizerId, check_vocabulary, planned
from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.formats.recipe import without_span
from qscale.models.ladder import ModelShape, name_of, with_vocabulary
from qscale.sweep.yamltext import load_mapping
from qscale.training import defaults
from qscale.training.config import RunConfig
from qscale.units import short_count

#: Below this many tokens a parameter, delta is still switching on (the published law starts at 17).
_LEAST_TOKENS_PER_PARAMETER = 15
#: Below this many optimizer steps delta is inflated (.131 after 201 steps, .064 after 805: N = 20.6k).
_LEAST_STEPS = 500
#: What a shape has that says nothing of its vocabulary.
_VOCABULARY: int = ModelShape.__dataclass_fields__["vocab_size"].default  # type: ignore[assignment]

#: What ``training`` may hold for methods that are calibrated.
CALIBRATION = ("calibration_windows", "calibration_length")

#: Values of the keys of a point; those that are left out match anything.
Exclusion = Mapping[str, tuple[Any, ...]]


class Source(NamedTuple):
    """Where a grid's tokens come from, as the user names it."""

    corpus: str
    tokenizer: str = "bytes"


class Identity(NamedTuple):
    """What a source turned out to be: the part of it that changes numbers."""

    sha256: str
    tokenizer: TokenizerId | None = None  #: None for bytes, or before it is made


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Axes whose product is a set of points: one corpus, one tokenizer."""

    source: Source
    sizes: Mapping[str, ModelShape]
    tokens: Mapping[str, tuple[int, ...]]  #: by size; as asked, before rounding to whole steps
    recipes: Mapping[str, tuple[str, ...]]  #: by size; canonical text with its granularity
    modes: tuple[str, ...]
    finetune_fractions: tuple[float, ...] = ()  #: parts of the tokens, one run each in the mode finetune
    methods: tuple[str, ...] = ("rtn",)  #: canonical text; one run each in the mode ptq
    seeds: Mapping[
        str, tuple[int, ...]
    ]  #: by size; each is both the seed of the weights and of the token order
    training: Mapping[str, Mapping[str, Any]]  #: by size; fields of RunConfig

    def points(self) -> Iterator[dict[str, Any]]:
        """The points of the grid: size, tokens, seed, recipe, mode with its fraction or method."""
        for size in self.sizes:
            for tokens in self.tokens[size]:
                for seed in self.seeds[size]:
                    base = {"size": size, "tokens": tokens, "seed": seed}
                    if not self.recipes[size]:
                        yield {**base, "mode": "baseline", "recipe": None}
                    for mode in self.modes:
                        fractions = self.finetune_fractions if mode == "finetune" else (None,)
                        methods = self.methods if mode == "ptq" else (None,)
                        for recipe, fraction, method in product(self.recipes[size], fractions, methods):
                            point = {**base, "mode": mode, "recipe": recipe}
                            yield {**point, "finetune_fraction": fraction, "method": method}

    def config(
        self,
        identity: Identity,
        *,
        size: str,
        tokens: int,
        mode: Any,
        recipe: str | None,
        seed: int,
        finetune_fraction: float | None = None,
        method: str | None = None,
    ) -> RunConfig:
        """The run at one point; its tokens are rounded to a whole number of steps.

        A shape that gives no vocabulary has that of the tokenizer.

        Raises:
            ConfigError: No valid run, or a vocabulary that the tokenizer does not fit in.
        """
        tokenizer = identity.tokenizer or planned(self.source.tokenizer)
        shape = self.sizes[size]
        if shape.vocab_size == _VOCABULARY:
            shape = with_vocabulary(shape, tokenizer.vocab_size)
        check_vocabulary(tokenizer, shape.vocab_size)
        training = {
            "learning_rate": defaults.learning_rate(shape.N),
            "batch_sequences": defaults.batch_sequences(shape.N),
            **self.training[size],
        }
        if method in (None, "rtn"):  # it looks at no text
            method = None
            training = {key: value for key, value in training.items() if key not in CALIBRATION}
        context = training.get("context", RunConfig.__dataclass_fields__["context"].default)
        per_step = max(1, training["batch_sequences"] * context)
        return RunConfig(
            model=shape,
            corpus=_corpus_id(self.source.corpus, identity.sha256),
            corpus_sha256=identity.sha256,
            tokens=max(1, round(tokens / per_step)) * per_step,
            mode=mode,
            recipe=recipe,
            init_seed=seed,
            data_seed=seed,
            tokenizer=tokenizer.text,
            finetune_fraction=finetune_fraction,
            method=method,
            **training,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The points of some grids less those excluded; each quantized run brings its baseline.

    Example:
        >>> study = Study.parse("{sizes: [tiny-20k], tokens: [1M], recipes: [w4a4], group_sizes: [16, 32]}")
        >>> [run.recipe for run in study.runs("0" * 64)]
        [None, 'w4a4:g16', 'w4a4:g32']
    """

    grids: tuple[Grid, ...]
    excluded: tuple[Exclusion, ...] = ()
    workers: int | None = None  #: does not change any number

    @classmethod
    def parse(cls, text: str, source: str = "study") -> Study:
        """Read a study from YAML; ``source`` names it in errors.

        Raises:
            ConfigError: Every problem found, in one line.
        """
        from qscale.sweep.studyfile import read_study  # it makes a Study, so it imports this module

        return read_study(load_mapping(text, source), source)

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study file."""
        return cls.parse(read_text(path), str(path))

    def sources(self) -> list[Source]:
        """The corpora and tokenizers of the grids, each once."""
        return list(dict.fromkeys(grid.source for grid in self.grids))

    def points(self) -> Iterator[tuple[Grid, dict[str, Any]]]:
        """Every point that is not excluded, with its grid."""
        for grid in self.grids:
            for point in grid.points():
                if not any(matches(each, grid, point) for each in self.excluded):
                    yield grid, point

    def runs(self, identities: str | Mapping[Source, Identity]) -> list[RunConfig]:
        """Every run and its baseline, each once, in the order of the grids and their axes.

        Args:
            identities: What each source turned out to be, or one sha256 for all; ``""`` where that does not
                matter. Grids of a source that is not named are left out.
        """
        found: dict[str, RunConfig] = {}
        for _, _, runs in self.runs_by_point(identities):
            for run in runs:
                found.setdefault(run.run_id, run)
        return list(found.values())

    def runs_by_point(
        self, identities: str | Mapping[Source, Identity]
    ) -> Iterator[tuple[Grid, dict[str, Any], list[RunConfig]]]:
        """Every point with its grid and the runs that it needs; arguments as those of :meth:`runs`."""
        if isinstance(identities, str):
            identities = dict.fromkeys(self.sources(), Identity(identities))
        for grid, point in self.points():
            if grid.source in identities:
                config = grid.config(identities[grid.source], **point)
                yield (
                    grid,
                    point,
                    [run for run in (config.baseline(), config.source(), config) if run is not None],
                )

    def warnings(self) -> list[str]:
        """What a fit to these runs should know about: one line for each size and matter."""
        starved: dict[str, list[RunConfig]] = {}
        brief: dict[str, list[RunConfig]] = {}
        wide: dict[str, None] = {}  # in order, each once
        for run in self.runs(""):
            size = name_of(run.model)
            if run.recipe is not None:
                wide.update(dict.fromkeys(_wide_groups(size, run.model, Recipe.parse(run.recipe))))
            elif run.tokens < _LEAST_TOKENS_PER_PARAMETER * run.model.N:
                starved.setdefault(size, []).append(run)
            if run.recipe is None and run.steps < _LEAST_STEPS:
                brief.setdefault(size, []).append(run)
        return [
            *(
                f"{size} at {_tokens(runs)} tokens: {_least_ratio(runs):.1f} tokens a parameter; below "
                f"about {_LEAST_TOKENS_PER_PARAMETER} delta is still switching on"
                for size, runs in starved.items()
            ),
            *(
                f"{size} at {_tokens(runs)} tokens: {min(run.steps for run in runs)} steps; below about "
                f"{_LEAST_STEPS} delta is inflated; a smaller batch gives more steps"
                for size, runs in brief.items()
            ),
            *wide,
        ]


def _least_ratio(runs: Iterable[RunConfig]) -> float:
    return min(run.tokens / run.model.N for run in runs)


def _tokens(runs: Iterable[RunConfig]) -> str:
    """The token counts of some runs, such as ``0.82M, 3.28M``."""
    return ", ".join(short_count(tokens) for tokens in sorted({run.tokens for run in runs}))


def read_text(path: Path) -> str:
    """A study file's text.

    Raises:
        ConfigError: It is missing, unreadable or not text.
    """
    try:
        return bounded.read_text(path, bounded.STUDY_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read the study {path}: {reason}; give a YAML file") from error


def matches(exclusion: Exclusion, grid: Grid, point: Mapping[str, Any]) -> bool:
    """Whether a point has one of the values of every key of an exclusion."""
    return all(
        any(value in _values(key, grid, point) for value in values) for key, values in exclusion.items()
    )


def _values(key: str, grid: Grid, point: Mapping[str, Any]) -> Sequence[Any]:
    """What an exclusion may call a point by."""
    if key == "corpus":
        return (grid.source.corpus,)
    if key == "family":
        return (grid.sizes[point["size"]].family,)
    if key == "group_size":
        return () if point["recipe"] is None else _spans(point["recipe"])
    if key == "recipe" and point["recipe"] is not None:
        return (point["recipe"], without_span(point["recipe"]))
    return (point.get(key),)


def _spans(recipe: str) -> list[int | str]:
    """The group sizes of a recipe's weights and inputs; ``channel`` for whole rows."""
    parsed = Recipe.parse(recipe)
    found: list[int | str] = []
    for spec in (parsed.weight, parsed.input):
        if spec is not None and spec.strategy in ("channel", "token"):
            found.append("channel")
        elif spec is not None and spec.group_size is not None:
            found.append(spec.group_size)
    return found


def _corpus_id(corpus: str, sha256: str) -> str:
    """The corpus as ids see it: a user's file is its bytes, wherever it lies and whatever it is called."""
    return f"file:{sha256[:12]}" if corpus.startswith("file:") else corpus


def _wide_groups(size: str, shape: ModelShape, recipe: Recipe) -> Iterator[str]:
    """A remark for each group size that is larger than a layer's in_features."""
    narrow: dict[int, set[int]] = {}
    for linear in shape.linears():
        for operand in ("weight", "input"):
            spec = recipe.spec_for(linear.name, operand, linear.role)
            if spec is not None and spec.group_size is not None and spec.group_size > linear.inputs:
                narrow.setdefault(spec.group_size, set()).add(linear.inputs)
    for group, widths in narrow.items():
        yield (
            f"{size}: group size {group} is larger than in_features "
            f"{', '.join(map(str, sorted(widths)))}: one group there, recorded as such"
        )
