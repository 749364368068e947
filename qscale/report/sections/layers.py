"""What quantization does to each layer, and how heavy the tails of its inputs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qscale.report.canvas import COLORS
from qscale.report.sources import Row, Source
from qscale.report.values import Value, axis, figure, log_axis, number, panel, part, section, series, table
from qscale.sweep.table import layer_rows
from qscale.units import short_count

#: Fields of the diagnostics and what they are; those of the first two are shares of the tensor's square.
FIELDS = {
    "weight_relmse": "relative error of weights",
    "input_relmse": "relative error of inputs",
    "input_kurtosis": "kurtosis of inputs (normal: 3)",
    "input_peak": "largest over median input",
    "oscillation": "weights that oscillate",
    "gradient_norm": "norm of the weight's gradient",
}
TITLE = "Layers"


def layers(source: Source, *, mode: str | None = None, recipe: str | None = None) -> Value:
    """A panel for each diagnostic, a line for each recipe: of the largest, longest and first of the runs."""
    if source.folder is None:
        return section(
            "layers", TITLE, remark="Diagnostics of layers lie in a study's folder; a table has none."
        )
    rows = layer_rows(source.folder, mode=mode, recipe=recipe)
    if not rows:
        return section("layers", TITLE, remark="No finished run has looked at its layers.")
    chosen = largest(rows)
    found = list(dict.fromkeys((row["recipe"], row["mode"]) for row in chosen))
    runs = found[: len(COLORS)]
    names = list(dict.fromkeys(row["layer"] for row in chosen))
    fields = [name for name in FIELDS if any(row.get(name) for row in chosen)]
    panels = [_panel(field, chosen, runs, names) for field in fields]
    first = chosen[0]
    left = f" The first {len(runs)} of {len(found)} recipes are drawn." if len(found) > len(runs) else ""
    where = (
        f"{short_count(first['N'])} parameters after {short_count(first['D'])} tokens, seed {first['seed']}"
    )
    caption = f"Layers of {where}, on held-out sequences at the end of training.{left}"
    alt = f"{len(names)} layers of {where}, for {', '.join(_name(*run) for run in runs)}. {_worst(chosen)}"
    return section(
        "layers",
        TITLE,
        part(
            text=[
                "Relative errors are E[(q - x)^2] / E[x^2]; layers stand in the order of the model, block by "
                "block."
            ],
            figures=[figure("layers", caption, alt, panels, _table(chosen, fields), wide=True)],
        ),
    )


def largest(rows: Sequence[Row]) -> list[Row]:
    """Of several sizes, token counts and seeds the largest N, then its largest D, then the first seed."""
    kept = list(rows)
    for name, best in (("N", max), ("D", max), ("seed", min)):
        value = best(row[name] for row in kept)
        kept = [row for row in kept if row[name] == value]
    return kept


def _name(recipe: str, mode: str) -> str:
    return "unquantized" if recipe == "none" else f"{recipe} {mode}"


def _panel(field: str, rows: Sequence[Row], runs: Sequence[tuple[str, str]], names: Sequence[str]) -> Value:
    drawn: list[Value] = []
    every: list[float] = []
    for i, run in enumerate(runs):
        own = {row["layer"]: row.get(field) for row in rows if (row["recipe"], row["mode"]) == run}
        values = [own.get(name) for name in names]
        if any(value is not None for value in values):
            every += [value for value in values if value is not None]
            color: Any = "ink" if run[0] == "none" else i
            drawn.append(
                series(_name(*run), range(len(names)), values, color=color, symbol=i, kind="both", text=names)
            )
    y = log_axis("", every) if min(every) > 0 else axis("")
    return panel(FIELDS[field], axis("layer", names=_short(names)), y, drawn)


def _short(names: Sequence[str]) -> list[str]:
    """``0 q`` for ``model.layers.0.self_attn.q_proj``; of many layers only the first of each block."""
    out, before = [], None
    for name in names:
        block = next((bit for bit in name.split(".") if bit.isdigit()), "")
        last = name.rpartition(".")[2].removesuffix("_proj")
        out.append(f"{block} {last}" if len(names) <= 16 else (block if block != before else ""))
        before = block
    return out


def _worst(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row.get("input_kurtosis") is not None]
    if not known:
        return ""
    top = max(known, key=lambda row: row["input_kurtosis"])
    return (
        f"The heaviest tails are those of the input of {top['layer']}: kurtosis {top['input_kurtosis']:.3g}."
    )


def _table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Value:
    body = [
        (row["layer"], _name(row["recipe"], row["mode"]), *(number(row.get(field), 3) for field in fields))
        for row in rows
    ]
    head = ("layer", "run", *(FIELDS[field] for field in fields))
    return table("Diagnostics of each layer", head, body, beyond="diagnostics.jsonl of each run has them all")
