"""Extending the study of one ladder by another, so that a second recipe joins the first. No torch."""

from __future__ import annotations

from typing import Any

import yaml

from qscale.errors import ConfigError
from qscale.models.ladder import shape_of
from qscale.sweep.grid import Grid, Identity, Study
from qscale.sweep.yamltext import load_mapping
from qscale.training.config import RunConfig


def merged(text: str, new: Study) -> str | None:
    """The study of ``text`` with the points of ``new`` in its ``include``, as YAML.

    None where ladders differ in size, corpus, tokenizer, seed or training; ``text`` itself where nothing is
    new.
    """
    try:
        old = Study.parse(text)
    except ConfigError:
        return None
    ladders = [_ladder(grid) for grid in (*old.grids, *new.grids)]
    if any(ladder is None or ladder != ladders[0] for ladder in ladders):
        return None
    if {run.run_id for run in new.runs("")} <= {run.run_id for run in old.runs("")}:
        return text
    data = load_mapping(text, "study")
    data["include"] = [*data.get("include", []), *(_block(grid) for grid in new.grids)]
    return yaml.safe_dump(data, sort_keys=False)


def _block(grid: Grid) -> dict[str, Any]:
    """A grid of one ladder as an entry of ``include``."""
    ((size, shape),) = grid.sizes.items()
    return {
        "corpus": grid.source.corpus,
        "tokenizer": grid.source.tokenizer,
        "sizes": [size] if _is_known(size) else [{**shape.to_json(), "name": size}],
        "family": [shape.family],
        "tokens": list(grid.tokens[size]),
        "recipes": list(grid.recipes[size]),
        "decompose": [],
        "modes": list(grid.modes),
        "finetune_fractions": list(grid.finetune_fractions),
        "seeds": list(grid.seeds[size]),
        "training": dict(grid.training[size]),
    }


def _is_known(size: str) -> bool:
    """Whether a study may name a size so, without its shape."""
    try:
        shape_of(size)
    except ConfigError:
        return False
    return True


def _ladder(grid: Grid) -> tuple[object, ...] | None:
    """What all runs of a ladder share, as a run of it; None of a grid with more than one ladder."""
    if len(grid.sizes) != 1 or any(len(seeds) != 1 for seeds in grid.seeds.values()):
        return None
    (size,) = grid.sizes
    # The tokens are those of one long run.
    point: dict[str, Any] = {"size": size, "tokens": 10**12, "mode": "baseline", "recipe": None}
    run: RunConfig = grid.config(Identity(""), **point, seed=grid.seeds[size][0])
    return grid.source, run
