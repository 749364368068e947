"""The files that take longest are first, so that all workers are busy to the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Those that compile, train or start processes, the longest first.
LONG = (
    "csrc/test_sanitized.py",
    "cuda_gate/test_gate.py",
    "cuda_emulator/test_emulated_ops.py",
    "cuda_emulator/test_fake_quant_kernels.py",
    "cuda_emulator/test_hadamard_kernels.py",
    "cuda_emulator/test_dialect_kernels.py",
    "cuda_emulator/test_emulator.py",
    "sweep/test_end_to_end.py",
    "laws/test_public_runs.py",
    "sweep/test_ray.py",
    "training/test_steps.py",
    "sweep/test_hostile.py",
    "laws/test_fit_function.py",
    "training/test_sharding.py",
    "sweep/test_faults.py",
    "documents/test_site.py",
    "documents/test_shell.py",
    "kernels/test_backends.py",
    "test_packaging.py",
)
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file alone: within one, tests stay as they are."""
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))
