"""What a study is and how far it is: summary, coverage of the grid, environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import qscale
from qscale import bounded
from qscale.report.sources import Fit, Row, Source
from qscale.report.values import NOT_KNOWN, Value, between, count, listed, number, part, section, table
from qscale.sweep.board import Board
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.units import short_count, short_time


def summary(source: Source, fits: list[Fit], left: int) -> Value:
    """How many runs of what, over which ranges, and the law in one line."""
    rows, measured = source.rows, source.measured
    every = [*rows, *source.baselines]
    deltas = [row["delta"] for row in measured]
    facts = [
        (
            "quantized runs",
            f"{len(measured)} with a delta, {sum(bool(r.get('diverged')) for r in rows)} diverged",
        ),
        ("baselines", str(len(source.baselines))),
        ("N, parameters", _span(every, "N")),
        ("D, training tokens", _span(every, "D")),
        ("G, elements per scale", listed(f"{g:g}" for g in _distinct(rows, "G"))),
        ("recipes", listed(_distinct(rows, "recipe"))),
        ("modes", listed(_distinct(rows, "mode"))),
        ("methods after training", listed(_distinct(rows, "method"))),
        ("families", listed(_distinct(every, "family"))),
        ("corpora", listed(_distinct(every, "corpus"))),
        ("tokenizers", listed(_distinct(every, "tokenizer"))),
        ("seeds", listed(_distinct(every, "seed"))),
        ("delta, nats per token", between(min(deltas), max(deltas)) if deltas else NOT_KNOWN),
        ("time in workers", _time(every)),
    ]
    known = [(name, value) for name, value in facts if value != NOT_KNOWN]
    told = [_law_line(fit) for fit in fits[:3]]
    if len(fits) + left > 3:
        told.append(
            f"Of {len(fits) + left} groups of runs of one recipe, mode and method, these are the largest."
        )
    return section(
        "summary",
        "Summary",
        part(text=told, tables=[table("What was run", ("what", "value"), known)]),
        part("Said while reading", text=source.notes) if source.notes else part(),
    )


def _law_line(fit: Fit) -> str:
    law = fit.usable
    if law is None:
        return f"{fit.group.name}: no law of form {fit.form}: {fit.why}"
    constants = ", ".join(
        f"{name} = {value:.3g}" for name, value in law.parameters.items() if value is not None
    )
    return f"{fit.group.name}: {law.form.formula} with {constants}, fitted to {law.data.get('rows')} runs."


def _span(rows: Iterable[Row], name: str) -> str:
    values = _distinct(rows, name)
    if not values:
        return NOT_KNOWN
    ends = (
        short_count(values[0])
        if len(values) == 1
        else f"{short_count(values[0])} to {short_count(values[-1])}"
    )
    return f"{ends}, {len(values)} value{'' if len(values) == 1 else 's'}"


def _distinct(rows: Iterable[Row], name: str) -> list[Any]:
    return sorted({row[name] for row in rows if row.get(name) is not None})


def _time(rows: Iterable[Row]) -> str:
    seconds = [row["wall_seconds"] for row in rows if row.get("wall_seconds") is not None]
    return short_time(sum(seconds)) if seconds else NOT_KNOWN


def coverage(source: Source) -> Value:
    """Which cells of N and D hold which recipes: done, failed, missing."""
    if source.folder is None:
        return section("coverage", "Coverage of the grid", _of_rows(source))
    store = Store(source.folder)
    board = Board(store, jobs(store.runs()))
    states = {row["id"]: row for row in board.overview() if row["kind"] == "run"}
    if not states:
        return section(
            "coverage", "Coverage of the grid", remark="The study has not begun: it has no runs yet."
        )
    cells: dict[tuple[str, str], dict[tuple[int, int], Counter[str]]] = {}
    for run, job in board.runs.items():
        state = states[run]["state"]
        kind = (
            "diverged"
            if run in board.diverged
            else state
            if state in ("done", "failed", "running")
            else "missing"
        )
        cell = cells.setdefault(_what(job.config), {}).setdefault(
            (job.config.model.N, job.config.tokens), Counter()
        )
        cell[kind] += 1
        cell["all"] += 1
    counts: Counter[str] = Counter()
    for of_recipe in cells.values():
        for cell in of_recipe.values():
            counts.update(cell)
    said = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()) if kind != "all")
    failed = [row for row in states.values() if row["state"] == "failed"]
    tables = [_grid(cells, "Finished runs of those that the study asks for")]
    if failed:
        tables.append(
            table(
                "Failed runs",
                ("run", "error"),
                [(row["label"], bounded.one_line(row.get("error") or "", 300)) for row in failed],
                beyond="qscale sweep status --all lists them",
            )
        )
    return section(
        "coverage", "Coverage of the grid", part(text=[f"{counts['all']} runs: {said}."], tables=tables)
    )


def _what(config: Any) -> tuple[str, str]:
    if config.recipe is None:
        return ("baseline", "")
    return (config.recipe, " ".join(text for text in (config.mode, config.method) if text))


def _grid(cells: Mapping[tuple[str, str], Mapping[tuple[int, int], Counter[str]]], caption: str) -> Value:
    columns = sorted({place for of_recipe in cells.values() for place in of_recipe})
    head = ["recipe", "mode and method", *(f"N {short_count(n)}\nD {short_count(d)}" for n, d in columns)]
    order = sorted(cells, key=lambda key: (key[0] != "baseline", key))
    return table(
        caption,
        head,
        [[*key, *(_cell(cells[key].get(place)) for place in columns)] for key in order],
        beyond="qscale sweep status --all lists every run",
        states=True,
    )


def _cell(counts: Counter[str] | None) -> str:
    if counts is None:
        return ""
    text = f"{counts['done']}/{counts['all']}"
    others = [f"{counts[kind]} {kind}" for kind in ("failed", "diverged", "running") if counts[kind]]
    return ", ".join([text, *others])


def _of_rows(source: Source) -> Value:
    cells: dict[tuple[str, str], dict[tuple[int, int], Counter[str]]] = {}
    for row in [*source.baselines, *source.rows]:
        if not row.get("N") or not row.get("D"):
            continue
        what = row.get("recipe") or ("baseline" if row.get("delta") is None else "quantized")
        how = " ".join(text for text in (row.get("mode"), row.get("method")) if text and text != "baseline")
        cell = cells.setdefault((what, how), {}).setdefault((row["N"], row["D"]), Counter())
        cell["all"] += 1
        cell["diverged" if row.get("diverged") else "done"] += 1
    text = (
        "A table has the runs that were done; which ones failed or are missing only the study's folder knows."
    )
    return part(text=[text], tables=[_grid(cells, "Rows of the table")])


def environment(source: Source) -> Value:
    """Versions and machines that the records name."""
    written = f"This page was written by qscale {qscale.__version__}."
    if source.folder is None:
        remark = "A table does not say what its runs ran on: that stands in the records of a study's folder."
        return section("environment", "Environment", remark=f"{remark} {written}")
    versions: Counter[tuple[str, str]] = Counter()
    hosts: Counter[str] = Counter()
    store = Store(source.folder)
    for run in store.runs():
        record = store.record(run.run_id)
        if record is None:
            continue
        versions.update((str(name), str(version)) for name, version in record.versions.items())
        hosts[", ".join(f"{name} {value}" for name, value in record.host.items())] += 1
    if not hosts:
        return section("environment", "Environment", remark=f"No run has finished yet. {written}")
    return section(
        "environment",
        "Environment",
        part(
            text=[written],
            tables=[
                table(
                    "Versions in the records",
                    ("package", "version", "runs"),
                    [(name, version, str(n)) for (name, version), n in sorted(versions.items())],
                ),
                table(
                    "Machines in the records",
                    ("host", "runs"),
                    [(name, str(n)) for name, n in hosts.most_common()],
                ),
            ],
        ),
    )


def runs_table(source: Source) -> Value:
    """Every quantized run, for the reader of numbers."""
    rows = sorted(source.rows, key=lambda row: (str(row.get("recipe")), row.get("N") or 0, row.get("D") or 0))
    head = ("run", "N", "D", "G", "mode", "method", "seed", "loss", "delta", "s.e.")
    return section(
        "runs",
        "All quantized runs",
        part(
            tables=[
                table(
                    f"{len(rows)} quantized runs",
                    head,
                    [
                        (
                            row.get("recipe") or "quantized",
                            count(row.get("N")),
                            count(row.get("D")),
                            count(row.get("G")),
                            row.get("mode") or NOT_KNOWN,
                            row.get("method") or NOT_KNOWN,
                            NOT_KNOWN if row.get("seed") is None else str(row["seed"]),
                            "diverged" if row.get("diverged") else number(row.get("loss"), 5),
                            number(row.get("delta")),
                            number(row.get("delta_se"), 2),
                        )
                        for row in rows
                    ],
                    beyond="qscale sweep export writes them all",
                    folded=True,
                )
            ]
        ),
        remark=None if rows else "There is no quantized run.",
    )
