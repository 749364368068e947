"""Times the ops on a GPU against a copy of the same bytes and the peers that are installed.

    python benchmarks/gpu.py [--only int4:g32] [--sizes 1Mi,64Mi] [--rounds 50] [--no-compile] [--json]

Cases and peers are those of ``qscale bench``. A call is timed by CUDA events, in turns with the others of its
comparison, each time after something has been written that fills the L2 cache; medians are compared.
Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import median

import torch
from torch import Tensor

from qscale.kernels.backends import backends, use_backend
from qscale.timing.cases import Case, cells
from qscale.timing.peers import PEERS, Peer, compiled, quiet
from qscale.timing.sizes import parse_size

SIZES = "64Ki,1Mi,16Mi,64Mi"
_FLOOR, _OURS = "copy", "qscale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A call of a case: microseconds, and how it compares."""

    case: str
    call: str
    median_us: float | None = None
    share_of_copy: float | None = None  #: the bandwidth of the copy that it reaches
    times_qscale: float | None = None  #: of a peer
    error: str | None = None


def why_not() -> str | None:
    """Why nothing can be timed here."""
    cuda = next(backend for backend in backends() if backend.name == "cuda")
    return None if cuda.available else f"nothing to time: the CUDA kernels cannot run here: {cuda.detail}"


def measure(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median microseconds of each call, in turns."""
    flush = _flush()
    for call in calls.values():
        for _ in range(3):
            call()
    taken: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            flush()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            taken[name].append((start, end))
    torch.cuda.synchronize()
    return {name: median(1e3 * start.elapsed_time(end) for start, end in t) for name, t in taken.items()}


def _flush() -> Callable[[], object]:
    """Leaves nothing of a case in the L2 cache, and keeps the device busy while the next call is launched."""
    size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 128 * 2**20
    return torch.empty(2 * size, dtype=torch.uint8, device="cuda").zero_


def _dao(case: Case) -> Callable[[Tensor], Tensor] | None:
    """Powers of two only: other sizes it fills with zeros, which is no rotation."""
    block = case.block
    if block is None or case.spec is not None or block & (block - 1):
        return None
    transform = import_module("fast_hadamard_transform").hadamard_transform
    return lambda x: transform(x.reshape(-1, block), block**-0.5).reshape(x.shape)


GPU_PEERS = (*PEERS, Peer(name="fast_hadamard_transform", package="fast_hadamard_transform", function=_dao))


def timings(case: Case, rounds: int, compile_peers: bool) -> Iterator[Timing]:
    """The calls of qscale, then each peer in turns with the one that makes its own output."""
    calls: dict[str, Callable[[], object]] = {_FLOOR: case.copy, _OURS: case.new}
    if case.into is not None:
        calls |= {f"{_OURS} into": case.into}
    with use_backend("cuda"):
        found = measure(calls, rounds)
    floor = found[_FLOOR]
    for call, us in found.items():
        yield Timing(case=case.name, call=call, median_us=us, share_of_copy=floor / us)
    for peer in GPU_PEERS:
        if peer.missing() is not None:
            continue
        for call, wanted in ((peer.name, True), (f"{peer.name} compiled", compile_peers and peer.compiles)):
            if wanted:
                yield from _of_peer(case, peer, call, rounds)


def _of_peer(case: Case, peer: Peer, call: str, rounds: int) -> Iterator[Timing]:
    try:
        with quiet():
            function = peer.function(case)
            if function is None:
                return
            if call != peer.name:
                function, _ = compiled(function, case.x)
            run: Callable[[], object] = lambda: function(case.x)  # noqa: E731
            found = measure({_FLOOR: case.copy, _OURS: case.new, call: run}, rounds)
    except Exception as error:  # whatever the library raises is what there is to say of it
        yield Timing(
            case=case.name, call=call, error=f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        )
        return
    yield Timing(
        case=case.name,
        call=call,
        median_us=found[call],
        share_of_copy=found[_FLOOR] / found[call],
        times_qscale=found[call] / found[_OURS],
    )


def line(timing: Timing) -> str:
    """As text."""
    start = f"{timing.case:<42}{timing.call:<34}"
    if timing.error is not None:
        return f"{start}raised {timing.error}"
    ratio = "" if timing.times_qscale is None else f"{timing.times_qscale:.2f}"
    return f"{start}{timing.median_us:>10.1f}{timing.share_of_copy:>9.0%}{ratio:>10}"


def main() -> None:
    """Time every case, or those that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name has one of these in it, by commas")
    parser.add_argument("--sizes", default=SIZES, help=f"elements (default {SIZES})")
    parser.add_argument("--rounds", type=int, default=50, help="of each comparison (default 50)")
    parser.add_argument(
        "--no-compile", action="store_true", help="peers as they are, not through torch.compile"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each timing")
    asked = parser.parse_args()
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}, torch {torch.__version__}, CUDA {torch.version.cuda}", file=sys.stderr)
    if not asked.json:
        print(f"{'case':<42}{'call':<34}{'median us':>10}{'of copy':>9}{'x qscale':>10}")
    only = tuple(filter(None, asked.only.split(",")))
    for cell in cells(map(parse_size, asked.sizes.split(",")), only):
        for timing in timings(cell.case("cuda"), asked.rounds, not asked.no_compile):
            print(json.dumps(asdict(timing)) if asked.json else line(timing), flush=True)


if __name__ == "__main__":
    main()
