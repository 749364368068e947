"""What ``qscale plan`` prints, and its JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from qscale.cli._tables import columns
from qscale.units import short_bytes, short_count

if TYPE_CHECKING:
    from qscale.planning import (
        Critical,
        Effective,
        Evidence,
        Footprint,
        Forecast,
        GroupWorth,
        Option,
        Plan,
        QatShare,
        Repay,
        Row,
        Settling,
        Tolerance,
        Trained,
    )
    from qscale.planning.sources import Source

_WIDTH = 100
_FAR = 30.0  # times outside the box
_BASES = {
    "draws": "band of its draws",
    "printed error": "band of the error that its source prints, inside its box",
    "none": "no band",
}
_ONE_FACTOR = (
    "a band of a printed error is one factor for all points of a law: it cannot turn their order round"
)
_LEAST_GIB = 0.1 * 2**30
_PARTS = ("elements", "scales", "zero_points", "full_precision", "cache", "activations", "overhead", "total")


def memory(plan: Plan, evidence: Evidence, rows: int) -> None:
    """The best options under a budget."""
    if plan.best is None:
        least = plan.rows[0]
        click.echo(
            f"nothing fits {short_bytes(plan.limit)}: the smallest is {least.option} with "
            f"{short_bytes(least.footprint.total)}"
        )
        return
    click.echo(f"{plan.meets} of {len(plan.rows)} options fit {short_bytes(plan.limit)} ({_gib(plan.limit)})")
    _table(plan.rows[: min(rows, plan.meets)], "P(best)")
    _head(plan, "best")
    _remarks(plan, evidence)


def tolerance(found: Tolerance, evidence: Evidence, rows: int) -> None:
    """The smallest options within a tolerance."""
    plan = found.plan
    click.echo(f"{plan.meets} of {len(plan.rows)} options lose at most {plan.limit:g} nats per token")
    _table(plan.rows[: min(rows, plan.meets)], "P(within)")
    _head(plan, "smallest")
    sure = "none" if found.sure is None else _named(found.sure)
    click.echo(f"smallest that is within it in {found.certainty:.0%} of draws: {sure}")
    for name, group in found.largest_group.items():
        shown = "none" if group.G is None else "any" if math.isinf(group.G) else f"{group.G:.3g}"
        outside = f", G {group.outside['G']:.3g}x outside the box" if "G" in group.outside else ""
        click.echo(f"largest G of {name}: {shown} ({group.law}{outside})")
    _remarks(plan, evidence)


def group(found: GroupWorth, evidence: Evidence) -> None:
    """A finer group against a coarser one."""
    _table([found.fine, found.coarse], None)
    fine, coarse = found.fine.option, found.coarse.option
    click.echo(
        f"{fine} gains {_nats(found.gain)} over {coarse.recipe}\n"
        f"  for {found.extra_bits:.3g} bits a weight more"
    )
    if found.chance_better is not None:
        click.echo(f"  probability {found.chance_better:.3g} that it gains at all")
    if found.against_larger is None:
        click.echo("against a larger model in the same bytes: give --baseline")
        return
    value = found.against_larger.value
    larger = f"a {coarse.recipe} model of {found.scale:.3g} times the size in the same bytes"
    click.echo(
        f"{'worth it' if value > 0 else 'not worth it'}: {larger}\n  has a loss "
        f"{'higher' if value > 0 else 'lower'} by {_nats(found.against_larger, absolute=True)}"
    )
    if found.chance_worth is not None:
        click.echo(f"  probability {found.chance_worth:.3g} that the finer group is worth it")
    _far(found.against_larger)
    _unknown(found.against_larger, evidence, fine, replace(coarse, scale=found.scale))
    if found.gain.basis == "printed error":
        click.echo(_ONE_FACTOR)
    _say(evidence.notes)


def compare(evidence: Evidence, first: Option, second: Option, found: Forecast, chance: float | None) -> None:
    """One option against another."""
    for option in (first, second):
        loss = evidence.loss(option)
        law = "" if option.source is None else f", by {option.source.label}"
        word = "delta" if evidence.baseline is None else "loss"
        click.echo(f"{option}: {word} {_nats(loss)}{law}")
    click.echo(f"the first less the second: {_nats(found)}")
    if chance is None:
        click.echo("probability that the first is better: not known")
    else:
        click.echo(f"probability that the first is better: {chance:.3g}")
    _far(found)
    if chance is None:
        _unknown(found, evidence, first, second)
    elif found.basis == "printed error" and first.source is second.source:
        click.echo(_ONE_FACTOR)
    _say(evidence.notes)


def settle(found: Settling, first: Option, second: Option, axes: Sequence[str]) -> None:
    """Runs that would settle a choice."""
    better = first if found.difference.value < 0 else second
    click.echo(f"{first} less {second}: {_nats(found.difference)}, s.d. {found.sd:.3g}")
    click.echo(f"now {better} is better with probability {found.confidence:.3g}")
    if not found.steps:
        click.echo("the budget holds none of the runs, or none of them helps")
        return
    cells = [
        [
            *(f"{step.run[name]:.6g}" if name in step.run else "" for name in axes),
            step.law,
            f"{step.flops:.3g}",
            f"{step.sd:.3g}",
            f"{step.confidence:.3g}",
        ]
        for step in found.steps
    ]
    _echo(columns((*axes, "of law", "FLOPs", "s.d. then", "expected probability"), cells, left=0))


def effective(found: Effective, evidence: Evidence) -> None:
    """A quantized model as a smaller one."""
    click.echo(f"{found.option}: multiplier (EPM) {_band(found.multiplier, '.3g')}")
    click.echo(f"the same loss as {short_count(found.N)} parameters in 16 bits")
    click.echo(
        f"{found.bits_per_weight:.4g} bits a weight, {found.effective_bits:.4g} for each parameter of that "
        "model (16 without quantization)"
    )
    _far(found.multiplier)
    if evidence.baseline is not None:
        click.echo(f"the baseline {evidence.baseline.label} is taken as it is, without its error")


def critical(found: Critical, evidence: Evidence) -> None:
    """Data past which training harms."""
    if math.isinf(found.tokens.value):
        click.echo(f"{found.option.recipe}: more data never harms, up to 1e18 tokens")
        return
    click.echo(f"critical data: {_band(found.tokens, '.3g')} tokens, {found.ratio:.3g} a parameter")
    click.echo(f"the loss there: {found.least:.4g}")
    _far(found.tokens)
    _unknown(found.tokens, evidence, found.option)


def repay(found: Repay, evidence: Evidence) -> None:
    """From where on QAT pays."""
    value = found.ratio.value
    names = (found.qat.source, found.ptq.source)
    laws = " against ".join(source.label for source in names if source is not None)
    if math.isinf(value):
        click.echo(f"QAT does not repay up to {found.at_ratio[-1]:.3g} tokens a parameter ({laws})")
    elif value == 0:
        click.echo(f"QAT repays from {found.at_ratio[0]:.3g} tokens a parameter on, and before ({laws})")
    else:
        click.echo(f"QAT repays from {_band(found.ratio, '.3g')} tokens a parameter on ({laws})")
    for ratio in (20, 100, 1000):
        at = min(range(len(found.at_ratio)), key=lambda i: abs(math.log(found.at_ratio[i] / ratio)))
        verb = "saves" if found.gain[at] >= 0 else "loses"
        outside = f", {found.outside[at]:.3g}x outside the fitted box" if found.outside[at] > 1 else ""
        click.echo(
            f"  at {ratio} tokens a parameter it {verb} {abs(found.gain[at]):.3g} nats per token{outside}"
        )
    if found.chance_never:
        click.echo(f"probability that it never does: {found.chance_never:.3g}")
    _far(found.ratio)
    _unknown(found.ratio, evidence, found.qat, found.ptq)


def compute(found: Sequence[Trained], rows: int, evidence: Evidence) -> None:
    """Optima of a compute budget."""
    laws = _letters([one.source for one in found[:rows]])
    cells = [
        [
            "16 bits" if one.recipe is None else str(one.recipe),
            "" if one.source is None else one.source.how,
            short_count(one.N),
            short_count(one.D),
            _number(one.loss.value),
            _ends(one.loss),
            "" if one.chance is None else f"{one.chance:.2f}",
            _farthest(one.loss.outside),
            "" if one.source is None else laws[one.source.label],
        ]
        for one in found[:rows]
    ]
    heads = ("recipe", "how", "N", "D", "loss", "band", "P(best)", "outside", "law")
    _echo(_filled(heads, cells, left=2))
    _legend([one.source for one in found[:rows]], bands=False)
    if found[0].loss.outside:
        click.echo(f"extrapolation: the first is outside the fitted box in {_times(found[0].loss.outside)}")
    notes = list(evidence.notes)
    if evidence.baseline is not None and evidence.baseline.basis == "none":
        notes.append(f"the baseline {evidence.baseline.label} has no band, so no loss here has one")
    _say(notes)


def share(found: QatShare) -> None:
    """Tokens for QAT."""
    click.echo(f"QAT: {found.share:.1%} of the tokens, {short_count(max(found.tokens, 1))}")
    error = "" if found.error is None else f", mean error {found.error:g} of the share"
    click.echo(
        f"{found.tokens_per_byte:.4g} tokens a byte of weights (dremov2025/qat-fraction, weights "
        f"alone{error})"
    )
    if found.outside:
        click.echo(f"extrapolation: outside the fitted box in {_times(found.outside)}")


def footprints(found: Mapping[str, Footprint]) -> None:
    """Bytes, part by part."""
    cells = [[name, *(short_bytes(max(value.to_json()[part], 0)) for part in _PARTS), _gib(value.total)]
             for name, value in found.items()]  # fmt: skip
    empty = [part for part in _PARTS if not any(value.to_json()[part] for value in found.values())]
    cells = [[cell if i == 0 or i > len(_PARTS) or _PARTS[i - 1] not in empty else "" for i, cell in
              enumerate(line)] for line in cells]  # fmt: skip
    _echo(_filled(("recipe", *(part.replace("_", " ") for part in _PARTS), ""), cells, left=1))


def strict(out: Any) -> str:
    """JSON without infinities and NaN, which it does not have: null in their place."""
    return json.dumps(_plain(out), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tolerance_json(found: Tolerance) -> dict[str, Any]:
    """Everything but draws; a largest G of null: none, of "any": one scale a channel will do."""
    groups = {
        name: {
            "G": "any" if group.G is not None and math.isinf(group.G) else group.G,
            "law": group.law,
            "outside": group.outside,
        }
        for name, group in found.largest_group.items()
    }
    sure = None if found.sure is None else str(found.sure.option)
    return {**found.plan.to_json(), "sure": sure, "certainty": found.certainty, "largest_group": groups}


def group_json(found: GroupWorth) -> dict[str, Any]:
    """Everything but draws."""
    against = found.against_larger
    return {
        "fine": found.fine.to_json(),
        "coarse": found.coarse.to_json(),
        "gain": found.gain.to_json(),
        "extra_bits": found.extra_bits,
        "chance_better": found.chance_better,
        "scale": found.scale,
        "against_larger": None if against is None else against.to_json(),
        "chance_worth": found.chance_worth,
    }


def settle_json(found: Settling) -> dict[str, Any]:
    """Everything but draws."""
    fields = ("law", "run", "flops", "sd", "confidence")
    return {
        "difference": found.difference.to_json(),
        "sd": found.sd,
        "confidence": found.confidence,
        "runs": [{name: getattr(step, name) for name in fields} for step in found.steps],
    }


def effective_json(found: Effective) -> dict[str, Any]:
    """Everything but draws."""
    return {
        "option": str(found.option),
        "multiplier": found.multiplier.to_json(),
        "N": found.N,
        "bits_per_weight": found.bits_per_weight,
        "effective_bits": found.effective_bits,
    }


def critical_json(found: Critical) -> dict[str, Any]:
    """Everything but draws; null: there is none."""
    return {"tokens": found.tokens.to_json(), "ratio": found.ratio, "loss": found.least}


def repay_json(found: Repay) -> dict[str, Any]:
    """Everything but draws; a ratio of null: it never repays."""
    return {
        "qat": str(found.qat.source.label if found.qat.source else ""),
        "ptq": str(found.ptq.source.label if found.ptq.source else ""),
        "ratio": found.ratio.to_json(),
        "chance_never": found.chance_never,
        "curve": {
            "ratio": found.at_ratio.tolist(),
            "gain": found.gain.tolist(),
            "outside": found.outside.tolist(),
        },
    }


def trained_json(found: Trained) -> dict[str, Any]:
    """Everything but draws."""
    return {
        "recipe": None if found.recipe is None else str(found.recipe),
        "law": None if found.source is None else found.source.label,
        "N": found.N,
        "D": found.D,
        "loss": found.loss.to_json(),
        "chance": found.chance,
    }


def _table(rows: Sequence[Row], chance: str | None) -> None:
    has_loss = any(row.loss.value != row.delta.value for row in rows)
    laws = _letters([row.option.source for row in rows])
    cells = []
    for row in rows:
        others = sorted(row.others.values())
        cells.append(
            [
                str(row.option),
                f"{row.bits_per_weight:.4g}",
                short_bytes(row.footprint.total),
                *([_number(row.loss.value)] if has_loss else []),
                f"{row.delta.value:.3g}",
                _ends(row.delta, 3) if row.option.recipe is not None else "",
                *([] if chance is None else ["" if row.chance is None else f"{row.chance:.2f}"]),
                "" if not others else "..".join(dict.fromkeys(f"{v:.3g}" for v in (others[0], others[-1]))),
                _farthest(row.loss.outside),
                "" if row.option.source is None else laws[row.option.source.label],
            ]
        )
    heads = ["option", "bits", "bytes", *(["loss"] if has_loss else []), "delta", "band"]
    heads += [] if chance is None else [chance]
    _echo(_filled((*heads, "others", "outside", "law"), cells, left=1))
    _legend([row.option.source for row in rows])


def _filled(heads: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> list[str]:
    """A table without the columns in which nothing stands."""
    kept = [i for i in range(len(heads)) if i < left or any(line[i] for line in cells)]
    return columns([heads[i] for i in kept], [[line[i] for i in kept] for line in cells], left=left)


def _letters(sources: Sequence[Source | None]) -> dict[str, str]:
    """A short sign for each law of a table, by its label."""
    labels = dict.fromkeys(source.label for source in sources if source is not None)
    return {label: chr(ord("a") + i) if i < 26 else str(i) for i, label in enumerate(labels)}


def _legend(sources: Sequence[Source | None], *, bands: bool = True) -> None:
    """The laws of a table, and what their bands rest on."""
    signs, named = _letters(sources), {source.label: source for source in sources if source is not None}
    for label, sign in signs.items():
        click.echo(f"  law {sign}: {label}" + (f", {_BASES[named[label].basis]}" if bands else ""))


def _head(plan: Plan, word: str) -> None:
    if plan.best is not None:
        click.echo(f"{word}: {_named(plan.best)}")
        chosen = {law: option for law, option in plan.by_law.items() if option != str(plan.best.option)}
        if chosen:
            click.echo("asked alone, these laws would take another:")
            by_option: dict[str, list[str]] = {}
            for law, option in chosen.items():
                by_option.setdefault(option, []).append(law)
            for option, laws in by_option.items():
                line = f"  {option}: {', '.join(laws)}"
                _echo(
                    textwrap.wrap(
                        line, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
                    )
                )


def _named(row: Row) -> str:
    return f"{row.option}, {short_bytes(row.footprint.total)} ({_gib(row.footprint.total)})"


def _remarks(plan: Plan, evidence: Evidence) -> None:
    if plan.best is not None and plan.best.loss.outside:
        click.echo(f"extrapolation: outside the fitted box in {_times(plan.best.loss.outside)}")
        if max(plan.best.loss.outside.values()) > _FAR and math.isinf(evidence.reach):
            click.echo("  --reach 30 leaves out laws that are asked more than 30 times outside their runs")
    _say(plan.notes)


def _far(found: Forecast) -> None:
    if found.outside:
        click.echo(f"extrapolation: outside the fitted box in {_times(found.outside)}")
    if found.basis == "printed error":
        click.echo("the band is that of the error that the source prints, inside its box")


def _unknown(found: Forecast, evidence: Evidence, *options: Option) -> None:
    """Why an answer has no band."""
    if found.low is not None:
        return
    sources = [*(option.source for option in options), evidence.baseline]
    if evidence.differ_in_delta(options):
        sources.pop()
    lacking = dict.fromkeys(s.label for s in sources if s is not None and s.basis == "none")
    if lacking:
        click.echo(f"no band: the error of {', '.join(lacking)} is not known")


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _nats(found: Forecast, *, absolute: bool = False) -> str:
    if absolute:
        return f"{abs(found.value):.4g} nats per token"
    band = _ends(found)
    return f"{found.value:.4g} nats per token" + (f" [{band}]" if band else "")


def _band(found: Forecast, how: str) -> str:
    shown = format(found.value, how)
    if found.low is None or found.high is None:
        return shown
    return f"{shown} [{format(found.low, how)} to {format(found.high, how)}]"


def _ends(found: Forecast, digits: int = 4) -> str:
    if found.low is None or found.high is None:
        return ""
    return " to ".join(f"{end:.{digits}g}" for end in (found.low, found.high))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _times(outside: Mapping[str, float]) -> str:
    return " ".join(f"{name} {times:.3g}x" for name, times in outside.items())


def _farthest(outside: Mapping[str, float]) -> str:
    """The variable that is farthest outside; all of them are in the JSON."""
    if not outside:
        return ""
    name = max(outside, key=lambda one: outside[one])
    times = outside[name]
    return f"{name} {times:{'.2g' if times < 100 else '.0f' if times < 1e5 else '.0e'}}x"


def _gib(number: float) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= _LEAST_GIB else f"{number / 2**20:.2f} MiB"


def _echo(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
