"""What this machine has: cores, memory, cards. No torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
#: Of the product that is timed: OpenBLAS takes one thread up to here, whatever it was told. More threads
#: than free cores would wait for one another, a thousand times as long.
_WIDTH = 64
_PROBE = 0.03  # seconds


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_free() -> float:
    """Bytes that can be had without swapping: the system's, or what is left of the container's limit."""
    free = _system_free()
    with suppress(OSError, ValueError):
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            free = min(free, float(int(limit) - used + _reclaimable()))
    return max(0.0, free)


def _system_free() -> float:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))  # no better figure on this system


def _reclaimable() -> int:
    """Bytes of file pages in the container's use that it can drop."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))


def memory_of(pid: int) -> float:
    """Bytes that a process holds in memory; 0 where that cannot be known."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return float(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0.0


def cards() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; none without a driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card for card in named.split(",") if card]
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index in range(len(found.stdout.splitlines()))]


def disk_free(path: Path) -> float:
    """Bytes that may be written at a path, or below the nearest folder that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return float(shutil.disk_usage(path).free)


def product_speed() -> float:
    """FLOPs a second of small float32 matrix products on one thread, at best: other loads do not show."""
    import numpy as np

    left = np.linspace(-1, 1, _WIDTH * _WIDTH, dtype=np.float32).reshape(_WIDTH, _WIDTH)
    right, out, best = left.copy(), np.empty_like(left), float("inf")
    end = time.perf_counter() + _PROBE
    while (began := time.perf_counter()) < end or best == float("inf"):
        for _ in range(8):
            np.matmul(left, right, out=out)
        best = min(best, max(1e-9, time.perf_counter() - began))
    return 8 * 2 * _WIDTH**3 / best
