"""The options of ``qscale plan``, and what they stand for: laws, models, memory in use."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qscale.cli import _tables
from qscale.errors import ConfigError, QScaleError
from qscale.units import parse_bytes, parse_count

if TYPE_CHECKING:
    from qscale.planning import Architecture, Evidence, Serving

_BASELINE = "chen2025/baseline"
_WORDS = 32_000
_SIZES = ("0.5B", "1B", "1.5B", "3B", "7B", "8B", "13B", "14B", "32B", "70B")

Command = Callable[..., Any]


def reader(read: Callable[[str], Any]) -> Callable[[Any, Any, Any], Any]:
    """A callback that reads a text, or each of several; what cannot be read is bad usage."""

    def one(text: str) -> Any:
        try:
            return read(text)
        except (QScaleError, ValueError) as error:
            raise click.BadParameter(str(error)) from error

    def run(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        if given is None:
            return None
        return tuple(map(one, given)) if isinstance(given, tuple) else one(given)

    return run


def _into(
    name: str, make: Callable[..., Any], *options: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """A decorator: options, in the order of the help, that ``make`` turns into one argument of a command."""
    wanted = tuple(signature(make).parameters)

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> Any:
            made = make(**{key: given.pop(key) for key in wanted})
            return command(**{name: made}, **given)

        decorated: Command = run
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _also(text: str) -> tuple[str, str]:
    law, colon, recipe = text.partition(":")
    if not colon or not recipe:
        raise ValueError(f"{text!r} is not LAW:RECIPE")
    return law, recipe


def _evidence(
    law: tuple[str, ...],
    baseline: str | None,
    published: bool,
    also: tuple[tuple[str, str], ...],
    comparable: bool,
    level: float,
    reach: float | None,
) -> Evidence:
    from qscale.planning import Evidence

    if baseline is None and not law:
        baseline = _BASELINE
    covered: dict[str, list[str]] = {}
    for name, recipe in also:
        covered.setdefault(name, []).append(recipe)
    return Evidence.of(
        law,
        baseline,
        published=published or not law,
        also=covered,
        comparable=comparable,
        level=level,
        reach=math.inf if reach is None else reach,
    )


#: ``evidence``: which laws a plan rests on.
evidence = _into(
    "evidence",
    _evidence,
    click.option(
        "--law",
        multiple=True,
        metavar="LAW",
        help="Law of delta: a law file or a published id; the first about a recipe is planned by.  "
        "[default: the published ones]",
    ),
    click.option(
        "--baseline",
        metavar="LAW",
        help=f"Law of the loss without quantization.  [default: {_BASELINE}, where no --law is given]",
    ),
    click.option("--published", is_flag=True, help="Put the published laws beside --law."),
    click.option(
        "--also",
        multiple=True,
        callback=reader(_also),
        metavar="LAW:RECIPE",
        help="Take a law to cover a recipe beside its own, such as chen2025/w4a4:w=fp4_e2m1,a=fp4_e2m1.",
    ),
    click.option(
        "--comparable",
        is_flag=True,
        help="Take losses to be of one tokenizer where a law does not say which it is of.",
    ),
    click.option(
        "--reach",
        type=click.FloatRange(1),
        metavar="TIMES",
        help="In choices leave out laws that are asked so many times outside their fitted box.",
    ),
    _tables.level,
)


_TOKENS = click.option(
    "-D", "tokens", callback=reader(parse_count), metavar="COUNT", help="Training tokens: 2e12 or 2T."
)
_RATIO = click.option("--ratio", type=float, metavar="NUMBER", help="Tokens a parameter, in place of -D.")


def shape(command: Command) -> Command:
    """Options that shape a model which is given by its size: ``vocabulary``, ``kv_share``, ``tied``."""
    for option in (
        click.option("--tied", is_flag=True, help="The head is the embedding, of a model given by its size."),
        click.option(
            "--kv-share",
            type=click.FloatRange(0, 1, min_open=True),
            default=1.0,
            show_default=True,
            help="Heads of keys and values for each head of queries, of a model given by its size.",
        ),
        click.option(
            "--vocabulary",
            type=click.IntRange(1),
            default=_WORDS,
            show_default=True,
            help="Tokens of a model that is given by its size.",
        ),
    ):
        command = option(command)
    return command


def _model(
    model: str, tokens: int | None, ratio: float | None, vocabulary: int, kv_share: float, tied: bool
) -> tuple[Architecture, float]:
    made = architecture(model, vocabulary, kv_share, tied)
    return made, _tokens_of(made, tokens, ratio)


def _models(
    model: tuple[str, ...],
    tokens: int | None,
    ratio: float | None,
    vocabulary: int,
    kv_share: float,
    tied: bool,
) -> list[tuple[Architecture, float]]:
    return [_model(name, tokens, ratio, vocabulary, kv_share, tied) for name in model or _SIZES]


def _tokens_of(made: Architecture, tokens: int | None, ratio: float | None) -> float:
    if (tokens is None) == (ratio is None):
        raise click.UsageError("Give -D, the training tokens, or --ratio, tokens a parameter.")
    return float(tokens if tokens is not None else (ratio or 0) * made.N)


def architecture(
    name: str, vocabulary: int = _WORDS, kv_share: float = 1.0, tied: bool = False
) -> Architecture:
    """A model by its size, or by its configuration."""
    from qscale.planning import Architecture

    if not Path(name).exists():
        try:
            size = parse_count(name)
        except ConfigError:
            return Architecture.from_config(name)
        return Architecture.typical(size, vocabulary=vocabulary, kv_share=kv_share, tied=tied)
    return Architecture.from_config(name)


_WHAT = "A size such as 7B, or a config.json or its folder"
#: ``model``: an architecture and its training tokens.
model = _into(
    "model",
    _model,
    click.option("--model", "-m", required=True, metavar="MODEL", help=f"{_WHAT}."),
    _TOKENS,
    _RATIO,
    shape,
)
#: ``models``: several of them.
models = _into(
    "models",
    _models,
    click.option(
        "--model",
        "-m",
        multiple=True,
        metavar="MODEL",
        help=f"{_WHAT}; repeatable.  [default: {', '.join(_SIZES)}]",
    ),
    _TOKENS,
    _RATIO,
    shape,
)


def options(command: Command) -> Command:
    """Two arguments that make ``first`` and ``second``, options of a deployment, and their ``evidence``."""

    @wraps(command)
    def run(evidence: Evidence, sides: list[tuple[Architecture, float, str, str]], **rest: Any) -> Any:
        first, second = (
            evidence.option(made, D, recipe or None, law=law or None) for made, D, recipe, law in sides
        )
        return command(evidence=evidence, first=first, second=second, **rest)

    decorated: Command = _SIDES(evidence(run))
    return decorated


def _sides(
    first: str,
    second: str,
    tokens: int | None,
    ratio: float | None,
    vocabulary: int,
    kv_share: float,
    tied: bool,
) -> list[tuple[Architecture, float, str, str]]:
    """``MODEL=RECIPE by LAW``, twice."""
    found = []
    for text in (first, second):
        name, _, recipe = text.partition("=")
        recipe, _, law = recipe.partition(" by ")
        found.append((*_model(name, tokens, ratio, vocabulary, kv_share, tied), recipe, law))
    return found


_SIDES = _into(
    "sides",
    _sides,
    click.argument("first", metavar="MODEL=RECIPE"),
    click.argument("second", metavar="MODEL=RECIPE"),
    _TOKENS,
    _RATIO,
    shape,
)


def _serving(
    context: int,
    batch: int,
    kv: str | None,
    chunk: int,
    overhead: int | None,
    scale_bits: int | None,
    zero_bits: int | None,
) -> Serving:
    from qscale.formats import QuantSpec
    from qscale.planning import Serving

    return Serving(
        context=context,
        batch=batch,
        kv=None if kv is None else QuantSpec.parse(kv),
        tokens_at_once=chunk,
        overhead=overhead or 0,
        scale_bits=scale_bits,
        zero_bits=zero_bits,
    )


#: ``serving``: what takes memory beside the weights.
serving = _into(
    "serving",
    _serving,
    click.option(
        "--context",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Tokens whose keys and values are kept; 0: no cache.",
    ),
    click.option(
        "--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences at a time."
    ),
    click.option("--kv", metavar="SPEC", help="Keys and values, such as int8:token.  [default: 16 bits]"),
    click.option(
        "--chunk",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Tokens of a sequence computed at once, for activations; 0: not counted.",
    ),
    click.option(
        "--overhead",
        callback=reader(parse_bytes),
        metavar="BYTES",
        help="What the runtime takes, such as 500MB.  [default: nothing]",
    ),
    click.option(
        "--scale-bits", type=click.IntRange(0, 64), help="Of a scale.  [default: the format's, or 16]"
    ),
    click.option("--zero-bits", type=click.IntRange(0, 64), help="Of a zero point.  [default: the format's]"),
)
