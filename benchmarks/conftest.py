"""``pytest benchmarks --benchmark-only``: options, and the table of ratios at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qscale.timing import machine, suite, tables
from qscale.timing.sizes import SIZES, size_text

_TIMINGS: list[suite.Timing] = []
_STEPS: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qscale")
    sizes = ",".join(size_text(size) for size in SIZES)
    group.addoption("--sizes", default=sizes, help=f"elements (default {sizes})")
    group.addoption("--seconds", type=float, default=0.3, help="of each comparison (default 0.3)")
    group.addoption("--threads", type=int, default=1, help="of every call (default 1)")
    group.addoption("--no-peers", action="store_true", help="time no other libraries")
    group.addoption("--compile-peers", action="store_true", help="time peers through torch.compile too")


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with suite.threads(request.config.getoption("--threads")):
        yield


@pytest.fixture
def timings() -> list[suite.Timing]:
    """Those of this session, for the table."""
    return _TIMINGS


@pytest.fixture
def steps() -> list[str]:
    """Rows of the table of training steps."""
    return _STEPS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _STEPS:
        terminalreporter.section("qscale: a training step over the plain one")
        terminalreporter.write_line("| width | quantizer | plain ms | times | plain MiB | times |")
        terminalreporter.write_line("|---|---|---|---|---|---|")
        for row in _STEPS:
            terminalreporter.write_line(row)
    if not _TIMINGS:
        return
    terminalreporter.section("qscale: ratios of calls taken in turns")
    described = machine.describe() | {"threads": terminalreporter.config.getoption("--threads")}
    lines = [*tables.machine_lines(described), "", tables.LEGEND, "", tables.header()]
    lines += [*map(tables.line, _TIMINGS), "", *tables.summary(_TIMINGS)]
    for line in lines:
        terminalreporter.write_line(line)
