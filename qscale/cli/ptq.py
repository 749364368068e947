"""``qscale ptq``: one pass over a trained model, and what it costs."""

from __future__ import annotations

import json
import math
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from qscale.data.corpus import Corpus
    from qscale.ptq.held_out import Source


@click.command(
    name="ptq", epilog="Example: qscale ptq --model study/runs/0123abcd --method gptq --spec int4:g128"
)
@click.option(
    "--model",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder of save_pretrained, or of a finished baseline run.",
)
@click.option(
    "--method",
    default="gptq",
    show_default=True,
    help="rtn, gptq, awq, smoothquant, outlier_tune, aqas, quarot, smoothrot, rrs, granq, pb_llm, llm_fp4, "
    "bnb_nf4, bnb_int8, low_rank, lrq, joined by +: quarot+gptq; for keys and values kv, qjl, turboquant, "
    "turboesm: gptq+kv(spec=int4:g32).",
)
@click.option("--spec", help="Of the weights, such as int4:g128, mxfp4 or int4:g128:asym.")
@click.option("--recipe", help="In place of --spec, with inputs too: w4a8:g128; w16a16: no layer.")
@click.option(
    "--corpus", default="python", show_default=True, help="python, file:PATH or hf:NAME,bytes=100M."
)
@click.option("--tokenizer", help="bytes, bpe:4096 or file:PATH; default: the model's own.")
@click.option("--windows", type=click.IntRange(1), default=128, show_default=True, help="Of calibration.")
@click.option("--length", type=click.IntRange(1), help="Tokens in a window; default 2048 or the model's own.")
@click.option("--eval-windows", type=click.IntRange(1), default=256, show_default=True, help="Held out.")
@click.option("--out", type=click.Path(path_type=Path), help="A new folder for the quantized model.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "compressed-tensors", "qscale", "plain"]),
    default="auto",
    show_default=True,
    help="Of --out: packed codes; weights and input quantizers; weights alone; auto: what loses no bit.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the pass computes.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of this process.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
def command(
    path: Path,
    method: str,
    spec: str | None,
    recipe: str | None,
    corpus: str,
    tokenizer: str | None,
    windows: int,
    length: int | None,
    eval_windows: int,
    out: Path | None,
    layout: str,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Quantize a trained model after training, and say what that costs on held-out text.

    Calibration windows are of the training split. Losses are paired by held-out sequence. A model in a folder
    is read a block at a time. --out gets a folder that transformers reads, and qscale.json with the method,
    the recipe and the errors of each layer; what quantizes keys and values is no part of it. A pass with
    --out that is cut off goes on when the same command is given again.

    \b
    Examples:
      qscale ptq --model my-model --method smoothquant+gptq --recipe w8a8:channel --corpus file:text
      qscale ptq --model my-model --method "gptq(act_order=true)" --spec int3:g64 --out my-model-int3
      qscale ptq --model my-model --method "kv(spec=int4:g32,rotation=after)" --recipe w16a16
    """
    from qscale.cli._ptq_progress import BlockBar, BlockLines
    from qscale.errors import ConfigError
    from qscale.formats import Recipe
    from qscale.ptq import saving
    from qscale.ptq.methods import Method
    from qscale.ptq.partial import Partial, check_target
    from qscale.ptq.run import calibration_windows, pass_identity, ptq_recipe, quantize_blocks

    if (spec is None) == (recipe is None):
        raise ConfigError(
            "say how weights are quantized: --spec int4:g128, or --recipe w4a8:g128, one of them"
        )
    _check_words(spec, recipe)
    steps = Method.parse(method)
    parsed = ptq_recipe(recipe, steps) if recipe is not None else Recipe(weight=spec)  # type: ignore[arg-type]
    if out is not None:
        check_target(out)
        if layout == "compressed-tensors" and parsed is not None and parsed.input is not None:
            raise ConfigError(
                f"layout compressed-tensors holds weights alone, and recipe {parsed} quantizes inputs: use "
                "--layout qscale, or plain"
            )

    import torch

    torch.set_num_threads(threads)
    found = _load(path, device, whole=steps.cache is not None)
    source, longest = found.source, found.longest
    if out is not None and layout != "qscale":
        _check_biases(source.model, steps)
    text = _corpus(corpus, tokenizer or found.tokenizer, source.model)
    if found.identity not in (None, text.tokenizer.text):
        raise ConfigError(
            f"the run was trained with tokenizer {found.identity!r}, the corpus is in tokens of "
            f"{text.tokenizer.text!r}: name its own, --tokenizer file:PATH, and the corpus that it trained on"
        )
    _check_vocabulary(text, source.model)
    length = length or min(longest, 2048)
    if length > longest:
        raise ConfigError(f"--length {length}: the model takes at most {longest} tokens")
    chosen = calibration_windows(text, windows, length)
    text.check_evaluation(eval_windows, length)
    held_out = _held_out(text, eval_windows, length)

    def tell(event: dict[str, Any]) -> None:
        click.echo(json.dumps(event))

    saved = None
    with ExitStack() as stack:
        partial = None
        lines = (BlockBar if sys.stderr.isatty() else BlockLines)(sys.stderr)
        show = tell if as_json else stack.enter_context(lines)
        if out is not None:
            identity = pass_identity(source, parsed, steps, chosen, held_out)
            partial = stack.enter_context(Partial(out, {**identity, "device": device}))
        try:
            report = quantize_blocks(
                source, parsed, steps, chosen, emit=show, held_out=held_out, partial=partial
            )
        except KeyboardInterrupt:
            if partial is not None and partial.notes():
                click.echo("the same command goes on after the blocks that are finished", err=True)
            raise
        assert report.before is not None and report.after is not None
        result = _result(report.before, report.after, text, eval_windows, length) | {
            key: value for key, value in report.to_json().items() if key not in _PARTS
        }
        if partial is not None:
            note = {"corpus": text.name, "corpus_sha256": text.sha256, "tokenizer": text.tokenizer.text}
            parts = {key: report.to_json()[key] for key in _PARTS}
            files = saving.tokenizer_files(path)
            saved = saving.publish(partial, source.model, result | note | parts, files, layout)
    if as_json:
        about = {} if saved is None else saved._asdict()
        click.echo(json.dumps({"event": "end", **result, "out": None if out is None else str(out), **about}))
        return
    _print(result)
    if saved is not None:
        click.echo(f"{'saved':<8}{out}, layout {saved.layout}")
        if saved.without:
            click.echo(
                f"{'note':<8}what is saved has {' and '.join(saved.without)} in full precision: its loss is "
                "not the one above"
            )


def _check_words(spec: str | None, recipe: str | None) -> None:
    """Tell a spec from a recipe, which both look like the other."""
    from qscale.errors import ConfigError

    if spec is not None and re.match(r"w[\d=]|a=", spec):
        raise ConfigError(f"--spec {spec}: a spec is of weights alone, such as int4:g128; this is a --recipe")
    if recipe is not None and re.match(r"(int|fp)\d", recipe):
        raise ConfigError(f"--recipe {recipe}: this is a --spec of weights; as a recipe it is w={recipe}")


#: Of a report, what is said of each layer and attention, and of what was left.
_PARTS = ("layers", "caches", "left")


class _Found(NamedTuple):
    """A model as it was loaded."""

    source: Source
    tokenizer: str | None  #: its name, where it is known
    identity: str | None  #: the tokenizer that a run was trained with
    longest: int  #: tokens that it takes


def _load(path: Path, device: str, *, whole: bool) -> _Found:
    """A model from a folder of transformers, a block at a time unless it must be whole, or of a run."""
    from qscale.errors import ConfigError
    from qscale.models.families import build
    from qscale.ptq.sources import Folder, Memory, UnstreamableError
    from qscale.training import checkpoint, paths
    from qscale.training.config import RunConfig

    if (paths.final_weights(path) / "model.safetensors").is_file():
        from qscale import bounded

        try:
            data = bounded.loads(bounded.read_text(path / "config.json", bounded.NOTE_BYTES))
            if not isinstance(data, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: config.json of the run cannot be read: {error}") from error
        config = RunConfig.from_json(data)
        model = build(config.model, context=config.context, seed=0)
        checkpoint.load_weights(paths.final_weights(path), model)
        kind = config.tokenizer.partition("@")[0]
        name = kind if kind.startswith(("bytes", "bpe:")) else None
        return _Found(Memory(model.to(device).eval()), name, config.tokenizer, config.context)
    if not (path / "config.json").is_file():
        if runs := _baselines(path):
            raise ConfigError(
                f"{str(path)!r} is a study: name one of its baseline runs, such as {runs[0]} "
                f"({len(runs)} finished; qscale sweep status --json {path} tells them apart)"
            )
        raise ConfigError(
            f"{str(path)!r} is no model: a folder of save_pretrained (config.json, safetensors) is wanted, "
            "or that of a finished baseline run, with its weights in final/"
        )
    source: Source
    try:
        source = Memory(_whole(path).to(device).eval()) if whole else Folder(path, device)
    except UnstreamableError:
        source = Memory(_whole(path).to(device).eval())
    own = path / "tokenizer.json"
    longest = int(getattr(source.model.config, "max_position_embeddings", None) or 2048)
    return _Found(source, f"file:{own}" if own.is_file() else None, None, longest)


def _baselines(study: Path) -> list[Path]:
    """The finished baseline runs of a study folder."""
    from qscale.training import paths

    runs = sorted(study.glob("runs/*"))
    return [run for run in runs if (paths.final_weights(run) / "model.safetensors").is_file()]


def _whole(path: Path) -> nn.Module:
    """A model that transformers must load as a whole."""
    from transformers import AutoModelForCausalLM

    from qscale import bounded
    from qscale.errors import ConfigError

    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{str(path)!r}: transformers cannot load it: {bounded.one_line(error)}") from error
    return model


def _corpus(name: str, tokenizer: str | None, model: nn.Module) -> Corpus:
    """The corpus in the model's tokens."""
    from qscale.data import corpus as corpora
    from qscale.data import tokenizer as tokenizers
    from qscale.errors import ConfigError

    size = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if tokenizer is None and size != tokenizers.BYTES.vocab_size:
        raise ConfigError(
            f"the model has {size} tokens and no tokenizer.json beside it: name one, --tokenizer file:PATH"
        )
    text = corpora.load(name)
    if tokenizer not in (None, "bytes"):
        from qscale.data import subwords, tokens

        assert tokenizer is not None
        text = tokens.encoded(text, subwords.Subwords(tokenizer, subwords.text_of(tokenizer, text)))
    return text


def _check_vocabulary(text: Corpus, model: nn.Module) -> None:
    """Refuse tokens that the model does not have."""
    from qscale.errors import ConfigError

    size = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if text.tokenizer.vocab_size > size:
        raise ConfigError(
            f"tokenizer {text.tokenizer.text!r} has {text.tokenizer.vocab_size:,} tokens, "
            f"the model {size:,}: name the tokenizer that it was trained with, --tokenizer file:PATH"
        )


def _check_biases(model: nn.Module, method: Any) -> None:
    """Refuse to save shifts that need biases where the architecture has none."""
    from torch import nn

    from qscale.errors import ConfigError
    from qscale.ptq.blocks import find_blocks

    if not any(getattr(step, "symmetrize", False) for step in method.steps):
        return
    for name, block in find_blocks(model).items():
        for inner, layer in block.named_modules():
            if isinstance(layer, nn.Linear) and layer.bias is None:
                raise ConfigError(
                    f"layer {name}.{inner} has no bias to make up for shifts, and a saved model of its kind "
                    "cannot get one: use outlier_tune(symmetrize=false), or leave --out away"
                )


def _held_out(text: Corpus, windows: int, length: int) -> np.ndarray:
    from qscale.data.batches import evaluation_sequences

    return evaluation_sequences(text.validation, length, windows)


def _result(before: np.ndarray, after: np.ndarray, text: Corpus, windows: int, length: int) -> dict[str, Any]:
    import numpy as np

    from qscale.data.tokenizer import bits_per_byte
    from qscale.training.evaluate import paired_delta

    found: dict[str, Any] = {"eval_windows": windows, "length": length}
    size = text.bytes_per_token(windows, length)
    for name, losses in (("before", before), ("after", after)):
        mean = float(losses.mean()) if np.isfinite(losses).all() else None
        found[name] = {
            "loss": mean,
            "perplexity": None if mean is None or mean > 700 else math.exp(mean),
            "bits_per_byte": None if mean is None else bits_per_byte(mean, size),
        }
    known = np.isfinite(after).all() and np.isfinite(before).all()
    delta = paired_delta(after, before) if known else None
    return found | {
        "delta": None if delta is None else delta.mean,
        "delta_se": None if delta is None else delta.se,
    }


def _print(result: dict[str, Any]) -> None:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    for name in ("before", "after"):
        row = result[name]
        click.echo(
            f"{name:<8}loss {number(row['loss'])}  perplexity {number(row['perplexity'])}  "
            f"bits per byte {number(row['bits_per_byte'])}"
        )
    click.echo(f"{'delta':<8}{number(result['delta'])} +- {number(result['delta_se'])} nats per token")
    if result["bits_per_weight"] is not None:
        click.echo(
            f"{'layers':<8}{result['bits_per_weight']:.3f} bits a weight, output error "
            f"{result['relmse_nearest']:.2e} to nearest, {result['relmse']:.2e} by {result['method']}"
        )
    if result["bits_per_kv"] is not None:
        click.echo(
            f"{'cache':<8}{result['bits_per_kv']:.3f} bits a key or value, {result['bits_of_tables']:.3f} of "
            f"them tables, error {result['relmse_keys']:.2e} of keys, {result['relmse_values']:.2e} of "
            f"values, {result['relmse_attention']:.2e} of attention"
        )
