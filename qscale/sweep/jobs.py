"""Runs to jobs: a trunk for each ladder, a branch for each run; what they need and cost. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from qscale.models.ladder import name_of
from qscale.sweep.words import plural
from qscale.training.config import RunConfig
from qscale.units import short_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work: a trunk with the steps where branches leave it, or one branch (a run).

    A run needs its trunk's checkpoint at ``steps[0]``, or the last weights of the run it goes on from, and,
    where it is quantized, its baseline's record.
    """

    kind: Literal["trunk", "run"]
    id: str  #: of the trunk or of the run; also the name of its folder
    config: RunConfig  #: of the run; for a trunk, of the longest run that leaves it
    steps: tuple[int, ...]
    trunk_id: str | None  #: None where the run goes on from another
    source_id: str | None = None  #: of that other run
    baseline_id: str | None
    flops: float
    label: str  #: for people

    @property
    def tokens(self) -> int:
        """Training tokens that this job sees."""
        start = 0 if self.kind == "trunk" else self.steps[0]
        end = self.steps[-1] if self.kind == "trunk" else self.config.steps
        return (end - start) * self.config.tokens_per_step


def jobs(runs: Iterable[RunConfig]) -> list[Job]:
    """The jobs of some runs, in the order they should start: trunks first, the largest of each first.

    A long job that starts last leaves every other worker idle at the end.
    """
    trunks: dict[str, list[RunConfig]] = {}
    found = []
    for config in runs:
        if config.source() is None:
            trunks.setdefault(config.trunk_id, []).append(config)
        found.append(_run(config))
    found += [_trunk(trunk_id, branches) for trunk_id, branches in trunks.items()]
    # Among equals a baseline goes first: others wait for it.
    return sorted(found, key=lambda job: (job.kind != "trunk", -job.flops, job.baseline_id is not None))


def _run(config: RunConfig) -> Job:
    per_token = config.model.flops_per_token(config.context)
    trained = (config.steps - config.branch_step) * config.tokens_per_step
    source = config.source()
    looked_at = (config.calibration_windows or 0) * (config.calibration_length or 0)
    # A forward pass is a third of a training step; calibration takes two.
    evaluated = (config.eval_windows * config.context + 2 * looked_at) / 3
    return Job(
        kind="run",
        id=config.run_id,
        config=config,
        steps=(config.branch_step,),
        trunk_id=config.trunk_id if source is None else None,
        source_id=None if source is None else source.run_id,
        baseline_id=None if config.recipe is None else config.baseline().run_id,
        flops=(trained + evaluated) * per_token,
        label=label_of(config),
    )


def _trunk(trunk_id: str, branches: list[RunConfig]) -> Job:
    config = max(branches, key=lambda run: run.branch_step)
    recipe = f" {config.trunk_recipe}" if config.trunk_recipe else ""
    return Job(
        kind="trunk",
        id=trunk_id,
        config=config,
        steps=tuple(sorted({run.branch_step for run in branches})),
        trunk_id=trunk_id,
        baseline_id=None,
        flops=float(
            config.branch_step * config.tokens_per_step * config.model.flops_per_token(config.context)
        ),
        label=f"{name_of(config.model)} trunk{recipe} seed {config.init_seed}",
    )


def label_of(config: RunConfig) -> str:
    """A run in a few words: size, tokens, recipe, mode, seed."""
    what = "baseline" if config.recipe is None else f"{config.recipe} {config.mode}"
    if config.finetune_fraction is not None:
        what += f" {config.finetune_fraction:g}"
    if config.method is not None:
        what += f" {config.method}"
    return f"{name_of(config.model)} {short_count(config.tokens)} {what} seed {config.init_seed}"


def plan(work: Iterable[Job]) -> dict[str, Any]:
    """What some jobs amount to: counts, tokens, FLOPs, in all and for each size.

    ``N``, ``N_total`` and ``flops_per_token`` (in training) are those of the largest size.
    """
    work = list(work)
    sizes = dict.fromkeys(name_of(job.config.model) for job in work)
    by_size = {size: _sums([job for job in work if name_of(job.config.model) == size]) for size in sizes}
    order = sorted(by_size, key=lambda size: by_size[size]["N"])
    return {**_sums(work), "sizes": {size: by_size[size] for size in order}}


def costs(totals: dict[str, Any]) -> list[str]:
    """A :func:`plan` in words, a line for each size: what it counts and what it costs."""
    return [
        f"{size}: N {row['N']:,}, with embeddings and head {row['N_total']:,}; "
        f"{row['flops_per_token']:,} FLOPs a token; "
        f"{plural(row['runs'], 'run')}, {short_count(row['tokens'])} tokens, {row['flops']:.3g} FLOPs"
        for size, row in totals["sizes"].items()
    ]


def _sums(work: list[Job]) -> dict[str, Any]:
    runs = [job for job in work if job.kind == "run"]
    return {
        "N": max((job.config.model.N for job in work), default=0),
        "N_total": max((job.config.model.N_total for job in work), default=0),
        "flops_per_token": max(
            (job.config.model.flops_per_token(job.config.context) for job in work), default=0
        ),
        "trunks": len(work) - len(runs),
        "runs": len(runs),
        "baselines": sum(job.baseline_id is None for job in runs),
        "tokens": sum(job.tokens for job in work),
        "flops": sum(job.flops for job in work),
    }
