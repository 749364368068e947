"""What a study's folder could do without, and deleting it. No torch.

Nothing that a run of the study measured is ever among it: record.json, eval_losses.npy, curves, config.json,
diagnostics and last weights stay, and so does every folder that a process works in.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qscale import bounded
from qscale.errors import StudyError
from qscale.sweep import files
from qscale.sweep.board import Board
from qscale.sweep.jobs import Job
from qscale.training import paths

_CORRUPT = re.compile(r".+\.corrupt-[0-9]+")
#: A process on another machine has no number here: what it writes is young.
_YOUNG = 600.0


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder that could go."""

    path: Path
    size: int  #: bytes, of all files below
    why: str
    folder: Path | None  #: whose lock keeps it, that of a run or a trunk


def find(board: Board, *, strangers: bool = False, corrupt: bool = False) -> Iterator[Item]:
    """What could be deleted, with its size and the reason; changes nothing.

    Folders that a process works in, symbolic links and whatever is not ours are passed over.

    Args:
        board: The study's.
        strangers: Also the folders of runs and trunks that the study does not ask for.
        corrupt: Also records and checkpoints that were set aside as damaged.

    Raises:
        StudyError: ``strangers`` of a study that has no runs here, so that all would be strange.
    """
    if strangers and not board.runs:
        raise StudyError(
            f"{board.store.path}: the study has no runs here (it never began, or with another corpus), "
            "so every folder would be strange: leave --strangers out"
        )
    states = board.look()
    for run, folder in _folders(board, "runs"):
        if run not in board.runs:
            if strangers:
                yield Item(folder, _size(folder), "a run that does not belong to the study", folder)
            continue
        if states[run] == "done":
            yield from _whole(paths.checkpoints(folder), "checkpoints of a finished run", folder)
        yield from _leftovers(folder, corrupt=corrupt, deep=states[run] != "done")
    for trunk, folder in _folders(board, "trunks"):
        if trunk not in board.trunks:
            if strangers:
                yield Item(folder, _size(folder), "a trunk that no run of the study leaves", folder)
            continue
        yield from _of_trunk(board, board.trunks[trunk], folder, states, corrupt=corrupt)
    for place in (board.store.path, board.store.path / "tokenizers"):
        yield from _temporary(place, None)


def _of_trunk(
    board: Board, trunk: Job, folder: Path, states: Mapping[str, str], *, corrupt: bool
) -> Iterator[Item]:
    """Of a trunk that every undone run has its checkpoint of, the others; of one that goes on, nothing."""
    undone = {
        job.steps[0] for job in board.runs.values() if job.trunk_id == trunk.id and states[job.id] != "done"
    }
    done = states[trunk.id] == "done"
    if done:
        branches = paths.branch_checkpoint(folder, 0).parent
        if not undone:
            yield from _whole(branches, "checkpoints of a trunk whose branches are all done", folder)
        else:
            kept = {paths.branch_checkpoint(folder, step).name for step in undone}
            for entry in _entries(branches):
                if entry.name.startswith("step-") and entry.name not in kept:
                    yield from _whole(Path(entry.path), "a checkpoint whose branches are all done", folder)
        yield from _whole(paths.checkpoints(folder), "checkpoints of a finished trunk", folder)
    yield from _leftovers(folder, corrupt=corrupt, deep=not done or bool(undone))


def _leftovers(folder: Path, *, corrupt: bool, deep: bool) -> Iterator[Item]:
    """Temporary files of writers that died, and what was set aside."""
    if files.is_locked(folder):
        return
    places = [folder, paths.final_weights(folder)]
    if deep:  # else they go as a whole
        places += [paths.checkpoints(folder), paths.branch_checkpoint(folder, 0).parent]
    for place in places:
        yield from _temporary(place, folder)
        for entry in _entries(place) if corrupt else ():
            if _CORRUPT.fullmatch(entry.name):
                yield Item(Path(entry.path), _size(Path(entry.path)), "set aside as damaged", folder)


def _temporary(place: Path, folder: Path | None) -> Iterator[Item]:
    for entry in _entries(place):
        match = paths.TEMPORARY.fullmatch(entry.name)
        if match is None or _is_alive(match[1]):
            continue
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _YOUNG:
            yield Item(Path(entry.path), _size(Path(entry.path)), "unfinished, its writer is gone", folder)


def _is_alive(process: str | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _whole(path: Path, why: str, folder: Path) -> Iterator[Item]:
    if path.is_dir() and not path.is_symlink() and not files.is_locked(folder):
        yield Item(path, _size(path), why, folder)


def _folders(board: Board, kind: str) -> Iterator[tuple[str, Path]]:
    """The folders of runs or trunks that nobody works in; none that lies elsewhere by a link."""
    top = board.store.path / kind
    if top.is_symlink():
        board.store.say(f"{top} is a link to another place: nothing in it is deleted from here")
        return
    for entry in sorted(_entries(top), key=lambda entry: entry.name):
        if bounded.is_id(entry.name) and entry.is_dir(follow_symlinks=False):
            path = Path(entry.path)
            if not files.is_locked(path):
                yield entry.name, path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, links left out."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise files.store_error("read", folder, error) from error


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        _size(Path(entry.path)) if entry.is_dir() else entry.stat(follow_symlinks=False).st_size
        for entry in _entries(path)
    )


def delete(items: Sequence[Item]) -> list[Item]:
    """Delete what :func:`find` found, each under its folder's lock; returns what is gone.

    What another process has begun to work on meanwhile stays.

    Raises:
        StoreError: The disk cannot be written.
    """
    gone = []
    for item in items:
        if item.folder is None:
            _remove(item.path)
        elif not item.folder.is_dir():
            continue
        else:
            with files.lock(item.folder) as held:
                if not held:
                    continue
                _remove(item.path)
        gone.append(item)
    return gone


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # somebody was faster
    except OSError as error:
        raise files.store_error("delete", path, error) from error
