"""Why finished runs do not belong to a study any more: what they have that it does not ask for. No torch.

A function of configurations alone. Those of the records may be anything that is JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any

from qscale import bounded
from qscale.errors import QScaleError
from qscale.models.ladder import ModelShape, name_of
from qscale.sweep.words import plural
from qscale.training.config import RunConfig
from qscale.units import short_count

#: Reasons that are named; the others are counted.
_NAMED = 5
#: Runs of the study that one record is held against where no single value tells it apart, and such records.
_CANDIDATES, _SEARCHED = 500, 200
#: Fields that say the same as another one.
_TWINS = {"corpus_sha256": "corpus", "data_seed": "init_seed"}
_WORDS = {"init_seed": "seed", "model.vocab_size": "vocab_size"}
_DEFAULTS: dict[str, Any] = {
    **{name: f.default for name, f in RunConfig.__dataclass_fields__.items() if f.default is not MISSING},
    **{
        f"model.{n}": f.default
        for n, f in ModelShape.__dataclass_fields__.items()
        if f.default is not MISSING
    },
}


@dataclass(frozen=True, slots=True)
class Strangers:
    """Finished runs that a study does not ask for, and why, in some lines."""

    count: int
    reasons: tuple[str, ...]  #: such as ``12 runs: learning_rate 0.003, the study now says 0.002``

    @property
    def lines(self) -> list[str]:
        """What there is to say; nothing where there are none."""
        if not self.count:
            return []
        do = "does" if self.count == 1 else "do"
        head = f"{plural(self.count, 'record')} {do} not belong to study.yaml as it is now"
        return [f"{head}: left out, kept on disk", *(f"  {reason}" for reason in self.reasons)]


def explain(configs: Iterable[Mapping[str, Any]], wanted: Sequence[RunConfig]) -> Strangers:
    """Group the configurations of records that are not ``wanted`` by how they differ from those that are.

    Example:
        >>> from qscale.sweep.grid import Study
        >>> text = "{sizes: [tiny-20k], tokens: [1M], recipes: ['w4a4:g32'], training: {learning_rate: %s}}"
        >>> old, new = (Study.parse(text % rate).runs("0" * 64) for rate in (0.003, 0.002))
        >>> explain([run.to_json() for run in old], new).reasons
        ('2 runs: learning_rate 0.003, the study now says 0.002',)
    """
    axes = cache(lambda: _Axes(wanted))  # most studies have no strangers
    reasons = Counter(axes().reason(config) for config in configs)
    common = reasons.most_common()
    named = [f"{plural(count, 'run')}: {reason}" for reason, count in common[:_NAMED]]
    if more := sum(count for _, count in common[_NAMED:]):
        named.append(f"and {plural(more, 'more run')}")
    return Strangers(sum(reasons.values()), tuple(named))


class _Axes:
    """The values of each field among the runs of a study, size by size."""

    def __init__(self, wanted: Sequence[RunConfig]) -> None:
        self.sizes: dict[str, list[dict[str, Any]]] = {}
        for run in wanted:
            self.sizes.setdefault(name_of(run.model), []).append(_flat(run.to_json()))
        self.values: dict[str, dict[str, dict[str, Any]]] = {}
        self.searched = 0

    def reason(self, config: Mapping[str, Any]) -> str:
        """How a configuration differs, as far as one can tell."""
        flat, size = _flat(config), _size(config)
        if not self.sizes:
            return "the study has no runs here: its corpus or tokenizer is another one"
        if size not in self.sizes:
            return f"size {size}, {_instead(list(self.sizes))}"
        values = self._values(size)
        differing = [name for name in flat if name in values and repr(flat[name]) not in values[name]]
        if differing:
            told = dict.fromkeys(_TWINS.get(name, name) for name in differing)
            return "; ".join(self._differs(name, flat, list(values[name].values())) for name in told)
        return self._nearest(flat, size)

    def _values(self, size: str) -> dict[str, dict[str, Any]]:
        if size not in self.values:
            found: dict[str, dict[str, Any]] = {}
            for run in self.sizes[size]:
                for name, value in run.items():
                    found.setdefault(name, {})[repr(value)] = value
            self.values[size] = found
        return self.values[size]

    def _differs(self, name: str, flat: Mapping[str, Any], known: list[Any]) -> str:
        shown = [_shown(name, value) for value in known]
        own = _shown(name, flat[name])
        if name == "corpus" and own in shown:
            return f"corpus {own} of other bytes (sha256 {bounded.one_line(flat['corpus_sha256'], 12)})"
        return f"{_WORDS.get(name, name)} {own}, {_instead(shown)}"

    def _nearest(self, flat: Mapping[str, Any], size: str) -> str:
        """Each value occurs in the study, but not together: what the nearest of some runs has instead."""
        self.searched += 1
        together = "values of the study, but not in one run of it"
        if self.searched > _SEARCHED:
            return together
        runs = self.sizes[size]
        some = runs[:: -(-len(runs) // _CANDIDATES)]
        gaps = ([name for name, value in run.items() if repr(flat.get(name)) != repr(value)] for run in some)
        told = dict.fromkeys(_TWINS.get(name, name) for name in min(gaps, key=len))
        names = (f"{_WORDS.get(name, name)} {_shown(name, flat.get(name))}" for name in told)
        return f"{' with '.join(names)}: {together}" if told else together


def _instead(known: list[str]) -> str:
    return f"the study now says {known[0]}" if len(known) == 1 else "not in the study"


def _shown(name: str, value: Any) -> str:
    if name == "tokens" and type(value) is int and 0 < value < 10**18:
        return short_count(value)
    return bounded.one_line("none" if value is None else value, 60)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every field under one name, defaults too; those of the model behind ``model.``."""
    model = config.get("model")
    inner = {f"model.{key}": value for key, value in model.items()} if isinstance(model, Mapping) else {}
    outer = {key: value for key, value in config.items() if key != "model"}
    return {**outer, **inner, **{key: value for key, value in _DEFAULTS.items() if key not in outer | inner}}


def _size(config: Mapping[str, Any]) -> str:
    try:
        return name_of(ModelShape.from_json(config["model"]))
    except (QScaleError, KeyError, TypeError, ValueError, AttributeError):
        return "of an unknown shape"
