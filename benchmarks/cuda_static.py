"""What the CUDA kernels should reach, by their PTX alone: a table for benchmarks/README.md. No GPU is needed.

    python benchmarks/cuda_static.py [--json] [--dtype bfloat16] [--architectures "80-real;90-real;100-real"]

Builds the library, lets it launch the cases of ``ptx/launches.cpp`` on nothing, and follows one thread of
each launch through the PTX. README.md says how the figures are to be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ptx import build
from ptx.cost import total
from ptx.gpus import ARCHITECTURES, GPUS, Gpu
from ptx.listing import Kernel, demangle
from ptx.walk import Launch, Walk

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
ELEMENTS = 16384 * 4096
#: The regions of ptx/launches.cpp: tensors, and what else is read.
_X, _Y, _SCALES, _GRAD, _GRAD_X, _PARTS, _CODES = 1, 2, 3, 4, 5, 7, 8
_TENSORS = (_X, _Y, _GRAD, _GRAD_X)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One device: what bounds a case, and how much of the peak bandwidth it can then reach."""

    gpu: str
    bound: str
    share: float  #: of the bytes that any implementation must move, over the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case in one dtype; of several launches, the last is the one described."""

    case: str
    dtype: str
    kernel: str
    registers: dict[str, int]  #: of a thread, by architecture
    occupancy: dict[str, float]
    shared: int  #: bytes of a block
    bytes_moved: float  #: of an element, in all launches
    bytes_least: float
    in_flight: int  #: bytes that a thread has asked for before it waits
    slots: float  #: issued, of an element, in all launches
    work: dict[str, float]  #: of an element, by pipe
    predictions: tuple[Prediction, ...]


class Tensors:
    """Memory of a launch: ordinary numbers in tensors, and how many bytes of those were read."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.size = dtype, SIZES[dtype]
        self.read = 0

    def __call__(self, at: int, size: int) -> int:
        region = at >> 40
        if region in _TENSORS:
            self.read += size
            return sum(self._element(at + i) << (8 * i) for i in range(0, size, self.size))
        if region == _CODES:
            self.read += size
            return self._bits(at) & ((1 << 8 * size) - 1)
        if region == _PARTS:
            return 0x40400000 if at & 4 else 0x3FBFFFFF  # 3 and -3 in the order of integers
        return 0x3D800000 if region == _SCALES else 0

    @staticmethod
    def _bits(at: int) -> int:
        return int.from_bytes(hashlib.blake2b(at.to_bytes(8, "little"), digest_size=8).digest(), "little")

    def _element(self, at: int) -> int:
        value = (self._bits(at) / 2**64 - 0.5) * 4
        if self.dtype == "float16":
            return int.from_bytes(struct.pack("<e", value), "little")
        bits = int.from_bytes(struct.pack("<f", value), "little")
        return bits >> 16 if self.dtype == "bfloat16" else bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """One launch, and what all its threads do together for an element."""

    kernel: Kernel
    launch: Launch
    slots: float
    work: dict[str, float]
    bytes_moved: float
    in_flight: int


def follow(kernel: Kernel, launch: Launch, dtype: str) -> Followed:
    """A thread in the middle of a launch."""
    tensors = Tensors(dtype)
    block = (launch.grid[0] // 2, 0, 0)
    walk = Walk(kernel=kernel, launch=launch, load=tensors, block=block)
    slots, work = total(walk.run())
    written = sum(size for at, size in walk.memory if at >> 40 in _TENSORS)
    threads = launch.grid[0] * launch.block[0] * launch.block[1] / ELEMENTS
    return Followed(
        kernel=kernel,
        launch=launch,
        slots=slots * threads,
        work={pipe: count * threads for pipe, count in sorted(work.items())},
        bytes_moved=(tensors.read + written) * threads,
        in_flight=walk.most_waited,
    )


def predict(launches: Sequence[Followed], least: float, gpu: Gpu) -> Prediction:
    """Launches one after the other, each as long as the busiest of memory, issue and pipes."""
    seconds, longest, bound = 0.0, 0.0, ""
    for followed in launches:
        clocks = {"issue": followed.slots / 128}
        clocks |= {pipe: count / gpu.architecture.rates[pipe] for pipe, count in followed.work.items()}
        per_clock = gpu.processors * gpu.boost_ghz * 1e9
        times = {name: count / per_clock for name, count in clocks.items()}
        times["memory"] = followed.bytes_moved / (gpu.gigabytes_per_s * 1e9)
        name = max(times, key=lambda name: times[name])
        seconds += times[name]
        if times[name] > longest:
            longest, bound = times[name], name
    return Prediction(gpu=gpu.name, bound=bound, share=least / (gpu.gigabytes_per_s * 1e9) / seconds)


def recorded(library: build.Library, arch: str) -> Iterator[tuple[str, Kernel, Launch]]:
    """What the library launches for each case."""
    kernels = {c.kernel.name: c.kernel for c in library.compiled if c.arch == arch}
    demangle(list(kernels.values()))
    sizes = [
        f"{name} {len(kernel.parameters)} {' '.join(str(size) for _, size in kernel.parameters)}"
        for name, kernel in kernels.items()
    ]
    source = Path(__file__).parent / "ptx" / "launches.cpp"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "launches"
        objects = sorted(library.folder.glob("*.cu.o"))
        command = [str(build.nvcc()), "-cudart=none", "-std=c++17", f"-I{build.CSRC}"]
        command += [source, *objects, "-o", program]
        subprocess.run(command, check=True)
        done = subprocess.run([program], input="\n".join(sizes), capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        case, name, grid, block, shared, *arguments = line.split(" ")
        launch = Launch(
            grid=_three(grid),
            block=_three(block),
            shared=int(shared),
            arguments=[bytes.fromhex(argument) for argument in arguments],
        )
        yield case, kernels[name], launch


def _three(text: str) -> tuple[int, int, int]:
    x, y, z = map(int, text.split(","))
    return x, y, z


def rows(library: build.Library) -> list[Row]:
    """Every case in every dtype."""
    usages = {(c.arch, c.kernel.name): c.usage for c in library.compiled}
    archs = sorted({arch for arch, _ in usages}, key=lambda arch: int(arch.removeprefix("sm_")))
    cases: dict[str, list[Followed]] = {}
    for case, kernel, launch in recorded(library, "sm_90" if "sm_90" in archs else archs[0]):
        cases.setdefault(case, []).append(follow(kernel, launch, case.rpartition("/")[2]))
    made = []
    for case, launches in cases.items():
        name, _, dtype = case.rpartition("/")
        last = max(launches, key=lambda followed: followed.slots)
        static = {
            arch: usages[arch, last.kernel.name] for arch in archs if (arch, last.kernel.name) in usages
        }
        least = least_bytes(name, SIZES[dtype])
        shared = last.launch.shared + max(usage.shared for usage in static.values())
        threads = last.launch.block[0] * last.launch.block[1]
        made.append(
            Row(
                case=name,
                dtype=dtype,
                kernel=last.kernel.demangled,
                registers={arch: usage.registers for arch, usage in static.items()},
                occupancy={
                    arch: ARCHITECTURES[arch].occupancy(
                        registers=usage.registers, threads=threads, shared=shared
                    )
                    for arch, usage in static.items()
                },
                shared=shared,
                bytes_moved=sum(followed.bytes_moved for followed in launches),
                bytes_least=least,
                in_flight=last.in_flight,
                slots=sum(followed.slots for followed in launches),
                work={
                    pipe: sum(followed.work.get(pipe, 0.0) for followed in launches)
                    for pipe in sorted({pipe for followed in launches for pipe in followed.work})
                },
                predictions=tuple(predict(launches, least, gpu) for gpu in GPUS),
            )
        )
    return made


def least_bytes(case: str, size: int) -> float:
    """What any implementation must read and write of an element of so many bytes."""
    if case.startswith(("codes/", "dequantize/")):
        return size + (1.0 if "8" in case.partition("/")[2].partition(":")[0] else 0.5)
    return (3.0 if case.startswith("gradient/") else 2.0) * size


def machine_code_ratio(library: build.Library) -> float | None:
    """Instructions of the machine code of all kernels, over what ``ptx.cost`` makes of their PTX."""
    if shutil.which("readelf") is None:
        return None
    weighed = sum(total(_counted(c.kernel.operations))[0] for c in library.compiled)
    machine = 0
    for path in library.folder.glob("*.cubin"):
        listing = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
        sizes = re.findall(r"\] \.text\.\S+\s+PROGBITS\s+\w+\s+\w+\s+(\w+)", listing)
        machine += sum(int(size, 16) // 16 for size in sizes)
    return machine / weighed


def _counted(operations: Sequence[str]) -> dict[str, int]:
    return {op: operations.count(op) for op in set(operations)}


def markdown(found: Sequence[Row]) -> str:
    """A table, one line a row, in the order of the cases."""
    archs = sorted(
        {arch for row in found for arch in row.registers}, key=lambda a: int(a.removeprefix("sm_"))
    )
    numbers = ", ".join(arch.removeprefix("sm_") for arch in archs)
    heads = ["case", "kernel", f"registers {numbers}", f"occupancy {numbers}", "shared", "bytes", "slots"]
    heads += [gpu.name for gpu in GPUS]
    lines = [heads, ["---"] * len(heads)]
    for row in found:
        cells = [f"`{row.case}/{row.dtype}`", f"`{re.sub(r'<.*', '', row.kernel)}`"]
        cells += [" ".join(str(row.registers[a]) for a in archs if a in row.registers)]
        cells += [" ".join(f"{row.occupancy[a]:.0%}" for a in archs if a in row.occupancy), str(row.shared)]
        cells += [f"{row.bytes_moved:.1f} of {row.bytes_least:.0f}", f"{row.slots:.1f}"]
        cells += [f"{p.share:.0%} {p.bound}" for p in row.predictions]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    parser.add_argument("--dtype", action="append", choices=SIZES, help="of the table (default: all)")
    parser.add_argument("--architectures", default=build.DEFAULT, help="as CMake takes them")
    asked = parser.parse_args()
    library = build.build(asked.architectures)
    found = [row for row in rows(library) if not asked.dtype or row.dtype in asked.dtype]
    if asked.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    print("**Predicted, not measured.**\n")
    print(markdown(found))
    if (ratio := machine_code_ratio(library)) is not None:
        print(f"\nMachine code of all kernels: {ratio:.2f} instructions for each slot counted in their PTX.")


if __name__ == "__main__":
    main()
