"""The printed report of a law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qscale.laws.law import Law


def summarize(law: Law) -> str:
    """Status, constants with their intervals, errors, box; no constants where they mean nothing."""
    lines = [f"{law.name or law.form.id}: {law.form.formula}", f"  status    {law.status}"]
    if law.form.unit != "nats per token":
        lines += [f"  gives     {law.form.target}, {law.form.unit}"]
    lines += _provenance(law)
    if law.usable:
        lines += _constants(law)
        lines += _errors(law)
    else:
        lines += _advice(law)
    lines += [f"  box       {', '.join(_range(law, name) for name in law.box)}"]
    lines += [f"  warning   {text}" for text in law.warnings]
    lines += [f"  note      {note}" for note in law.notes]
    if law.citation is not None:
        lines += [f"  source    {law.citation['text']}"]
    return "\n".join(lines)


def _range(law: Law, name: str) -> str:
    levels = next(v.levels for v in law.form.variables if v.name == name)
    low, high = law.box[name]
    return f"{name} of {' '.join(levels)}" if levels else f"{name} {low:.4g} to {high:.4g}"


def _provenance(law: Law) -> list[str]:
    lines = []
    if {"rows", "ladders"} <= set(law.data):
        lines.append(f"  data      {law.data['rows']} rows in {law.data['ladders']} ladders")
    known = [f"{key} {value}" for key, value in law.quantization.items() if value]
    if known:
        lines.append(f"  method    {', '.join(known)}")
    return lines


def _constants(law: Law) -> list[str]:
    ref = law.reference
    if ref is None:
        return [f"  {name:<9} {value:.6g}" for name, value in law.parameters.items()]
    at = ", ".join(f"{name}={value:g}" for name, value in ref.at.items())
    lines = [f"  at {at}, with {ref.level:.0%} intervals:"]
    for name, value in ref.parameters.items():
        low, high = ref.intervals.get(name, (None, None))
        band = f"   [{low:.4g}, {high:.4g}]" if low is not None else ""
        held = "   (fixed)" if name in law.fixed else band
        lines.append(f"  {name:<9} {value:.4g}{held}")
    raw = [name for term in law.form.terms if term.axes for name in term.scale_names]
    lines += [f"  {scale:<9} {law.parameters[scale]:.4g}   (raw: N, D in counts)" for scale in raw]
    if law.draws_table is not None:
        lines.append(f"  intervals {law.draws_table.method}, {len(law.draws_table.values)} draws")
    return lines


def _advice(law: Law) -> list[str]:
    advice = law.diagnostics.get("advice")
    return [f"  to do     {line}" for line in (advice if isinstance(advice, list) else ())]


def _errors(law: Law) -> list[str]:
    d, h = law.diagnostics, law.holdout
    if not all(key in d for key in ("mean_relative_error", "seed_sd", "chi2_per_dof", "r2")):
        return []  # a law of another source
    shown = f"mean {_percent(d['mean_relative_error'])}, largest {_percent(d.get('max_relative_error'))}"
    held = [
        f"largest {v.name} {_held_out(h, f'largest_{v.name}')}"
        for v in law.form.variables
        if f"largest_{v.name}" in h
    ]
    if "leave_one_format" in h:
        held.append(f"each format {_held_out(h, 'leave_one_format')}")
    return [
        f"  error     in sample {shown}; leave-one-out {_held_out(h, 'leave_one_out')}",
        f"  held out  {', '.join(held)}",
        f"  noise     {_noise(d)}, weighted R2 {_short(d['r2'])}",
    ]


def _held_out(holdout: Mapping[str, Any], name: str) -> str:
    counts = holdout.get("rows")
    rows = counts.get(name) if isinstance(counts, Mapping) else None
    on = f" ({rows} row{'' if rows == 1 else 's'})" if isinstance(rows, int) else ""
    return f"{_percent(holdout.get(name))}{on}"


def _noise(d: Mapping[str, Any]) -> str:
    """Chi-square only where seeds repeat: the scatter is the value that makes it 1."""
    cells = d.get("seed_cells")
    if isinstance(d["seed_sd"], (int, float)) and isinstance(cells, int):
        of = f"{cells} cell{'' if cells == 1 else 's'} with several seeds"
        return f"seed s.d. {_percent(d['seed_sd'])} ({of}), chi2/dof {_short(d['chi2_per_dof'])}"
    if not isinstance(d.get("scatter_sd"), (int, float)):
        return "not known"
    cell = (
        f", from cell to cell {_percent(d['cell_sd'])}" if isinstance(d.get("cell_sd"), (int, float)) else ""
    )
    return f"scatter {_percent(d['scatter_sd'])}{cell} (no seeds repeated: an estimate from the residuals)"


def _percent(value: Any) -> str:
    return f"{100 * value:.2g}%" if isinstance(value, (int, float)) else "not possible"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "not known"
