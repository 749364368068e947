"""What a timing was taken on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

from qscale.errors import BackendError
from qscale.kernels.backends import cpu_isa
from qscale.timing.peers import PEERS


def describe() -> dict[str, object]:
    """Processor, cores, threads, instruction set, and versions; of a peer that is absent, the reason."""
    packages = {peer.package: peer for peer in PEERS if peer.package != "torch"}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": _kernels(),
        "peers": {name: peer.missing() or peer.version() for name, peer in packages.items()},
    }


def _kernels() -> str:
    try:
        return cpu_isa()
    except BackendError as error:
        return f"plain torch ({error})"


def _processor() -> str:
    """The model name that Linux reports; elsewhere, the architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
