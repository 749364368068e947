"""A study folder of many finished runs, made without training, and what looking at it costs.

    python benchmarks/large_store.py --runs 10000 --out FOLDER

prints the seconds and the peak memory of `sweep status` and `sweep export` in processes of their own. Ids,
configurations and records are real; only the losses are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qscale.records import Record
from qscale.sweep.grid import Identity, Study
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.training import paths
from qscale.training.config import RunConfig

SHA = "ab" * 32
#: Runs of one seed: four sizes, five token counts, a baseline and nine recipes.
_OF_A_SEED = 4 * 5 * 10
_TEXT = """\
corpus: python
sizes: [tiny-20k, tiny-82k, tiny-164k, tiny-369k]
tokens: [0.82M, 1.64M, 3.28M, 6.55M, 13.1M]
recipes: [w4a4, w4a16, w8a8]
group_sizes: [16, 32, 64]
seeds: {seeds}
"""


def text(runs: int) -> str:
    """A study of ``runs`` runs, rounded up to whole seeds of 200."""
    return _TEXT.format(seeds=list(range(-(-runs // _OF_A_SEED))))


def make(path: Path, runs: int, *, curves: bool = True) -> Store:
    """A study folder in which every run is done, as training leaves it."""
    study = text(runs)
    store = Store.create(path, study)
    store.begin(dict.fromkeys(Study.parse(study).sources(), Identity(SHA)))
    dice = random.Random(0)
    losses = _npy([1.5] * store.runs()[0].eval_windows)
    for job in jobs(store.runs()):
        folder = store.folder(job)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(job.config.to_json(), indent=1) + "\n")
        if curves:
            (folder / "curve.jsonl").write_text(_curve(job.config.steps))
        if job.kind == "trunk":
            continue
        paths.eval_losses(folder).write_bytes(losses)
        # Not by the store: it would wait for the disk 10,000 times.
        (folder / "record.json").write_text(record(job.config, job.baseline_id, dice).dumps())
    return store


def record(config: RunConfig, baseline: str | None, dice: random.Random) -> Record:
    """A record with every field that a real one has."""
    delta = None if baseline is None else dice.uniform(0.005, 0.2)
    group = None if config.recipe is None else float(config.recipe.rpartition("g")[2])
    return Record(
        run_id=config.run_id,
        config=config.to_json(),
        mode=config.mode,
        N=config.model.N,
        N_total=config.model.N_total,
        D=config.tokens,
        epochs=config.tokens / 9e7,
        G=group,
        G_weight=group,
        G_input=group,
        loss=1.5 + (delta or 0.0),
        loss_se=0.01,
        bits_per_byte=2.17,
        eval_tokens=config.eval_windows * config.context,
        diverged=False,
        wall_seconds=dice.uniform(20, 400),
        tokens_per_second=dice.uniform(5e3, 5e4),
        peak_memory_bytes=700_000_000,
        versions={"torch": "2.13.0", "transformers": "5.0.0", "numpy": "2.3.4", "qscale": "0.1.0"},
        host={"machine": "x86_64", "device": "cpu", "threads": 1, "cpu_capability": "AVX512"},
        baseline_run_id=baseline,
        delta=delta,
        delta_se=None if delta is None else 0.001,
        relmse_weight=None if delta is None else 0.01,
        relmse_input=None if delta is None else 0.012,
    )


def _curve(steps: int) -> str:
    row = {"tokens": 1024, "loss": 2.5, "learning_rate": 0.003, "gradient_norm": 0.7}
    return "".join(json.dumps({"step": step, **row}) + "\n" for step in (1, steps // 2, steps))


def _npy(values: Sequence[float]) -> bytes:
    import io

    import numpy as np

    data = io.BytesIO()
    np.save(data, np.array(values))
    return data.getvalue()


def measure(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds of a ``qscale`` command and its peak resident memory in MB."""
    began = os.times().elapsed
    process = subprocess.Popen(
        [sys.executable, "-m", "qscale", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    return {
        "exit_code": process.returncode,
        "seconds": round(os.times().elapsed - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_megabytes": round(usage.ru_maxrss / 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="where to make the store; one that is there is used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary) / "study"
        if not (folder / "corpus.json").exists():
            make(folder, options.runs)
        commands: dict[str, list[str]] = {
            "status": ["status", str(folder)],
            "status --json": ["status", str(folder), "--json"],
            "export .csv": ["export", str(folder), "--out", f"{temporary}/rows.csv"],
            "export .parquet": ["export", str(folder), "--out", f"{temporary}/rows.parquet"],
        }
        for name, words in commands.items():
            found: list[dict[str, Any]] = [measure(["sweep", *words]) for _ in range(3)]
            print(f"{name:<16} {json.dumps(min(found, key=lambda each: each['seconds']))}")


if __name__ == "__main__":
    main()
