"""Whether a disturbed study holds what an undisturbed one holds: same records, same bytes, nothing lost."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from faults.study import Place

#: Of a record, and columns of the table: what no two sessions share.
TIMED = {"wall_seconds", "tokens_per_second", "peak_memory_bytes", "host"}
#: Files that serve sessions, not results.
_OF_SESSIONS = re.compile(r"(^|/)lock$|^logs/|\.lock$")
#: What was found damaged and is kept beside.
_ASIDE = re.compile(r"\.corrupt-\d+(/|$)")
#: What a killed process was writing, under a name of its own, or had yet to clear away: never read again.
_UNFINISHED = re.compile(r"(^|/)\.|(^|/)eval_losses\.tmp\.npy$|^(runs|trunks)/\w+/checkpoint/step-\d+/")


def files(store: Path) -> dict[str, Path]:
    """The files of a store by their names in it, those of sessions left out."""
    found = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    return {name: path for name, path in sorted(found.items()) if not _OF_SESSIONS.search(name)}


def set_aside(store: Path) -> list[str]:
    """What was kept as damaged."""
    return [name for name in files(store) if _ASIDE.search(name)]


def unfinished(store: Path) -> list[str]:
    """Temporary files and rolling checkpoints that a killed process left."""
    return [name for name in files(store) if _UNFINISHED.search(name)]


def differences(store: Path, good: Path, place: Place, *, curves: bool = True) -> list[str]:
    """What is missing, too much or different; nothing where a study has come through.

    Args:
        store: The disturbed study.
        good: The undisturbed one.
        place: Where both lie.
        curves: Compare curves and diagnostics too, which a damaged end shortens.
    """
    here, there = files(store), files(good)
    found = [f"{name} is missing" for name in there if name not in here]
    found += [
        f"{name} is left over"
        for name in here
        if name not in there and not _ASIDE.search(name) and not _UNFINISHED.search(name)
    ]
    for name in here.keys() & there.keys():
        if name.endswith(".jsonl") and not curves:
            continue
        if _content(here[name]) != _content(there[name]):
            found.append(f"{name} differs")
    if not found and table(store, place) != table(good, place):
        found.append("the exported tables differ")
    return sorted(found)


def table(store: Path, place: Place, before: tuple[str, ...] = ()) -> list[dict[str, str]] | str:
    """The rows of ``qscale sweep export``, without times; what it said where it failed.

    ``before`` the command stands what changes who runs it.
    """
    out = place.folder / "tables" / "table.csv"
    out.parent.mkdir(exist_ok=True)
    out.parent.chmod(0o777)  # whoever runs it
    out.unlink(missing_ok=True)
    done = place.ask("export", store, "--baselines", "--out", out, before=before)
    if done.returncode:
        return done.stderr
    with out.open(newline="") as file:
        return [{key: row[key] for key in row if key not in TIMED} for row in csv.DictReader(file)]


def _content(path: Path) -> object:
    """The bytes; of what holds times, all but these, and the hash that covers them."""
    if path.name not in ("record.json", "state.json"):
        return path.read_bytes()
    try:
        data = json.loads(path.read_bytes())
        return {key: data[key] for key in data if key not in TIMED | {"seconds", "sha256"}}
    except (ValueError, TypeError):
        return path.read_bytes()
