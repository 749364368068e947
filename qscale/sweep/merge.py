"""Extending a study of one ladder by another, so that a second recipe joins the first. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from qscale.errors import ConfigError
from qscale.models.ladder import shape_of
from qscale.sweep.grid import Study
from qscale.training.config import RunConfig


def merged(text: str, new: Study) -> str | None:
    """The study of ``text`` with the tokens, recipes and modes of ``new`` added, as YAML.

    None where one of them is not a single ladder, or the ladders differ in size, corpus, tokenizer, seed or
    training; ``text`` itself where nothing is new.
    """
    try:
        old = Study.parse(text)
    except ConfigError:
        return None
    if not (_is_ladder(old) and _is_ladder(new)) or (old.corpus, old.tokenizer) != (
        new.corpus,
        new.tokenizer,
    ):
        return None
    (size,), (other,) = old.sizes, new.sizes
    if old.seeds[size] != new.seeds[other] or _ladder(old, size) != _ladder(new, other):
        return None
    axes: dict[str, list[Any]] = {
        "tokens": _union(old.tokens[size], new.tokens[other]),
        "recipes": _union(old.recipes[size], new.recipes[other]),
        "modes": _union(old.modes, new.modes),
        "finetune_fractions": _union(old.finetune_fractions, new.finetune_fractions),
    }
    before = (old.tokens[size], old.recipes[size], old.modes, old.finetune_fractions)
    if [*axes.values()] == [[*values] for values in before]:
        return text
    shape = {**old.sizes[size].to_json(), "name": size}
    study = {
        "corpus": old.corpus,
        "tokenizer": None if old.tokenizer == "bytes" else old.tokenizer,
        "sizes": [size] if _is_known(size) else [shape],
        **axes,
        "seeds": list(old.seeds[size]),
        "training": dict(old.training[size]),
        "workers": old.workers,
    }
    return yaml.safe_dump({key: value for key, value in study.items() if value}, sort_keys=False)


def _is_known(size: str) -> bool:
    """Whether a study may name a size so, without its shape."""
    try:
        shape_of(size)
    except ConfigError:
        return False
    return True


def _is_ladder(study: Study) -> bool:
    return len(study.sizes) == 1 and all(len(seeds) == 1 for seeds in study.seeds.values())


def _ladder(study: Study, size: str) -> RunConfig:
    """What all runs of a ladder share, as a run of it: the tokens are those of one long run."""
    return study.config("", size=size, tokens=10**12, mode="baseline", recipe=None, seed=study.seeds[size][0])


def _union(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys((*old, *new)))
