"""``qscale train``: one ladder in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qscale.sweep.grid import Study
    from qscale.sweep.store import Store
    from qscale.training.how import How

#: Options that override a default of training, and their names there.
_TRAINING = (
    "batch_sequences",
    "context",
    "learning_rate",
    "warmup_steps",
    "eval_windows",
    "allow_repeat",
    "schedule",
    "final_rate",
    "finetune_rate",
    "precision",
    "accumulation",
    "parametrization",
)


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
@click.option("--mode", default="cooldown", show_default=True, help="cooldown, scratch, finetune or ptq.")
@click.option(
    "--finetune-fraction", type=float, multiple=True, help="Part of the tokens, in the mode finetune."
)
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
@click.option(
    "--schedule", help="cooldown (a constant trunk, then linear to 0), or cosine for the other modes."
)
@click.option("--final-rate", type=float, help="Where cosine ends, as a part of the peak: 0.1.")
@click.option("--finetune-rate", type=float, help="Peak of the mode finetune, as a part of the rate.")
@click.option("--precision", help="float32, or bfloat16: autocast of the products in training.")
@click.option("--accumulation", type=int, help="Parts that a step's sequences are taken in.")
@click.option("--parametrization", help="standard, or mup: matrices learn at 64 / fan_in of the rate.")
@click.option(
    "--compile",
    "compiled",
    type=click.Choice(["on", "off", "auto"]),
    help="torch.compile; auto tries it on the model, and keeps it where the run is long enough.",
)
@click.option("--allow-repeat", is_flag=True, default=None, help="Let a small corpus repeat; recorded.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of this process.")
@click.option("--device", default="cpu", show_default=True, help="Where the model trains.")
@click.option("--checkpoint-activations", is_flag=True, help="Less memory, more time; the same numbers.")
@click.option("--diagnose-every", type=click.IntRange(0), default=0, help="Steps between looks at layers.")
@click.option("--oscillations", is_flag=True, help="Follow how often the codes of weights turn back.")
@click.option("--tracker", multiple=True, help="tensorboard, wandb or mlflow; repeatable.")
@click.option("--replace", is_flag=True, help="Replace the study in --out though finished runs leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
def command(
    config: Path | None,
    out: Path,
    threads: int,
    device: str,
    checkpoint_activations: bool,
    diagnose_every: int,
    oscillations: bool,
    tracker: tuple[str, ...],
    replace: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train one ladder in this process: trunk, baseline, and a branch for each recipe and token count.

    Give flags, or a study file. Ctrl-C finishes the step and writes a checkpoint; the same command goes on
    from there, and finished runs are not run again. Where --out holds the same ladder, the tokens, recipes
    and modes given are added to it, and every recipe is trained in every mode for every D.

    Several processes train each model together where accelerate starts them: DDP, or with --use_fsdp
    --fsdp_version 2 each with a part of the model (FSDP). The files are those of one process.

    \b
    Examples:
      accelerate launch --num_processes 8 -m qscale train --size paper-145m --tokens 10B --out runs/145M
      qscale train --size tiny-82k --tokens 2M --recipe quest-w4a4 --mode scratch --out runs/quest
      qscale train --tokens 2M --recipe ofq-w4a4:g32,anneal=0.02 --out runs/annealed
      qscale train --tokens 2M --recipe mxfp4 --mode finetune --finetune-fraction 0.1 --out runs/tuned
    """
    from qscale.cli import _progress
    from qscale.sweep import worker
    from qscale.sweep.begin import begin
    from qscale.sweep.outcome import outcome
    from qscale.sweep.progress import display
    from qscale.sweep.stopping import StopSignal
    from qscale.training.how import How
    from qscale.training.ranks import ranks_of

    ranks = ranks_of(device, tracker, out)
    how = How(
        device=ranks.device(device),
        ranks=ranks,
        checkpoint_activations=checkpoint_activations,
        diagnose_every=diagnose_every,
        oscillations=oscillations,
    )
    if not ranks.is_main:
        _follow(out, threads, how)
        return
    say = _progress.remarks(as_json)
    begun = False
    try:
        store = _store(config, out, flags, replace, say)
        store.say = say
        if ranks.world > 1:
            say(f"{ranks.world} processes train each model ({'FSDP' if ranks.shards else 'DDP'})")
        board, corpora = begin(store, say, threads=threads, device=device)
        ranks.start_trackers()
        begun = True
    finally:
        ranks.tell(begun)  # the other processes wait for the store
    worker.set_threads(threads)
    with StopSignal(insist=True) as stop, display(board, as_json=as_json) as show:
        worker.lead(board, corpora, dataclasses.replace(how, emit=show, should_stop=stop))
    ended = outcome(board, stopped=stop())
    if not as_json:
        _results(board)
    resume = _progress.resume(store, threads=threads, device=device)
    code = _progress.end(store, ended, as_json=as_json, resume=resume)
    click.get_current_context().exit(code)


def _follow(out: Path, threads: int, how: How) -> None:
    """Train along with the first process, which has the store and the terminal."""
    from qscale.sweep import worker
    from qscale.sweep.board import Board
    from qscale.sweep.corpora import Corpora
    from qscale.sweep.jobs import jobs
    from qscale.sweep.store import Store

    if not how.ranks.tell(None):
        return
    store = Store(out)
    worker.set_threads(threads)
    worker.follow(Board(store, jobs(store.runs())), Corpora(store), how)


def _compiled(study: Study, asked: str, say: Callable[[str], None]) -> bool:
    """Whether runs are compiled; ``auto`` tries it on the largest model of the study."""
    if asked != "auto":
        return asked == "on"
    from qscale.training.calibration import try_compiling

    longest = max(study.runs(""), key=lambda run: run.steps * run.model.flops_per_token(run.context))
    found = try_compiling(longest)
    say(found.sentence)
    return found.worth_it


def _store(
    config: Path | None, out: Path, flags: dict[str, Any], replace: bool, say: Callable[[str], None]
) -> Store:
    """The store at ``out``, made from a study file or from the flags."""
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
        if flags["finetune_fraction"] and flags["mode"] != "finetune":
            raise ConfigError(
                "--finetune-fraction is of the mode finetune: add --mode finetune, or leave it out"
            )
        axes = {
            "corpus": flags["corpus"],
            "sizes": [_size(flags["size"])],
            "family": flags["family"],
            "tokenizer": None if flags["tokenizer"] == "bytes" else flags["tokenizer"],
            "tokens": list(flags["tokens"]),
            "recipes": list(flags["recipe"]),
            "modes": [flags["mode"]],
            "finetune_fractions": list(flags["finetune_fraction"]),
            "seeds": [flags["seed"]],
            "training": {name: flags[name] for name in _TRAINING if flags[name] is not None},
        }
        if flags["compiled"] is not None:
            study = Study.parse(_yaml(axes), "flags")
            axes["training"] |= {"compiled": _compiled(study, flags["compiled"], say)}
        text = _yaml(axes)
    study = Study.parse(text, "flags" if config is None else str(config))
    if config is None and not replace and (out / "study.yaml").is_file():
        text = merged(Store(out).study_file.read_text(encoding="utf-8"), study) or text
    return Store.create(out, text, replace=replace)


def _yaml(axes: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump({key: value for key, value in axes.items() if value}, sort_keys=False))


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
