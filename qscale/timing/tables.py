"""Timings as lines of text, as they come, and as Markdown tables, when all are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from qscale.timing.suite import INTO, NEW, Overhead, Timing

_NAME, _CALL = 40, 22
LEGEND = (
    "into: writes an output that is there, as the copy does; new: makes its own output, as a peer does, and\n"
    "pays for fresh memory. x copy: median over the copy's; x qscale: a peer's median over that of new."
)


def machine_lines(machine: Mapping[str, object]) -> list[str]:
    """What ``machine.describe`` found."""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    cores, kernels = machine["cores"], machine["kernels"]
    first = f"{machine['processor']}, {threads} of {cores}, torch {machine['torch']}, {kernels}"
    peers = machine["peers"]
    assert isinstance(peers, Mapping)
    return [first, *(f"{name}: {version}" for name, version in peers.items())]


def header() -> str:
    """Over the lines of timings."""
    columns = f"{'min us':>11}{'median us':>11}{'max us':>11}{'GB/s':>8}{'x copy':>8}{'x qscale':>10}"
    return f"{'case':<{_NAME}}{'call':<{_CALL}}{columns}"


def line(timing: Timing) -> str:
    """One timing."""
    start = f"{timing.case:<{_NAME}}{timing.call:<{_CALL}}"
    if timing.error is not None:
        return f"{start}raised {timing.error}"
    times = "".join(f"{_us(s):>11}" for s in (timing.min_s, timing.median_s, timing.max_s))
    ratios = f"{_ratio(timing.times_copy):>8}{_ratio(timing.times_qscale):>10}"
    compiling = "" if timing.compile_s is None else f"  compiled in {timing.compile_s:.1f} s"
    return f"{start}{times}{timing.gigabytes_per_s:>8.1f}{ratios}{compiling}"


def overhead_line(found: Overhead) -> str:
    """One call on next to nothing."""
    return f"{'8 x 8':<{_NAME}}{found.call:<{_CALL + 4}}{1e6 * found.seconds:>7.2f}"


def summary(timings: Iterable[Timing]) -> list[str]:
    """For each peer the least, the middle and the greatest of its ratios, and where the least was."""
    peers: dict[str, list[Timing]] = {}
    for timing in timings:
        if timing.times_qscale is not None:
            peers.setdefault(timing.call, []).append(timing)
    lines = []
    for call, found in peers.items():
        ratios = [t.times_qscale for t in found if t.times_qscale is not None]
        least = found[ratios.index(min(ratios))].case
        spread = f"{_ratio(min(ratios))} to {_ratio(max(ratios))}, middle {_ratio(median(ratios))}"
        lines.append(f"{call} takes {spread} times as long as qscale; least at {least}")
    return lines


def markdown(machine: Mapping[str, object], timings: Sequence[Timing], calls: Sequence[Overhead]) -> str:
    """The whole run: what it was taken on, the summary, qscale's own calls, peers, and overheads."""
    cases = list(dict.fromkeys(timing.case for timing in timings))
    found = {(timing.case, timing.call): timing for timing in timings}
    peers = list(dict.fromkeys(t.call for t in timings if t.call not in (INTO, NEW)))
    parts = [
        "\n".join(f"- {text}" for text in machine_lines(machine)),
        "## Time and bandwidth\n\n"
        + _table(
            ("case", *_OWN_COLUMNS),
            [(f"`{case}`", *_own_cells(found.get((case, INTO)), found.get((case, NEW)))) for case in cases],
        ),
    ]
    if peers:
        rows = [(f"`{case}`", *(_peer_cell(found.get((case, peer))) for peer in peers)) for case in cases]
        kept = [row for row in rows if set(row[1:]) != {""}]
        parts.append("## Peers, in times of qscale\n\n" + _table(("case", *peers), kept))
        parts.append("\n".join(f"- {text}" for text in (*summary(timings), *_notes(timings))))
    if calls:
        rows = [(found_.call, f"{1e6 * found_.seconds:.2f}") for found_ in calls]
        parts.append("## A call on 8 x 8 elements\n\n" + _table(("call", "us"), rows))
    return "\n\n".join(parts)


_OWN_COLUMNS = ("min us", "median us", "max us", "GB/s", "x copy", "new: median us", "new: x copy")


def _own_cells(into: Timing | None, new: Timing | None) -> tuple[str, ...]:
    first = ("",) * 5
    if into is not None:
        times = (_us(into.min_s), _us(into.median_s), _us(into.max_s))
        first = (*times, f"{into.gigabytes_per_s:.1f}", _ratio(into.times_copy))
    return (*first, *(("", "") if new is None else (_us(new.median_s), _ratio(new.times_copy))))


def _peer_cell(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return "raised" if timing.error is not None else _ratio(timing.times_qscale)


def _notes(timings: Iterable[Timing]) -> list[str]:
    """Seconds of compiling, and what was raised, each reason once."""
    compiling: dict[str, list[float]] = {}
    reasons: dict[str, list[str]] = {}
    for timing in timings:
        if timing.compile_s is not None:
            compiling.setdefault(timing.call, []).append(timing.compile_s)
        if timing.error is not None:
            reasons.setdefault(f"{timing.call} raised {timing.error}", []).append(timing.case)
    times = [f"{call}: compiled in {min(s):.1f} to {max(s):.1f} s a case" for call, s in compiling.items()]
    return times + [f"{reason} ({', '.join(cases)})" for reason, cases in reasons.items()]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e6 * seconds:.1f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"
