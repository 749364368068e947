"""What a plan rests on: a law of the loss without quantization, and laws of what quantization adds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qscale import bounded
from qscale.errors import PlanError, SpecError
from qscale.formats import Recipe
from qscale.formats.grids import FORMATS
from qscale.laws import Law, list_published, load
from qscale.laws.forms import FloatArray
from qscale.planning.architecture import Architecture
from qscale.planning.sources import DRAWS, Basis, Source

GROUPS = ("g32", "g64", "g128", "g256", "channel")
LEVEL = 0.9  # of every band


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A model that could be shipped: its architecture, its training tokens, and how it is quantized.

    The source is the law that speaks for it; both are None without quantization.
    """

    architecture: Architecture
    D: float
    recipe: Recipe | None = None
    source: Source | None = None
    scale: float = 1.0  #: predict at N times this: a model like this one, larger

    def __str__(self) -> str:
        name = self.architecture.name.removeprefix("typical ")
        return f"{name} in 16 bits" if self.recipe is None else f"{name} {self.recipe} {self.how}"

    @property
    def how(self) -> str:
        """``QAT``, or the method after training; nothing without quantization."""
        return "" if self.source is None else self.source.how


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A prediction in nats per token, its band, and how far from the data it is made."""

    value: float
    low: float | None  #: None: the laws know no band
    high: float | None
    level: float
    basis: Basis  #: of the band
    outside: Mapping[str, float]  #: times outside the fitted box, by variable; none: inside
    draws: FloatArray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        value: float,
        draws: FloatArray | None,
        basis: Basis,
        outside: Mapping[str, float],
        level: float = LEVEL,
    ) -> Forecast:
        """With the band of its draws."""
        low = high = None
        if draws is not None:
            ends = [(1 - level) / 2, (1 + level) / 2]
            if np.isfinite(draws).all():
                low, high = map(float, np.quantile(draws, ends))
            else:  # between a number and infinity there is no middle
                low, high = map(float, np.quantile(draws, ends, method="nearest"))
        return cls(
            value=value, low=low, high=high, level=level, basis=basis, outside=dict(outside), draws=draws
        )

    def chance_below(self, limit: float) -> float | None:
        """The share of draws at or below a number; None where there are none."""
        return None if self.draws is None else float(np.mean(self.draws <= limit))

    def to_json(self) -> dict[str, Any]:
        """Everything but the draws."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "basis": self.basis,
            "outside": dict(self.outside),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Laws that may be used together, and why others may not.

    Example:
        >>> evidence = Evidence.of(["chen2025/w4a16", "chen2025/w4a4"], baseline="chen2025/baseline")
        >>> small = Architecture.from_config({"model_type": "llama", "hidden_size": 1536, "vocab_size": 1000,
        ...     "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 24,
        ...     "num_key_value_heads": 6})
        >>> option = evidence.option(small, 100e9, "w4a4:g128")
        >>> round(evidence.delta(option).value, 4), round(evidence.loss(option).value, 4)
        (0.0573, 2.7981)
    """

    sources: tuple[Source, ...]  #: of delta, in the order in which they are asked
    baseline: Source | None = None
    refused: tuple[str, ...] = ()  #: laws that may not be used beside the others, each with the reason
    notes: tuple[str, ...] = ()
    level: float = LEVEL
    reach: float = math.inf  #: times outside its fitted box that a law is still asked

    @classmethod
    def of(
        cls,
        laws: Iterable[Law | str | Path] = (),
        baseline: Law | str | Path | None = None,
        *,
        published: bool = False,
        also: Mapping[str, Sequence[str]] | None = None,
        comparable: bool = False,
        level: float = LEVEL,
        reach: float = math.inf,
    ) -> Evidence:
        """Load laws and check that they go together.

        Args:
            laws: Of delta: published ids, law files or laws, your own first. Of several about one recipe
                the first is planned by, and the others are shown beside it.
            baseline: Of the loss without quantization; None: deltas alone, which rank options of one N and D.
            published: Add every published law of delta behind them.
            also: Recipes that a law is taken to cover beside its own, by the law's name:
                ``{"chen2025/w4a4": ["w=fp4_e2m1,a=fp4_e2m1"]}``.
            comparable: Take losses to be of one tokenizer where a law does not say which it is of.
            level: Of every band.
            reach: Leave a law out of plans where it would be asked more times outside its fitted box.

        Raises:
            LawError: A law cannot be read.
            PlanError: A law that was named may not be used, or not with the baseline; the reason is given.
        """
        if not 0 < level < 1 or not reach >= 1:
            raise PlanError(f"level={level:g}, reach={reach:g}: a share below 1, and times from 1 on")
        also = dict(also or {})
        given: list[Source] = []
        for law in laws:
            given.append(Source.of(law, tuple(also.pop(_name(law), ()))))
            _once(given)
        base = None if baseline is None else Source.of(baseline)
        if base is not None and not base.is_baseline():
            raise PlanError(f"baseline {base.label}: it tells no loss from N and D alone")
        first = base or (given[0] if given else None)
        for source in given:
            why = None if source.is_delta() else f"law {source.label} tells no delta of a recipe"
            why = why or _apart(source, first, comparable)
            if why:
                raise PlanError(why)
        refused: list[str] = []
        if published:
            known = {source.label for source in given}
            for name in list_published():
                if name in known:
                    continue
                source = Source(name, load(name), tuple(also.pop(name, ())))
                if not (source.is_delta() and source.recipes and source.law.usable):
                    continue
                why = _apart(source, first, comparable)
                given, refused = (given, [*refused, why]) if why else ([*given, source], refused)
        if also:
            raise PlanError(f"also: {', '.join(also)}: no such law is used here")
        notes = [
            f"how law {source.label} counts N is not known"
            for source in ([] if base is None else [base]) + given
            if source.counts == "unknown"
        ]
        return cls(
            sources=tuple(given),
            baseline=base,
            refused=tuple(refused),
            notes=tuple(notes),
            level=level,
            reach=reach,
        )

    def covering(self, recipe: Recipe | str, architecture: Architecture | None = None) -> list[Source]:
        """The sources that are about a recipe, and can tell of a model, in order."""
        recipe = Recipe.parse(recipe)
        return [source for source in self.sources if source.why_not(recipe, architecture) is None]

    def recipes(self, groups: Sequence[str] = GROUPS) -> list[Recipe]:
        """The recipes that the sources are about, each with every granularity that it may have."""
        found: dict[str, Recipe] = {}
        for source in self.sources:
            for text in source.recipes:
                for recipe in _spanned(text, groups):
                    if source.why_not(recipe) is None:
                        found.setdefault(str(recipe), recipe)
        return list(found.values())

    def option(
        self,
        architecture: Architecture,
        D: float,
        recipe: Recipe | str | None = None,
        *,
        law: str | None = None,
    ) -> Option:
        """An option and the law that speaks for it: the one named, else the first that is about the recipe.

        Raises:
            SpecError: The recipe cannot be read.
            PlanError: No law is about it; each law's reason is given.
        """
        if recipe is None:
            return Option(architecture=architecture, D=D)
        recipe = Recipe.parse(recipe)
        named = [s for s in self.sources if law in (None, s.label)]
        if not named:
            known = ", ".join(s.label for s in self.sources)
            raise PlanError(f"no law {law!r} in this plan; it has {known or 'none'}")
        for source in named:
            if source.why_not(recipe, architecture) is None:
                return Option(architecture=architecture, D=D, recipe=recipe, source=source)
        reasons = "; ".join(str(source.why_not(recipe, architecture)) for source in named)
        raise PlanError(f"{recipe}: no law predicts what it costs: {reasons}")

    def reaches(self, option: Option) -> bool:
        """Whether the option's law is asked no farther outside its box than plans may."""
        if option.source is None:
            return True
        outside = option.source.outside(point_of(option.source, option))
        return max(outside.values(), default=1.0) <= self.reach

    def delta(self, option: Option) -> Forecast:
        """What quantization adds; exactly 0 without.

        Raises:
            PlanError: The option has a recipe and no law, or its law lacks a variable or gives no number.
        """
        if option.recipe is None:
            return Forecast(value=0.0, low=0.0, high=0.0, level=self.level, basis="none", outside={})
        if option.source is None:
            raise PlanError(f"{option}: no law speaks for it")
        point = point_of(option.source, option)
        with np.errstate(over="ignore"):
            value = option.source.predict(point)
        if not math.isfinite(value):
            raise PlanError(f"law {option.source.label} predicts {value:g} for {option}")
        return Forecast.of(
            value,
            option.source.draws(point),
            option.source.basis,
            option.source.outside(point),
            self.level,
        )

    def base(self, option: Option) -> Forecast:
        """The loss without quantization.

        Raises:
            PlanError: There is no baseline.
        """
        if self.baseline is None:
            raise PlanError(
                "losses need a baseline: a law of the loss without quantization, such as your own"
            )
        point = point_of(self.baseline, option)
        return Forecast.of(
            self.baseline.predict(point),
            self.baseline.draws(point),
            self.baseline.basis,
            self.baseline.outside(point),
            self.level,
        )

    def loss(self, option: Option) -> Forecast:
        """The loss of an option, baseline and delta; without a baseline, its delta alone.

        It has a band where both laws have one: half of an error is no band.
        """
        delta = self.delta(option)
        if self.baseline is None:
            return delta
        base = self.base(option)
        if option.recipe is None:
            return base
        outside = farthest(base.outside, delta.outside)
        draws = None
        if base.draws is not None and delta.draws is not None:
            draws = base.draws + delta.draws
        basis = weakest(base.basis, delta.basis)
        return Forecast.of(base.value + delta.value, draws, basis, outside, self.level)

    def differ_in_delta(self, options: Sequence[Option]) -> bool:
        """Whether options have one baseline loss, so that it cancels between them."""
        if self.baseline is None:
            return len({(one.architecture.N * one.scale, one.D) for one in options}) <= 1
        return len({tuple(point_of(self.baseline, one).values()) for one in options}) <= 1


def weakest(*bases: Basis) -> Basis:
    """What a band rests on that is made of several."""
    return next(one for one in ("none", "printed error", "draws") if one in bases)


def exact(forecast: Forecast, option: Option) -> FloatArray | None:
    """The draws of a delta; zeros without quantization, which costs nothing for certain."""
    return np.zeros(DRAWS) if option.recipe is None else forecast.draws


def farthest(*outside: Mapping[str, float]) -> dict[str, float]:
    """How far outside, by variable, the farther of several forecasts is."""
    names = dict.fromkeys(name for one in outside for name in one)
    return {name: max(one.get(name, 1.0) for one in outside) for name in names}


def point_of(source: Source, option: Option) -> dict[str, Any]:
    """The variables of a law at an option."""
    point = source.point(option.architecture, option.D, None if source.is_baseline() else option.recipe)
    return point | {"N": point["N"] * option.scale}


def _name(law: Law | str | Path) -> str:
    return (law.name or law.law_id[:15]) if isinstance(law, Law) else str(law)


def _once(sources: Sequence[Source]) -> None:
    """Refuse the last of several laws where it is one of the others: it would agree with itself."""
    *others, last = sources
    for other in others:
        if last.label == other.label:
            raise PlanError(f"two laws are called {last.label}: name each once, and name them apart")
        if last.law.law_id == other.law.law_id:
            raise PlanError(f"laws {other.label} and {last.label} are one and the same: name it once")


def _apart(source: Source, first: Source | None, comparable: bool) -> str | None:
    """Why a law may not be used beside the first: its losses are of other tokens."""
    if first is None or source is first:
        return None
    own, other = (_tokenizer(one) for one in (source, first))
    if own == other:
        return None
    if own is not None and other is not None:
        return (
            f"law {source.label} is of tokenizer {own!r} and {first.label} of {other!r}: their nats per "
            "token are of different tokens"
        )
    if comparable:
        return None
    unsaid, said = (source, first) if own is None else (first, source)
    return (
        f"law {said.label} is of tokenizer {own or other!r} and {unsaid.label} does not say which it is "
        "of; where they are the same, say that they are comparable"
    )


def _tokenizer(source: Source) -> str | None:
    """That of the law, where it says; the note of one law on two candidates counts as none."""
    found = source.law.data.get("tokenizer")
    return bounded.one_line(found) if isinstance(found, str) and ";" not in found else None


def _spanned(text: str, groups: Sequence[str]) -> list[Recipe]:
    """A recipe that a law lists, with every granularity where it has none."""
    try:
        return [Recipe.parse(text)]
    except SpecError:
        pass
    found = []
    for group in groups:
        try:
            found.append(Recipe.parse(_with_span(text, group)))
        except SpecError:
            continue
    return found


def _with_span(text: str, group: str) -> str:
    """``w4a4`` with a granularity behind every spec that has none."""
    parts = []
    for part in text.split(","):
        name, equals, spec = part.partition("=")
        if not equals:
            parts.append(f"{part}:{group}")
        elif name in ("w", "a") or name.endswith((".weight", ".input")):
            head, colon, options = spec.partition(":")
            is_input = name == "a" or name.endswith(".input")
            span = "token" if group == "channel" and is_input else group
            is_fixed = head == "none" or (head in FORMATS and FORMATS[head].block is not None)
            parts.append(part if is_fixed else f"{name}={head}:{span}{colon}{options}")
        else:
            parts.append(part)
    return ",".join(parts)
