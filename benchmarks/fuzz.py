"""Feeds mutations of valid files to everything that reads files, for as long as it is told to.

    python benchmarks/fuzz.py --seconds 180

Study files, records, configurations, curves, failures, notes of the corpus, losses, checkpoints and laws:
what comes out is a result or one of qscale's own errors, in one line and in good time. Anything else is
printed with the seed that makes it again. `tests/sweep/test_hostile.py` does the same for some seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import large_store
import numpy as np
from click.testing import CliRunner

from qscale import laws
from qscale.cli import main as cli
from qscale.errors import QScaleError, StoreError
from qscale.records import Record
from qscale.sweep.board import last_step
from qscale.sweep.grid import Source, Study
from qscale.sweep.jobs import jobs
from qscale.sweep.store import Store
from qscale.sweep.strangers import explain
from qscale.training.config import RunConfig
from qscale.training.losses import read_losses

#: A line that a reader could not do with in this time is a fault too.
_SECONDS = 30.0
STUDY = """\
corpus: python
tokenizer: bytes
sizes:
  - tiny-20k
  - {name: mine, hidden_size: 32, intermediate_size: 64, num_layers: 1, num_heads: 1, num_kv_heads: 1}
tokens: {tiny-20k: [0.82M, 1.64M], mine: [1e6]}
recipes: [w4a4, "w=int4:g32,a=int8:token"]
group_sizes: &spans [16, 32]
decompose: [operands]
modes: [cooldown, finetune]
finetune_fractions: [0.25]
seeds: [0, 1]
training: {eval_windows: 64, learning_rate: 3e-3, context: {mine: 64}}
workers: 2
"""
#: What stands in for a value of JSON.
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**30, -(10**400), 2**63, 0.0, -0.0, 0.5, 1e308, 1e-308),
    *("", "x", "\x00", "a\nb", "\x1b[31m", "../../../etc/passwd", "0123456789abcdef", "9" * 5000, "\ud800"),
    *([], {}, [[]], {"a": {}}, [1, "2"]),
)
_LITERALS = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"1" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe",
    b"\x00",
)


def odd(data: Any, dice: random.Random) -> Any:
    """JSON with something exchanged, added or taken away somewhere inside."""
    if isinstance(data, Mapping) and data and dice.random() < 0.9:
        copy: dict[Any, Any] = dict(data)
        key = dice.choice(list(copy))
        deed = dice.random()
        if deed < 0.1:
            del copy[key]
        elif deed < 0.2:
            copy[dice.choice(["x", "", "loss", "model", "\x00"])] = dice.choice(_ODD)
        else:
            copy[key] = odd(copy[key], dice)
        return copy
    if isinstance(data, list) and data and dice.random() < 0.7:
        copies = list(data)
        index = dice.randrange(len(copies))
        copies[index : index + 1] = dice.choice(
            [[], [odd(copies[index], dice)], copies[index : index + 1] * 2]
        )
        return copies
    return dice.choice(_ODD)


def torn(data: bytes, dice: random.Random) -> bytes:
    """Bytes with some of them exchanged, doubled, moved, lost, or replaced by worse."""
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.choice([0, 1, 1, 2, 4, 16, 200]))
        middle = dice.choice(
            [b"", data[start:end] * 2, dice.randbytes(end - start), dice.choice(_LITERALS),
             bytes([dice.choice(b"[]{}:,&*!|>-\"'#%@`?\n\t 0e.")])]
        )  # fmt: skip
        data = data[:start] + middle + data[end:]
    return data


def mutated(text: str, dice: random.Random) -> bytes:
    """JSON text with its values or its bytes changed."""
    if dice.random() < 0.6:
        data = json.loads(text)
        for _ in range(dice.randint(1, 3)):
            data = odd(data, dice)
        return json.dumps(data).encode()
    return torn(text.encode(), dice)


def text_of(data: bytes) -> str:
    """Bytes as a reader of files hands them on."""
    return data.decode("utf-8", errors="replace")


class Targets:
    """Everything that reads what a stranger may have written; each takes dice, and raises only our errors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = folder / "study"
        self.store = large_store.make(self.study, 200)
        runs = self.store.runs()
        self.run = runs[0]
        self.config = json.dumps(self.run.to_json(), indent=1)
        self.record = large_store.record(self.run, None, random.Random(0)).dumps()
        self.wanted = runs
        import torch  # so that the first checkpoint is not the one that waits for it

        self.threads = torch.get_num_threads()
        self.law = laws.load("chen2025/w4a4").dumps()
        self.all: dict[str, Callable[[random.Random], object]] = {
            name.removeprefix("read_"): getattr(self, name) for name in dir(self) if name.startswith("read_")
        }

    def read_study(self, dice: random.Random) -> object:
        text = text_of(torn(STUDY.encode(), dice))
        return len(Study.parse(text).runs("0" * 64))

    def read_study_values(self, dice: random.Random) -> object:
        import yaml

        data = odd(yaml.safe_load(STUDY), dice)
        return len(Study.parse(json.dumps(data)).runs("0" * 64))

    def read_record(self, dice: random.Random) -> object:
        record = Record.loads(text_of(mutated(self.record, dice)))
        explain([record.config], self.wanted[:40])
        return record

    def read_config(self, dice: random.Random) -> object:
        try:
            data = json.loads(mutated(self.config, dice))
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict):
            return None
        config = RunConfig.from_json(data)
        assert RunConfig.from_json(config.to_json()) == config
        return jobs([config, config.baseline()])

    def read_curve(self, dice: random.Random) -> object:
        from qscale.training.curve import Curve

        folder = self.folder / "curve"
        folder.mkdir(exist_ok=True)
        line = b'{"step": 10, "loss": 2.5, "tokens": 100}\n'
        (folder / "curve.jsonl").write_bytes(torn(line * dice.randint(1, 4), dice))
        found = last_step(folder)
        if found:
            _ = f"{found['step']} {found['loss']:.3f}"
        with Curve(folder / "curve.jsonl") as curve:
            return curve.last

    def read_failure(self, dice: random.Random) -> object:
        job = jobs([self.run])[-1]
        note = json.dumps({"job": "x", "error": "went wrong", "tail": "", "time": 0.0})
        path = self.folder / "failures" / "runs" / job.id / "failure.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(note, dice))
        (self.folder / "failures" / "study.yaml").write_text(large_store.text(1))
        said = Store(self.folder / "failures").failure(job)
        assert said is None or said.isprintable()
        return said

    def read_corpus(self, dice: random.Random) -> object:
        path = self.study / "corpus.json"
        before = path.read_text()
        note = json.loads(before)
        tokenizer = {"name": "bpe:512", "id": f"bpe:512@{'ab' * 8}", "vocab_size": 512}
        note["sources"].append({**note["sources"][0], "path": "/nowhere", "tokenizer": tokenizer})
        try:
            path.write_bytes(mutated(json.dumps(note), dice))
            store = Store(self.study)
            for source in (Source("python"), Source("python", "bpe:512")):
                store.corpus_name(source)
                store.tokenizer_text(source)
            return len(store.runs())
        finally:
            path.write_text(before)

    def read_losses(self, dice: random.Random) -> object:
        data = io.BytesIO()
        np.save(data, np.full(8, 1.5))
        path = self.folder / "eval_losses.npy"
        path.write_bytes(torn(data.getvalue(), dice))
        return read_losses(path)

    def read_checkpoint(self, dice: random.Random) -> object:
        import torch
        from safetensors.torch import save
        from torch import nn

        from qscale.training import checkpoint

        model = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        folder = self.folder / "checkpoints" / "step-00000004"
        folder.mkdir(parents=True, exist_ok=True)
        moments = {
            f"{n}.{k}": torch.zeros(2) for n in ("weight", "bias") for k in ("step", "exp_avg", "exp_avg_sq")
        }
        good = {
            "model.safetensors": save({name: p.detach() for name, p in model.named_parameters()}),
            "optimizer.safetensors": save(moments),
            "state.json": b'{"step": 4, "seconds": 1.5, "monitor": [4, 2.5, null]}',
        }
        bad = dice.choice(list(good))
        for name, data in good.items():
            changed = mutated(data.decode(), dice) if name.endswith("json") else torn(data, dice)
            (folder / name).write_bytes(changed if name == bad else data)
        position = checkpoint.restore(folder, model, optimizer)
        assert position.step == 4
        return position

    def read_law(self, dice: random.Random) -> object:
        path = self.folder / "law.json"
        path.write_bytes(mutated(self.law, dice))
        return laws.load(path)

    def read_commands(self, dice: random.Random) -> object:
        """A whole study with one bad file, through the commands."""
        name = dice.choice(["record.json", "record.json", "config.json", "curve.jsonl", "eval_losses.npy"])
        path = self.store.run_folder(dice.choice(self.wanted).run_id) / name
        before = path.read_bytes()
        words = dice.choice(
            [["status"], ["status", "--json"], ["export", "--out", str(self.folder / "x.csv")], ["gc"]]
        )
        try:
            changed = mutated(before.decode(), dice) if name.endswith("on") else torn(before, dice)
            path.write_bytes(changed)
            result = CliRunner().invoke(cli, ["sweep", words[0], str(self.study), *words[1:]])
        finally:
            path.write_bytes(before)
        if result.exit_code not in (0, 1, 2) or isinstance(result.exception, Exception):
            raise AssertionError(f"exit code {result.exit_code}") from result.exception
        assert "Traceback" not in result.output
        assert max(map(len, result.output.splitlines()), default=0) < 5000 or words == ["status", "--json"]
        return result.exit_code


def attempt(target: Callable[[random.Random], object], seed: int) -> str | None:
    """What went wrong with one input, if anything did."""
    began = time.monotonic()
    try:
        target(random.Random(seed))
    except QScaleError as error:
        text = str(error)
        if isinstance(error, StoreError) and "\n" in text:
            return f"an error of several lines: {text[:300]!r}"
    except Exception:
        return traceback.format_exc(limit=-6)[-3000:]
    if (took := time.monotonic() - began) > _SECONDS:
        return f"took {took:.1f} s"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one target, by name")
    options = parser.parse_args()
    faults: dict[str, str] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        targets = Targets(Path(folder)).all
        names = [options.only] if options.only else list(targets)
        until, seed = time.monotonic() + options.seconds, options.seed
        while time.monotonic() < until:
            for name in names:
                counts[name] = counts.get(name, 0) + 1
                fault = attempt(targets[name], seed)
                if fault is not None and (key := f"{name}: {fault.splitlines()[-1][:160]}") not in faults:
                    faults[key] = f"{name}, seed {seed}:\n{fault}"
                    print(faults[key], flush=True)
            seed += 1
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"{len(faults)} kinds of fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
