"""Shared observations: tables drawn from a known law."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

TRUE = {"k": 0.1582, "gN": 0.2186, "gD": 0.0745, "gG": 0.7779}  # chen2025/w4a4


@pytest.fixture
def make_rows():
    """Rows of the QAT paper's own grid, with ladder and row noise (relative s.d.)."""

    def make(ladder_sd=0.0, row_sd=0.0, seeds=(0,), seed=0, se=None, **extra):
        rng = np.random.default_rng(seed)
        rows = []
        for n, s in product((74e6, 145e6, 297e6, 595e6), seeds):
            effect = ladder_sd * rng.standard_normal()
            for d, g in product((10e9, 20e9, 50e9, 100e9), (32, 64, 128, 256)):
                true = TRUE["k"] * d ** TRUE["gD"] * np.log2(g) ** TRUE["gG"] / n ** TRUE["gN"]
                delta = true * np.exp(effect + row_sd * rng.standard_normal())
                row = {"N": n, "D": d, "G": g, "delta": delta, "seed": s, **extra}
                rows.append(row if se is None else row | {"delta_se": se})
        return rows

    return make


@pytest.fixture
def make_joint_rows():
    """Losses of baselines and W4A4 runs; what a baseline is off by, its quantized runs are too."""

    def make(cell_sd, row_sd, seed=0):
        rng = np.random.default_rng(seed)
        rows = []
        for n, d in product((74e6, 145e6, 297e6, 595e6), (1e10, 2e10, 5e10, 1e11)):
            base = (400 / n**0.34 + 1000 / d**0.33 + 1.7) * np.exp(cell_sd * rng.standard_normal())
            for g in (None, 32, 64, 128):
                added = 0.0 if g is None else 0.16 * d**0.075 * np.log2(g) ** 0.78 / n**0.22
                loss = (base + added) * np.exp(row_sd * rng.standard_normal())
                method = "none" if g is None else "w4a4"
                rows.append({"N": n, "D": d, "G": g or 32, "method": method, "seed": 0, "loss": loss})
        return rows

    return make


@pytest.fixture
def shared() -> Path:
    """The folder of outside data beside the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder 'shared' with outside data is not beside the repository")
    return folder
