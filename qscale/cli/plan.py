"""``qscale plan``: what to ship or train under a budget, one command a question."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qscale.cli import _plan_options as given
from qscale.cli import _tables
from qscale.units import parse_bytes, short_count

if TYPE_CHECKING:
    from qscale.planning import Architecture, Evidence, Option, Serving

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_RECIPES = click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="RECIPE",
    help="Choose among these, such as w4a16:g128; repeatable.  [default: all that the laws are about]",
)
_SHOWN = click.option("--rows", type=click.IntRange(1), default=8, show_default=True, help="Rows to print.")
_LAW_OF = click.option("--by", metavar="LAW", help="The law that speaks, where several are about it.")


@click.group(epilog="Example: qscale plan memory 8GB -D 2T --context 8192")
def command() -> None:
    """What to ship or train, by laws of what quantization costs.

    Each answer comes with a band and with its distance from the data.

    MODEL is a size such as 7B (a typical shape is taken) or a config.json; -D its training tokens. Without
    --law the published laws are asked. A band of a published law is that of the mean error which its source
    prints; own fits have draws.
    """


@command.command(epilog="Example: qscale plan memory 8GB -D 2T --context 8192 --overhead 500MB")
@click.argument("budget", callback=given.reader(parse_bytes), metavar="BYTES")
@given.models
@_RECIPES
@given.serving
@given.evidence
@click.option("--figure", type=click.Path(path_type=Path), help="Draw loss against bytes: .png, .svg, .pdf.")
@_SHOWN
@_JSON
def memory(
    budget: int,
    models: list[tuple[Architecture, float]],
    recipes: tuple[str, ...],
    serving: Serving,
    evidence: Evidence,
    figure: Path | None,
    rows: int,
    as_json: bool,
) -> None:
    """Which size, format, group and method has the least predicted loss in so many BYTES."""
    from qscale.cli import _plan_text as text
    from qscale.planning import least_loss

    plan = least_loss(evidence, budget, models, recipes=recipes or None, serving=serving)
    if figure is not None:
        from qscale.report.plan_figures import pareto_figure

        pareto_figure(plan, figure)
    if as_json:
        click.echo(text.strict(plan.to_json()))
    else:
        text.memory(plan, evidence, rows)
    if plan.best is None:
        raise SystemExit(1)


@command.command(epilog="Example: qscale plan tolerance 0.02 -m 7B -D 2T")
@click.argument("nats", type=float)
@given.model
@_RECIPES
@given.serving
@given.evidence
@click.option(
    "--certainty",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="The share of draws that has to be within, for the sure answer.",
)
@_SHOWN
@_JSON
def tolerance(
    nats: float,
    model: tuple[Architecture, float],
    recipes: tuple[str, ...],
    serving: Serving,
    evidence: Evidence,
    certainty: float,
    rows: int,
    as_json: bool,
) -> None:
    """The fewest bytes, and the largest G, that lose at most so many NATS per token."""
    from qscale.cli import _plan_text as text
    from qscale.planning import within_tolerance

    found = within_tolerance(
        evidence, nats, model, recipes=recipes or None, serving=serving, certainty=certainty
    )
    if as_json:
        click.echo(text.strict(text.tolerance_json(found)))
    else:
        text.tolerance(found, evidence, rows)


@command.command(epilog="Example: qscale plan group w4a16:g32 w4a16:g128 -m 7B -D 2T")
@click.argument("fine", metavar="RECIPE")
@click.argument("coarse", metavar="RECIPE")
@given.model
@given.evidence
@_LAW_OF
@_JSON
def group(
    fine: str,
    coarse: str,
    model: tuple[Architecture, float],
    evidence: Evidence,
    by: str | None,
    as_json: bool,
) -> None:
    """Is the finer group of two recipes worth its bits: against the other, and against a larger model."""
    from qscale.cli import _plan_text as text
    from qscale.planning import group_worth

    found = group_worth(evidence, model, fine, coarse, law=by)
    if as_json:
        click.echo(text.strict(text.group_json(found)))
    else:
        text.group(found, evidence)


@command.command(epilog="Example: qscale plan compare 7B=w4a16:g128 13B=w2a16:channel -D 2T")
@given.options
@_JSON
def compare(evidence: Evidence, first: Option, second: Option, as_json: bool) -> None:
    """The probability that one option beats another: MODEL=RECIPE, in 16 bits without a recipe.

    "7B=w4a16:g128 by law.json" names the law that speaks for it.
    """
    from qscale.cli import _plan_text as text
    from qscale.planning import difference

    found = difference(evidence, first, second)
    chance = None if found.draws is None else float((found.draws < 0).mean())
    if as_json:
        out = {
            "first": str(first),
            "second": str(second),
            "difference": found.to_json(),
            "chance_first": chance,
        }
        click.echo(text.strict(out))
    else:
        text.compare(evidence, first, second, found, chance)


@command.command(
    epilog="Example: qscale plan settle 7B=w4a16:g32 8B=w4a16:g128 -D 2T --law law.json --baseline base.json "
    "--try N=300M,1B --try D=20B,80B --try G=32,128 --budget 1e21"
)
@given.options
@_tables.new_runs
@_JSON
def settle(
    evidence: Evidence,
    first: Option,
    second: Option,
    axes: dict[str, list[float]],
    budget: float,
    noise: float | None,
    as_json: bool,
) -> None:
    """Which extra runs would settle a choice between two options. The laws need draws: your own fits."""
    from qscale.cli import _plan_text as text
    from qscale.planning import runs_to_settle

    candidates = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    found = runs_to_settle(evidence, first, second, candidates, budget, noise=noise)
    if as_json:
        click.echo(text.strict(text.settle_json(found)))
    else:
        text.settle(found, first, second, list(axes))


@command.command(epilog="Example: qscale plan effective w4a4:g128 -m 7B -D 2T")
@click.argument("recipe")
@given.model
@given.evidence
@_LAW_OF
@_JSON
def effective(
    recipe: str, model: tuple[Architecture, float], evidence: Evidence, by: str | None, as_json: bool
) -> None:
    """The unquantized size of equal loss (EPM), and effective bits."""
    from qscale.cli import _plan_text as text
    from qscale.planning import effective_size

    found = effective_size(evidence, evidence.option(*model, recipe, law=by))
    if as_json:
        click.echo(text.strict(text.effective_json(found)))
    else:
        text.effective(found, evidence)


@command.command(
    epilog="Example: qscale plan critical w4a16:channel -m 1B --law kumar2025/ptq "
    "--baseline kumar2025/baseline"
)
@click.argument("recipe")
@click.option("--model", "-m", required=True, metavar="MODEL", help="A size such as 7B, or a config.json.")
@given.evidence
@_LAW_OF
@_JSON
def critical(recipe: str, model: str, evidence: Evidence, by: str | None, as_json: bool) -> None:
    """The training data from which on more of them make the quantized model worse."""
    from qscale.cli import _plan_text as text
    from qscale.planning import critical_data

    shape = given.architecture(model)
    found = critical_data(evidence, evidence.option(shape, 1.0, recipe, law=by))
    if as_json:
        click.echo(text.strict(text.critical_json(found)))
    else:
        text.critical(found, evidence)


@command.command(epilog="Example: qscale plan repay w4a16:g128 -m 1B --share 0.1 --overhead 1.3")
@click.argument("recipe")
@click.option("--model", "-m", required=True, metavar="MODEL", help="A size such as 7B, or a config.json.")
@click.option("--qat", metavar="LAW", help="The law of QAT.  [default: the first about the recipe]")
@click.option("--ptq", metavar="LAW", help="The law after training.  [default: the first about the recipe]")
@click.option("--share", type=float, default=0.1, show_default=True, help="Of the tokens that QAT has.")
@click.option("--overhead", type=float, default=1.0, show_default=True, help="Cost of its step over a plain.")
@click.option("--worth", type=float, default=0.0, show_default=True, help="Nats that it has to save.")
@given.evidence
@_JSON
def repay(
    recipe: str,
    model: str,
    qat: str | None,
    ptq: str | None,
    share: float,
    overhead: float,
    worth: float,
    evidence: Evidence,
    as_json: bool,
) -> None:
    """From how many tokens a parameter on QAT repays over quantization after training."""
    from qscale.cli import _plan_text as text
    from qscale.planning import qat_repays

    shape = given.architecture(model)
    found = qat_repays(evidence, shape, recipe, qat=qat, ptq=ptq, share=share, overhead=overhead, worth=worth)
    if as_json:
        click.echo(text.strict(text.repay_json(found)))
    else:
        text.repay(found, evidence)


@command.command(epilog="Example: qscale plan compute 1e21 --cost bits --recipe w4a4:g32 --recipe w4a4:g128")
@click.argument("flops", type=float)
@_RECIPES
@click.option(
    "--cost",
    type=click.Choice(["flops", "bits"]),
    default="flops",
    show_default=True,
    help="A run costs 6 N D; with bits, times the wider operand's bits over 16.",
)
@click.option(
    "--overhead", type=float, default=1.0, show_default=True, help="Cost of a QAT step over a plain one."
)
@given.evidence
@_SHOWN
@_JSON
def compute(
    flops: float,
    recipes: tuple[str, ...],
    cost: Any,
    overhead: float,
    evidence: Evidence,
    rows: int,
    as_json: bool,
) -> None:
    """The optimal precision for so many FLOPS of training, with its size and data."""
    from qscale.cli import _plan_text as text
    from qscale.planning import precision_for_compute

    found = precision_for_compute(evidence, flops, recipes=recipes or None, cost=cost, overhead=overhead)
    if as_json:
        click.echo(text.strict([text.trained_json(one) for one in found]))
    else:
        text.compute(found, rows, evidence)


@command.command(epilog="Example: qscale plan share -m 1B -D 50B --bits 4")
@given.model
@click.option("--bits", type=float, required=True, help="Of a weight in QAT: 1 to 6.")
@_JSON
def share(model: tuple[Architecture, float], bits: float, as_json: bool) -> None:
    """The share of the tokens that QAT should have, after full-precision training (weights alone)."""
    from qscale.cli import _plan_text as text
    from qscale.planning import qat_share

    found = qat_share(N=model[0].N, D=model[1], bits=bits)
    if as_json:
        fields = ("share", "tokens", "tokens_per_byte", "error", "outside")
        click.echo(text.strict({name: getattr(found, name) for name in fields}))
    else:
        text.share(found)


@command.command(name="bytes", epilog="Example: qscale plan bytes 7B w4a16:g128 w=mxfp4 --context 8192")
@click.argument("model", metavar="MODEL")
@click.argument("recipes", metavar="[RECIPE]...", nargs=-1)
@given.shape
@given.serving
@_JSON
def count(
    model: str,
    recipes: tuple[str, ...],
    vocabulary: int,
    kv_share: float,
    tied: bool,
    serving: Serving,
    as_json: bool,
) -> None:
    """Bytes of a model, part by part: exact for weights, scales and the cache."""
    from qscale.cli import _plan_text as text
    from qscale.planning import footprint

    shape = given.architecture(model, vocabulary, kv_share, tied)
    found = {"16 bits": footprint(shape, None, serving)}
    found |= {recipe: footprint(shape, recipe, serving) for recipe in recipes}
    if as_json:
        out = {"model": shape.name, "N": shape.N, "N_total": shape.N_total}
        click.echo(text.strict(out | {"bytes": {k: v.to_json() for k, v in found.items()}}))
    else:
        click.echo(f"{shape.name}: N {short_count(shape.N)}, with embeddings {short_count(shape.N_total)}")
        text.footprints(found)
