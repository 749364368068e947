"""What this machine has: cores, memory, cards. No torch."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


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
