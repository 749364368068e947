"""``qscale sweep``: a grid of runs, worked off, watched and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qscale.sweep.dispatch import Executor
    from qscale.sweep.store import Store

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))
_MOST_LISTED = 60


@click.group(name="sweep", epilog="Example: qscale sweep run study.yaml --out study")
def command() -> None:
    """Run, watch and export a grid of runs."""


@command.command(
    epilog="Example: qscale sweep run study.yaml --out study; qscale sweep run study to go on with it"
)
@click.argument("study", metavar="STUDY.yaml|FOLDER", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The study folder, made or extended.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: by cores or GPUs.")
@click.option("--threads", type=click.IntRange(1), help="Of each worker; default: one up to 20 M parameters.")
@click.option("--device", default="cpu", show_default=True, help="Where models train, as torch names it.")
@click.option("--memory", help="All workers together, such as 16G; default: what the machine has free.")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Of a job after a crash, a kill or a timeout.",
)
@click.option("--timeout", help="Of one attempt at a job, such as 90s, 30m or 2h.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="Of the Ray cluster, such as auto; without it Ray starts here.")
@click.option("--replace", is_flag=True, help="Replace the study in --out though finished runs leave it.")
@_JSON
def run(
    study: Path,
    out: Path | None,
    workers: int | None,
    threads: int | None,
    device: str,
    memory: str | None,
    retries: int,
    timeout: str | None,
    executor: str,
    address: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Run what a study still lacks; finished runs are not run again.

    Ctrl-C once finishes the current steps and writes checkpoints; twice stops at once. Either way the same
    command goes on from there.
    """
    from dataclasses import asdict

    from qscale.cli import _progress
    from qscale.sweep import forecast, needs
    from qscale.sweep.begin import begin
    from qscale.sweep.dispatch import Patience
    from qscale.sweep.local import LocalExecutor
    from qscale.sweep.progress import display
    from qscale.sweep.ray_cluster import RayExecutor
    from qscale.sweep.stopping import StopSignal
    from qscale.units import parse_count, parse_time

    say = _progress.remarks(as_json)
    patience = Patience(retries=retries, timeout=None if timeout is None else parse_time(timeout))
    budget = None if memory is None else parse_count(memory)
    store = _open_or_create(study, out, replace)
    store.say = say
    with StopSignal() as stop:
        grid = store.study()
        threads = threads or store.begun().threads or needs.threads_of(grid, device)
        board, _ = begin(store, say, threads=threads, device=device)
        count = workers or grid.workers or needs.workers_of(threads, device)
        with display(board, as_json=as_json) as show:
            time = forecast.of_session(board, count, threads, device) if executor == "local" else None
            if time is not None:
                show({"event": "estimate", **asdict(time)})
            where: Executor
            if executor == "ray":
                where = RayExecutor(board, show, patience, address=address, threads=threads, device=device)
            else:
                where = LocalExecutor(
                    board, show, patience, workers=count, threads=threads, device=device, memory=budget
                )
            outcome = where.run(stop)
    resume = _progress.resume(
        store,
        workers=workers,
        threads=threads,
        device=device,
        memory=memory,
        retries=retries,
        timeout=timeout,
        executor=executor,
        address=address,
    )
    code = _progress.end(store, outcome, as_json=as_json, resume=resume)
    click.get_current_context().exit(code)


def _open_or_create(study: Path, out: Path | None, replace: bool) -> Store:
    from qscale.errors import ConfigError
    from qscale.sweep.grid import Study, read_text
    from qscale.sweep.store import Store

    if study.is_dir():
        if out is not None and out.resolve() != study.resolve():
            raise ConfigError(f"{study} is a study folder already: leave --out away, or name a study file")
        return Store(study)
    text = read_text(study)
    Study.parse(text, str(study))
    if out is None:
        raise ConfigError(f"name the study folder for {study}: --out FOLDER")
    return Store.create(out, text, replace=replace)


@command.command(epilog="Example: qscale sweep status study")
@_FOLDER
@click.option("--all", "every", is_flag=True, help="Every job, also of a study larger than a screen.")
@_JSON
def status(folder: Path, every: bool, as_json: bool) -> None:
    """Show what is done, running, waiting and failed, the losses and the time left; changes nothing."""
    from qscale.sweep import status as shown
    from qscale.sweep.board import Board
    from qscale.sweep.jobs import jobs
    from qscale.sweep.store import Damaged, Store
    from qscale.sweep.strangers import explain

    store = Store(folder, lambda line: click.echo(f"note: {line}", err=True))
    board = Board(store, jobs(store.runs()))
    rows = board.overview()
    damaged = Damaged(store)
    for run_id, fault in sorted(board.damaged.items()):
        damaged.note(run_id, fault)
    damaged.end()
    others = store.records(besides=board.runs)
    strangers = explain((record.config for record in others), [job.config for job in board.runs.values()])
    if as_json:
        click.echo(shown.as_json(board, rows, strangers))
        return
    if not rows:
        click.echo(f"nothing has run yet; begin with: qscale sweep run {folder}")
        return
    click.echo("\n".join(shown.lines(board, rows, every=every)))
    for line in strangers.lines:
        click.echo(line)


@command.command(epilog="Example: qscale sweep export study --out observations.csv")
@_FOLDER
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Ends with .csv or .parquet.")
@click.option("--baselines", is_flag=True, help="Also a row for each baseline, without delta.")
@_JSON
def export(folder: Path, out: Path, baselines: bool, as_json: bool) -> None:
    """Write the finished runs of a study as a table, one row a run."""
    from qscale.sweep import table
    from qscale.sweep.words import plural

    def say(line: str) -> None:
        click.echo(f"note: {line}", err=True)

    table.check_name(out)
    count = table.export(table.rows(folder, baselines=baselines, say=say), out)
    click.echo(
        json.dumps({"rows": count, "out": str(out)})
        if as_json
        else f"{plural(count, 'row')} written to {out}"
    )


@command.command(epilog="Example: qscale sweep gc study; then qscale sweep gc study --delete")
@_FOLDER
@click.option("--delete", is_flag=True, help="Delete what is listed; without it nothing changes.")
@click.option("--strangers", is_flag=True, help="Also runs and trunks that the study does not ask for.")
@click.option("--corrupt", is_flag=True, help="Also what was set aside as damaged.")
@_JSON
def gc(folder: Path, delete: bool, strangers: bool, corrupt: bool, as_json: bool) -> None:
    """List what a study's folder could do without, with sizes and reasons, or delete it.

    Checkpoints that no unfinished run needs, and files whose writer died. Records, losses, curves,
    configurations and last weights of the study's runs stay, and so does what a process works in. A trunk
    without checkpoints is trained again should the study be extended.
    """
    from qscale.sweep import gc
    from qscale.sweep.board import Board
    from qscale.sweep.jobs import jobs
    from qscale.sweep.store import Store
    from qscale.sweep.words import plural
    from qscale.units import short_count

    store = Store(folder, lambda line: click.echo(f"note: {line}", err=True))
    items = list(gc.find(Board(store, jobs(store.runs())), strangers=strangers, corrupt=corrupt))
    gone = gc.delete(items) if delete else []
    total = sum(item.size for item in (gone if delete else items))
    if as_json:
        listed = [{"path": str(item.path), "bytes": item.size, "why": item.why} for item in items]
        click.echo(json.dumps({"items": listed, "bytes": total, "deleted": len(gone)}, indent=1))
        return
    for item in items[:_MOST_LISTED]:
        click.echo(f"{short_count(item.size):>6}B  {item.path.relative_to(store.path)}  ({item.why})")
    if len(items) > _MOST_LISTED:
        click.echo(f"and {len(items) - _MOST_LISTED} more: --json lists all")
    if delete:
        click.echo(f"{plural(len(gone), 'item')} deleted, {short_count(total)}B")
    elif items:
        click.echo(f"{plural(len(items), 'item')}, {short_count(total)}B; to delete them: add --delete")
    else:
        click.echo("nothing to delete")


@command.command(epilog="Example: qscale sweep plan study.yaml --calibrate")
@click.argument("study", metavar="STUDY.yaml|FOLDER", type=click.Path(path_type=Path))
@click.option("--calibrate", is_flag=True, help="Time some training steps of each size, a minute or so.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: as for sweep run.")
@click.option("--threads", type=click.IntRange(1), help="Of each worker; default: as for sweep run.")
@click.option("--device", help="Where models are to train; default: that of the study, or cpu.")
@_JSON
def plan(
    study: Path,
    calibrate: bool,
    workers: int | None,
    threads: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show what a study takes before anything starts: runs, tokens, FLOPs, memory, disk and time.

    The time rests on the runs of a FOLDER that have finished, with --calibrate on training steps, else on a
    guess from the speed of a matrix product. Of a study begun, memory, disk and time are of what is left.
    """
    from qscale.cli import _plan

    _plan.show(study, calibrate=calibrate, workers=workers, threads=threads, device=device, as_json=as_json)


@command.command(epilog="Example: qscale sweep schema > study.schema.json")
def schema() -> None:
    """Print the JSON Schema of study files, for editors that complete and check YAML."""
    from importlib import resources

    click.echo(resources.files("qscale.sweep").joinpath("study.schema.json").read_text("utf-8"), nl=False)


@command.command(epilog="Example: qscale sweep decompose study")
@_FOLDER
@_JSON
def decompose(folder: Path, as_json: bool) -> None:
    """Take deltas apart: weights against inputs, and what the inputs of layers cost.

    Needs the runs that the key `decompose: [operands, inputs, layers]` of a study file adds: each recipe's
    weights and inputs alone, without the inputs of one kind of layer, and without those of one layer. Single
    layers are ranked. Standard errors are between seeds, or of the evaluation where there is one seed.
    """
    from qscale.sweep import decomposition, table
    from qscale.units import short_count

    found = decomposition.decompose(table.observations(folder, say=lambda line: click.echo(line, err=True)))
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], indent=2))
        return
    if not found:
        click.echo(
            "no recipe has its parts beside it: add decompose: [operands, inputs, layers] to the study file"
        )
        return

    def shown(mean: decomposition.Mean | None, digits: int = 4) -> str:
        return "--" if mean is None else f"{mean.value:.{digits}f} +- {mean.se:.{digits}f}"

    for each in found:
        seeds = f"{each.seeds} seed{'' if each.seeds == 1 else 's'}"
        click.echo(f"{short_count(each.N)} {short_count(each.D)} {each.recipe} {each.mode}, {seeds}")
        click.echo(f"  delta        {shown(each.both)}")
        if each.weight or each.input:
            click.echo(f"  weights      {shown(each.weight)}")
            click.echo(f"  inputs       {shown(each.input)}")
        if each.ratio is not None:
            click.echo(f"  R            {shown(each.ratio, 2)}   (inputs / weights)")
            click.echo(f"  additivity   {shown(each.additivity, 2)}   (delta / (weights + inputs))")
        for role, mean in each.inputs.items():
            click.echo(f"  {role + ' input':<12} {shown(mean)}   (less without it)")
        if each.layers:
            width = max(map(len, each.layers))
            click.echo(f"  {'rank':<4} {'input of':<{width}} less without it     of delta")
        for rank, (layer, mean) in enumerate(each.layers.items(), 1):
            part = 100 * mean.value / each.both.value if each.both.value else float("nan")
            click.echo(f"  {rank:>4} {layer:<{width}} {shown(mean)} {part:>8.1f} %")
