"""docs/sweeps.md lists every event of a study with its keys: held to the code, and to a real session."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweep.studies import write_text

import qscale

PACKAGE = Path(qscale.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
SOURCES = [
    *PACKAGE.glob("sweep/*.py"),
    *PACKAGE.glob("training/*.py"),
    PACKAGE / "cli" / "sweep.py",
    PACKAGE / "cli" / "_progress.py",
]
COMMON = {"event", "time", "worker"}
#: Between a worker and its executor alone.
INTERNAL = {"elsewhere"}


def documented():
    """Event to the keys it always has, and those it has at times."""
    table = TEXT.partition("## Events")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    words = [[set(re.findall(r"`(\w+)`", cell)) for cell in row] for row in rows]
    return {name.pop(): (always, at_times) for name, always, at_times in words}


def emitted():
    """Event and the keys that are written out with it, for every one in the code."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                keys = {
                    key.value: value
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant)
                }
                if isinstance(keys.get("event"), ast.Constant):
                    yield keys["event"].value, set(keys) - COMMON


def test_every_event_of_the_code_is_documented_and_no_other():
    assert {name for name, _ in emitted()} - INTERNAL == documented().keys()


def test_every_key_that_the_code_writes_out_is_documented():
    known = documented()
    for name, keys in emitted():
        if name not in INTERNAL:
            always, at_times = known[name]
            assert keys <= always | at_times, name


def test_the_check_would_find_an_event():
    found = dict(emitted())
    assert len(found) > 12 and {"step", "free"} <= found["annealing"]


@pytest.mark.parametrize("fails", [False, True])
def test_events_of_a_session_have_the_keys_that_are_documented(tmp_path, monkeypatch, fails):
    monkeypatch.setenv("QSCALE_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path / "text.txt", kilobytes=100)
    study = f"corpus: file:{tmp_path / 'text.txt'}\n" + (
        "sizes: [tiny-20k]\ntokens: [16384]\nrecipes: [w4a4]\ngroup_sizes: [32]\nmodes: [cooldown, ptq]\n"
        "training: {batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8}\n"
    )
    (tmp_path / "study.yaml").write_text(study)
    limits = ["--timeout", "0.01"] if fails else []
    command = [
        sys.executable,
        "-m",
        "qscale",
        "sweep",
        "run",
        "study.yaml",
        "--out",
        "s",
        "--json",
        "--workers",
        "1",
    ]
    session = subprocess.run(
        [*command, *limits], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert session.returncode == fails, session.stderr
    events = [json.loads(line) for line in session.stdout.splitlines()]
    names = {event["event"] for event in events}
    wanted = {"note", "estimate", "starting", "end"} | (
        {"retrying", "died"} if fails else {"worker", "started", "finished"}
    )
    assert wanted <= names
    known = documented()
    for event in events:
        always, at_times = known[event["event"]]
        assert always | {"time"} <= event.keys() <= always | at_times | COMMON, event
