"""``qscale bench``: kernel timing against memory bandwidth and installed peers."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from qscale.errors import BackendError

if TYPE_CHECKING:
    from qscale.timing.suite import Overhead, Timing


@click.command(name="bench", epilog="Example: qscale bench --only int4:g32 --sizes 64Ki,16Mi")
@click.option("--only", multiple=True, metavar="PATTERN", help="Cases whose name holds this; repeatable.")
@click.option("--spec", multiple=True, help="Time this format in place of the usual ones; repeatable.")
@click.option("--sizes", metavar="LIST", help="Elements, such as 64Ki,16Mi.  [default: 16Ki,64Ki,1Mi,16Mi]")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Time the peers installed.")
@click.option(
    "--compile/--no-compile",
    "compile_peers",
    default=False,
    show_default=True,
    help="Time the peers through torch.compile too; seconds for each case.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=0.3,
    show_default=True,
    help="Of each comparison; three rounds at least.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of every call.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables at the end, progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
def command(
    only: tuple[str, ...],
    spec: tuple[str, ...],
    sizes: str | None,
    peers: bool,
    compile_peers: bool,
    seconds: float,
    threads: int,
    markdown: bool,
    as_json: bool,
) -> None:
    """Time the kernels against memory bandwidth and installed peers.

    Every call is timed in turns with a copy of the same bytes into an output that is there, every peer in
    turns with the call of qscale that makes its own output, as the peer does. Ratios are of medians. Cases
    are named op/dtype/elements.
    """
    if markdown and as_json:
        raise click.UsageError("--markdown and --json: give one or the other")
    if find_spec("torch") is None:
        raise BackendError("qscale bench times torch operators: pip install torch, then 'qscale[bench]'")
    from qscale.timing import cases, suite
    from qscale.timing.sizes import SIZES, parse_size

    elements = SIZES if sizes is None else tuple(parse_size(size) for size in sizes.split(","))
    cells = cases.cells(elements, only, spec or None)
    with suite.threads(threads):
        show = _Events(as_json=as_json, markdown=markdown)
        for timing in suite.run(cells, seconds=seconds, peers=peers, compile_peers=compile_peers):
            show.timing(timing)
        if not only and not spec:
            for overhead in suite.overheads():
                show.overhead(overhead)
    show.end()


class _Events:
    """Says each thing when it is known: a line of text, or of JSON."""

    def __init__(self, *, as_json: bool, markdown: bool) -> None:
        from qscale.timing import machine, tables

        self._tables = tables
        self._json, self._markdown = as_json, markdown
        self._machine = machine.describe()
        self._timings: list[Timing] = []
        self._overheads: list[Overhead] = []
        self._say({"event": "machine"} | self._machine, *tables.machine_lines(self._machine))
        if not as_json:
            self._line(f"\n{tables.LEGEND}\n\n{tables.header()}")

    def timing(self, timing: Timing) -> None:
        self._timings.append(timing)
        self._say({"event": "timing"} | asdict(timing), self._tables.line(timing))

    def overhead(self, overhead: Overhead) -> None:
        self._overheads.append(overhead)
        self._say({"event": "overhead"} | asdict(overhead), self._tables.overhead_line(overhead))

    def end(self) -> None:
        lines = self._tables.summary(self._timings)
        self._say({"event": "end", "summary": lines}, *lines)
        if self._markdown:
            click.echo(self._tables.markdown(self._machine, self._timings, self._overheads))

    def _say(self, event: dict[str, Any], *lines: str) -> None:
        if self._json:
            click.echo(json.dumps(event))
            return
        for line in lines:
            self._line(line)

    def _line(self, text: str) -> None:
        click.echo(text, err=self._markdown)
