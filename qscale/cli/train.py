"""``qscale train``: one ladder in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qscale.sweep.store import Store

#: Options that override a default of training, and their names there.
_TRAINING = ("batch_sequences", "context", "learning_rate", "warmup_steps", "eval_windows", "allow_repeat")


@click.command(
    name="train",
    epilog="Example: qscale train --size tiny-20k --tokens 1M --recipe w4a4:g32 --out runs/first",
)
@click.argument("config", metavar="[STUDY.yaml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The run store, made or extended."
)
@click.option(
    "--size",
    default="tiny-20k",
    show_default=True,
    help="Named size (a wrong name lists all) or config.json.",
)
@click.option("--family", help="llama, qwen3, gpt_neox or opt: the size with such blocks.")
@click.option("--tokens", multiple=True, help="D, such as 1M or 3.28M; repeatable: a branch for each.")
@click.option(
    "--recipe",
    multiple=True,
    help="Such as w4a4:g32, w4a16:channel or quest-w4a4; a wrong one lists the names; repeatable.",
)
@click.option("--mode", default="cooldown", show_default=True, help="cooldown or scratch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the weights and the token order.")
@click.option(
    "--corpus", default="python", show_default=True, help="python, file:PATH or hf:NAME,bytes=100M."
)
@click.option("--tokenizer", default="bytes", show_default=True, help="bytes, bpe:4096 or file:PATH.")
@click.option("--batch-sequences", type=int, help="Sequences in one step.")
@click.option("--context", type=int, help="Tokens in one sequence.")
@click.option("--learning-rate", type=float, help="Peak rate of AdamW.")
@click.option("--warmup-steps", type=int, help="Steps of warm-up.")
@click.option("--eval-windows", type=int, help="Held-out sequences of the evaluation.")
@click.option("--allow-repeat", is_flag=True, default=None, help="Let a small corpus repeat; recorded.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of this process.")
@click.option("--device", default="cpu", show_default=True, help="Where the model trains.")
@click.option("--replace", is_flag=True, help="Replace the study in --out though finished runs leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
def command(
    config: Path | None,
    out: Path,
    threads: int,
    device: str,
    replace: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train one ladder in this process: trunk, baseline, and a branch for each recipe and token count.

    Give flags, or a study file. Ctrl-C finishes the step and writes a checkpoint; the same command goes on
    from there, and finished runs are not run again. Where --out holds the same ladder, the tokens, recipes
    and modes given are added to it.
    """
    from qscale.cli import _progress
    from qscale.sweep import worker
    from qscale.sweep.begin import begin
    from qscale.sweep.executors import outcome
    from qscale.sweep.progress import display
    from qscale.sweep.stopping import StopSignal
    from qscale.training.how import How

    say = _progress.remarks(as_json)
    store = _store(config, out, flags, replace)
    store.say = say
    with StopSignal(insist=True) as stop:
        board, corpus = begin(store, say, threads=threads, device=device)
        worker.set_threads(threads)
        with display(board, as_json=as_json) as show:
            worker.work(board, corpus, How(device=device, emit=show, should_stop=stop))
    ended = outcome(board, stopped=stop())
    if not as_json:
        _results(board)
    resume = _progress.resume(store, threads=threads, device=device)
    code = _progress.end(store, ended, as_json=as_json, resume=resume)
    click.get_current_context().exit(code)


def _store(config: Path | None, out: Path, flags: dict[str, Any], replace: bool) -> Store:
    """The store at ``out``, made from a study file or from the flags."""
    import yaml

    from qscale.errors import ConfigError
    from qscale.sweep.grid import Study, read_text
    from qscale.sweep.merge import merged
    from qscale.sweep.store import Store

    if config is not None:
        source = click.core.ParameterSource.COMMANDLINE
        context = click.get_current_context()
        given = [name for name in flags if context.get_parameter_source(name) is source]
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} and the study {config}: give one or the other")
        text = read_text(config)
    else:
        if not flags["tokens"]:
            raise ConfigError("say how many tokens to train on: --tokens 1M")
        axes = {
            "corpus": flags["corpus"],
            "sizes": [_size(flags["size"])],
            "family": flags["family"],
            "tokenizer": None if flags["tokenizer"] == "bytes" else flags["tokenizer"],
            "tokens": list(flags["tokens"]),
            "recipes": list(flags["recipe"]),
            "modes": [flags["mode"]],
            "seeds": [flags["seed"]],
            "training": {name: flags[name] for name in _TRAINING if flags[name] is not None},
        }
        text = yaml.safe_dump({key: value for key, value in axes.items() if value}, sort_keys=False)
    study = Study.parse(text, "flags" if config is None else str(config))
    if config is None and not replace and (out / "study.yaml").is_file():
        text = merged(Store(out).study_file.read_text(encoding="utf-8"), study) or text
    return Store.create(out, text, replace=replace)


def _size(name: str) -> str | dict[str, Any]:
    """A size as a study file has it; a ``config.json`` as its shape, since the file may move."""
    from qscale.models.ladder import shape_of

    return shape_of(name).to_json() if name.endswith(".json") else name


def _results(board: Any) -> None:
    from qscale.sweep.progress import LEGEND, result

    rows = [row for row in board.overview() if row["kind"] == "run" and row["state"] == "done"]
    if any(row["delta"] is not None for row in rows):
        click.echo(LEGEND, err=True)
    for row in rows:
        click.echo(row["label"] + result(row))
