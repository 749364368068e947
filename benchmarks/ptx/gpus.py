"""What GPUs can hold and do: limits by architecture, rates of instructions, and three devices.

Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Rates: CUDA C++ Best
Practices Guide, "Throughput of Native Arithmetic Instructions". Both as remembered, not read again: a row
that a decision hangs on is worth a look. Devices: NVIDIA's data sheets and architecture papers; the boost
clock of the B200 is not in its data sheet and is taken from a database of graphics cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A multiprocessor."""

    threads: int
    blocks: int
    shared: int  #: bytes
    rates: Mapping[str, int]  #: results of a pipe in a clock
    registers: int = 65536
    #: Warps get registers, and blocks shared memory, in steps of these; a block takes 1 KiB more.
    register_step: int = 256
    shared_step: int = 128
    shared_of_block: int = 1024

    def occupancy(self, *, registers: int, threads: int, shared: int) -> float:
        """The share of the threads a multiprocessor can hold that it holds, with enough blocks to fill it.

        Args:
            registers: Of a thread.
            threads: Of a block.
            shared: Bytes of a block, static and dynamic.
        """
        warps = -(-threads // 32)
        of_warp = -(-registers * 32 // self.register_step) * self.register_step
        by_registers = self.registers // of_warp // warps
        of_block = -(-(shared + self.shared_of_block) // self.shared_step) * self.shared_step
        blocks = min(self.blocks, self.threads // (warps * 32), by_registers, self.shared // of_block)
        return blocks * warps * 32 / self.threads


def _rates(*, fma: int, fp64: int) -> dict[str, int]:
    # Integers, logic, comparisons and selections share a pipe; `xu` has reciprocals and conversions.
    return {"fma": fma, "alu": 64, "xu": 16, "fp64": fp64, "shuffle": 32, "shared": 32, "global": 32}


ARCHITECTURES = {
    "sm_80": Architecture(threads=2048, blocks=32, shared=164 * 1024, rates=_rates(fma=64, fp64=32)),
    "sm_90": Architecture(threads=2048, blocks=32, shared=228 * 1024, rates=_rates(fma=128, fp64=64)),
    "sm_100": Architecture(threads=2048, blocks=32, shared=228 * 1024, rates=_rates(fma=128, fp64=64)),
    "sm_120": Architecture(threads=1536, blocks=24, shared=100 * 1024, rates=_rates(fma=128, fp64=2)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device by its data sheet."""

    name: str
    arch: str
    processors: int
    boost_ghz: float
    gigabytes_per_s: float

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.arch]


GPUS = (
    Gpu(name="A100 80 GB SXM", arch="sm_80", processors=108, boost_ghz=1.41, gigabytes_per_s=2039),
    Gpu(name="H100 SXM", arch="sm_90", processors=132, boost_ghz=1.98, gigabytes_per_s=3350),
    Gpu(name="B200", arch="sm_100", processors=148, boost_ghz=1.965, gigabytes_per_s=8000),
)
