"""The run of ``qscale bench``: case by case, the calls of qscale first, then each peer in turns with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from qscale.timing.cases import Case, Cell, tiny_calls
from qscale.timing.harness import Sample, measure, overhead
from qscale.timing.peers import PEERS, Peer, compiled, quiet

#: The calls of a case that qscale itself makes.
INTO, NEW = "into", "new"
_FLOOR = "copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One call of one case. A call that raised has ``error`` in place of the numbers."""

    case: str
    call: str  #: ``into``, ``new``, or a peer, ``compiled`` after its name where it is
    min_s: float | None = None
    median_s: float | None = None
    max_s: float | None = None
    gigabytes_per_s: float | None = None
    times_copy: float | None = None  #: medians; of qscale's calls
    times_qscale: float | None = None  #: of a peer: its median by that of ``new``, taken in turns with it
    compile_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Seconds of a call on 8 x 8 elements."""

    call: str
    seconds: float


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch, and with it the kernels, runs on this many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(
    cells: Sequence[Cell], *, seconds: float, peers: bool = True, compile_peers: bool = False
) -> Iterator[Timing]:
    """Every case; ``seconds`` is what each comparison takes, or the time of three rounds if that is more."""
    for cell in cells:
        case = cell.case()
        yield from own_timings(case, seconds)
        for peer in PEERS if peers else ():
            if peer.missing() is None:
                yield from peer_timings(case, peer, seconds, compile_peer=compile_peers)


def own_timings(case: Case, seconds: float) -> Iterator[Timing]:
    """Both calls of qscale in turns with the copy."""
    calls: dict[str, Callable[[], object]] = {_FLOOR: case.copy, NEW: case.new}
    if case.into is not None:
        calls |= {INTO: case.into}
    samples = measure(calls, seconds)
    floor = samples.pop(_FLOOR).median_s
    for call in (INTO, NEW):
        if call in samples:
            yield _timing(case, call, samples[call], times_copy=samples[call].median_s / floor)


def peer_timings(case: Case, peer: Peer, seconds: float, *, compile_peer: bool) -> Iterator[Timing]:
    """A peer's call as it is, and through ``torch.compile``; nothing where it has no such operation."""
    with quiet():
        for call, wanted in ((peer.name, True), (f"{peer.name} compiled", compile_peer and peer.compiles)):
            if not wanted:
                continue
            try:
                timing = _peer_timing(case, peer, call, seconds)
            except Exception as error:  # whatever the library raises is what there is to say of it
                timing = Timing(case=case.name, call=call, error=_first_line(error))
            if timing is not None:
                yield timing


def _peer_timing(case: Case, peer: Peer, call: str, seconds: float) -> Timing | None:
    function = peer.function(case)
    if function is None:
        return None
    compile_s = None
    if call != peer.name:
        function, compile_s = compiled(function, case.x)
    samples = measure({NEW: case.new, call: lambda: function(case.x)}, seconds)
    ratio = samples[call].median_s / samples[NEW].median_s
    return _timing(case, call, samples[call], times_qscale=ratio, compile_s=compile_s)


def _timing(
    case: Case,
    call: str,
    sample: Sample,
    times_copy: float | None = None,
    times_qscale: float | None = None,
    compile_s: float | None = None,
) -> Timing:
    return Timing(
        case=case.name,
        call=call,
        min_s=sample.min_s,
        median_s=sample.median_s,
        max_s=sample.max_s,
        gigabytes_per_s=case.bytes_moved / sample.median_s / 1e9,
        times_copy=times_copy,
        times_qscale=times_qscale,
        compile_s=compile_s,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def overheads() -> Iterator[Overhead]:
    """What a call costs beside its work."""
    for name, call in tiny_calls():
        yield Overhead(call=name, seconds=overhead(call))
