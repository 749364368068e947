"""What ``sweep plan`` prints: counts by size, memory, disk, time, and what smaller grids would take."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qscale.units import short_bytes, short_count

if TYPE_CHECKING:
    from qscale.sweep.eta import Kind
    from qscale.sweep.forecast import Estimate, Room
    from qscale.sweep.jobs import Job
    from qscale.training.config import RunConfig


def show(
    path: Path,
    *,
    calibrate: bool,
    workers: int | None,
    threads: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Print the plan of a study file or folder."""
    from qscale.sweep import forecast, jobs, needs
    from qscale.sweep.board import Board
    from qscale.sweep.grid import Identity, Source, Study
    from qscale.sweep.store import Store

    store = Store(path) if path.is_dir() else None
    study: Study = store.study() if store is not None else Study.read(path)
    begun = None if store is None else store.begun()
    # Costs do not depend on the corpus, which need not be on this machine yet.
    identities: str | dict[Source, Identity] = (store.identities() if store is not None else {}) or ""
    points = list(study.runs_by_point(identities))
    work = jobs.jobs({run.run_id: run for _, _, runs in points for run in runs}.values())
    totals = jobs.plan(work)
    left, basis = work, None
    if store is not None and identities:
        board = Board(store, work)
        states = board.look()
        left = [job for job in work if states[job.id] != "done"]
        basis = forecast.measured(board)
    device = device or (begun.device if begun is not None else "cpu")
    threads = threads or (begun.threads if begun is not None else None) or needs.threads_of(study, device)
    workers = workers or study.workers or needs.workers_of(threads, device)
    timed: dict[Kind, Any] = {}
    if calibrate and left:
        timed = _timed(left, threads, device)
        basis = forecast.calibrated(
            {kind: (config, pace.seconds) for kind, (config, pace) in timed.items()}, left
        )
    if basis is None and device == "cpu":
        basis = forecast.probed(threads)
    time = forecast.estimate(left, basis, workers) if left else None
    memory, disk = forecast.memory(left, workers, device), forecast.disk(left, path if store else Path())
    parts = forecast.smaller(points, left, basis, workers)
    warnings = study.warnings() + forecast.shortages(memory, disk, workers)
    if as_json:
        labels = [{"kind": job.kind, "label": job.label, "flops": job.flops} for job in work]
        rows = [
            {"without": part.without, "runs": part.runs, "share": part.share, "eta": _json(part.estimate)}
            for part in parts
        ]
        left_over = {"runs": sum(job.kind == "run" for job in left), "flops": sum(job.flops for job in left)}
        about = {"left": left_over, "workers": workers, "threads": threads, "device": device}
        about |= {"memory": asdict(memory), "disk": asdict(disk), "eta": _json(time), "smaller": rows}
        about |= {"calibrated": [_pace_json(kind, *found) for kind, found in timed.items()]}
        click.echo(json.dumps({**totals, **about, "warnings": warnings, "jobs": labels}, indent=1))
        return
    click.echo(_table(totals))
    for line in _needs(left, memory, disk, workers, threads, device):
        click.echo(line)
    for (size, quantized), (config, pace) in timed.items():
        recipe = config.recipe if quantized else "unquantized"
        click.echo(
            f"steps     {size} {recipe}: {pace.seconds:.3g} s a step, "
            f"{short_count(pace.tokens_per_second)} tokens a second"
        )
    if time is not None:
        click.echo(f"time      {time.span} with {_plural(workers, 'worker')}: {time.basis}")
    elif left:
        click.echo(f"time      not known on {device} before --calibrate, or before a run has finished")
    else:
        click.echo("time      none: every run is done")
    for number, part in enumerate(parts):
        click.echo(f"{'smaller' if number == 0 else '':<9} {part.sentence()}")
    for warning in warnings:
        click.echo(f"note: {warning}", err=True)


def _timed(work: list[Job], threads: int, device: str) -> dict[Kind, Any]:
    """Steps of each size, timed in this process; sizes that do not fit in its memory are left out."""
    from qscale.errors import ConfigError
    from qscale.sweep import forecast, machine, needs
    from qscale.sweep.worker import check_device

    try:
        import torch

        from qscale.training.calibration import time_steps
    except ImportError as error:
        raise ConfigError(f"--calibrate needs {error.name}: pip install 'qscale[train]'") from error
    check_device(device)
    found: dict[Kind, Any] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for kind, config in forecast.samples(work).items():
            if needs.memory_of(config, device=device) > machine.memory_free():
                click.echo(f"note: {kind[0]} is not timed: it does not fit in memory", err=True)
            else:
                found[kind] = (config, time_steps(config, device=device))
    finally:
        torch.set_num_threads(before)
    return found


def _needs(left: list[Job], memory: Room, disk: Room, workers: int, threads: int, device: str) -> list[str]:
    where = "" if device == "cpu" else f" of the host, beside {device}"
    of = f"{_plural(workers, 'worker')} of {_plural(threads, 'thread')}"
    return [
        f"memory    {short_bytes(memory.largest)} the largest run, {short_bytes(memory.all)} {of}; "
        f"{short_bytes(memory.free)} free{where}",
        f"disk      {short_bytes(disk.all)}; {short_bytes(disk.free)} free",
    ] * bool(left)


def _plural(count: int, noun: str) -> str:
    from qscale.sweep.words import plural

    return plural(count, noun)


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _pace_json(kind: Kind, config: RunConfig, pace: Any) -> dict[str, Any]:
    return {"size": kind[0], "recipe": config.recipe, **asdict(pace)}


def _table(totals: dict[str, Any]) -> str:
    names = ["all", *totals["sizes"]]
    width = max(len(name) for name in names)
    heads = (
        f"{'N':>7} {'N_total':>7} {'FLOPs/token':>11} {'trunks':>7} {'baselines':>9} {'quantized':>9} "
        f"{'tokens':>8} {'FLOPs':>9}"
    )
    lines = [f"{'size':<{width}} {heads}"]
    for name, row in [*totals["sizes"].items(), ("all", totals)]:
        keys = ("N", "N_total", "flops_per_token")
        n, total, per_token = (short_count(row[key]) if name != "all" else "" for key in keys)
        lines.append(
            f"{name:<{width}} {n:>7} {total:>7} {per_token:>11} {row['trunks']:>7} {row['baselines']:>9} "
            f"{row['runs'] - row['baselines']:>9} {short_count(row['tokens']):>8} {row['flops']:>9.2e}"
        )
    return "\n".join(lines)
