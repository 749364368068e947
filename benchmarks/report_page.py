"""The page of a study of many runs: how large it is, how long it takes to make and to open.

    python benchmarks/report_page.py --runs 1000 --out FOLDER

makes a study without training (deltas of a law with noise, curves and diagnostics as long as real ones),
writes its page and opens it in headless Chromium, each time in a browser of its own. Seconds are from the
start of loading: until it can be read (first paint), until the explorer has its numbers, until every figure
in sight is drawn, and until all are. Without Chromium only size and time to make are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import large_store

from qscale import laws
from qscale.report import page
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.training import paths

sys.path.append(str(Path(__file__).parents[1] / "tests"))

_LINES = 160  # of one run's curve
_LAYERS = [f"model.layers.{i}.{kind}" for i in range(2) for kind in ("self_attn.q_proj", "mlp.down_proj")]


def make(folder: Path, runs: int) -> Store:
    """A study folder as :func:`large_store.make` makes it, with results that follow a law."""
    store = large_store.make(folder, runs, curves=False)
    true = laws.load("chen2025/w4a4")
    dice = random.Random(0)
    for job in jobs(store.runs()):
        place = store.folder(job)
        base = 1.2 + 40 / job.config.model.N**0.34 + 60 / job.config.tokens**0.3
        paths.curve(place).write_text(_curve(job.config.steps, job.config.tokens_per_step, base, dice))
        if job.kind == "trunk":
            continue
        record, _ = store.read(job.id)
        loss = base
        if job.baseline_id is not None:
            at = {"N": record.N, "D": record.D, "G": record.G}
            factor = {"w4a4": 1.0, "w4a16": 0.4, "w8a8": 0.05}[job.config.recipe.partition(":")[0]]
            delta = factor * true.predict(**at) * math.exp(dice.gauss(0, 0.04))
            loss += delta
            record = replace(record, delta=delta)
            paths.diagnostics(place).write_text(_layers(job.config.steps, dice))
        (place / "record.json").write_text(replace(record, loss=loss).dumps())
    return store


def _curve(steps: int, tokens: int, end: float, dice: random.Random) -> str:
    rows = []
    for i in range(1, _LINES + 1):
        step = max(1, steps * i // _LINES)
        loss = end + 3 * math.exp(-6 * i / _LINES) + dice.gauss(0, 0.03)
        row = {
            "step": step,
            "tokens": step * tokens,
            "loss": loss,
            "learning_rate": 0.003,
            "gradient_norm": 0.7,
        }
        rows.append(json.dumps(row))
    return "\n".join(rows) + "\n"


def _layers(step: int, dice: random.Random) -> str:
    rows = []
    for layer in _LAYERS:
        row = {
            "step": step,
            "layer": layer,
            "role": "qkv",
            "elements": 4096,
            "input_kurtosis": dice.uniform(3, 90),
        }
        row |= {"weight_relmse": 0.01, "input_relmse": 0.02, "input_peak": dice.uniform(8, 300)}
        rows.append(json.dumps(row))
    return "\n".join(rows) + "\n"


def opening(path: Path) -> dict[str, float]:
    """Seconds to the stages of opening a page, in a browser that has never seen it."""
    from browser import Browser

    with Browser() as browser:
        browser.open(path)
        paint = browser.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        marks = browser.run(
            "return performance.getEntriesByType('mark').map((mark) => [mark.name, mark.startTime])"
        )
        trouble = browser.messages()
    assert not trouble, trouble
    return {"readable": paint / 1000, **{name: at / 1000 for name, at in marks}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument(
        "--out", type=Path, help="where to make study and page; a study that is there is used again"
    )
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        if not (folder / "study" / "corpus.json").exists():
            make(folder / "study", options.runs)
        began = time.perf_counter()
        made = page.write(folder / "study", folder / "report.html")
        print(f"runs {made.runs}  laws {made.laws}  made in {time.perf_counter() - began:.1f} s")
        print(f"size {made.bytes / 1e6:.2f} MB")
        import browser

        if not (browser.CHROMIUM and browser.DRIVER):
            print(browser.MISSING)
            return
        found = [opening(made.path) for _ in range(options.times)]
        for stage in found[0]:
            seconds = sorted(one[stage] for one in found)
            print(
                f"{stage:<9} min {seconds[0]:.2f} s  median {statistics.median(seconds):.2f} s  "
                f"max {seconds[-1]:.2f} s"
            )


if __name__ == "__main__":
    main()
