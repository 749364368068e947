"""Every case of ``qscale.timing`` under pytest-benchmark; ratios and bandwidth go to its ``extra_info``."""

from __future__ import annotations

from typing import Any

import pytest

from qscale.timing import suite
from qscale.timing.cases import Cell, cells, tiny_calls
from qscale.timing.peers import PEERS
from qscale.timing.sizes import parse_size


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        sizes = [parse_size(text) for text in metafunc.config.getoption("--sizes").split(",")]
        metafunc.parametrize("cell", cells(sizes), ids=lambda cell: cell.name)


def test_op(cell: Cell, benchmark: Any, timings: list[suite.Timing], request: pytest.FixtureRequest) -> None:
    """Times the call that writes into an output that is there, where the op has one; then the ratios."""
    options, case = request.config.option, cell.case()
    benchmark.group = cell.name.partition("/")[0]
    benchmark(case.into or case.new)
    if not benchmark.enabled:
        return
    found = list(suite.own_timings(case, options.seconds))
    for peer in () if options.no_peers else PEERS:
        if peer.missing() is None:
            found += suite.peer_timings(case, peer, options.seconds, compile_peer=options.compile_peers)
    timings += found
    benchmark.extra_info.update(_ratios(found))


def _ratios(found: list[suite.Timing]) -> dict[str, object]:
    info: dict[str, object] = {"GB/s": found[0].gigabytes_per_s}
    for timing in found:
        if timing.times_copy is not None:
            info[f"{timing.call} / copy"] = timing.times_copy
        else:
            info[f"{timing.call} / qscale"] = timing.times_qscale or f"raised {timing.error}"
    return info


@pytest.mark.parametrize("name", [name for name, _ in tiny_calls()])
def test_call_on_8_by_8(name: str, benchmark: Any) -> None:
    """What a call costs beside its work."""
    benchmark.group = "a call on 8 x 8 elements"
    benchmark(dict(tiny_calls())[name])
