"""The faults, by kind: each disturbs a study once, and the same command is then given until it is done.

What comes out is compared with an undisturbed study. Moments, calls and bits are drawn from the trial's dice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from faults import compare
from faults.shim import Fault, Kind
from faults.study import Driver, Place, Session

_MOST_SESSIONS = 6
_NOBODY = "65534"


class SkippedError(Exception):
    """This machine cannot make such a fault; the message says why."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A study that nothing befell, and how long that took."""

    store: Path
    calls: tuple[str, ...]  #: that changed files, in order: who, call, name in the store
    startup: float  #: seconds to the first line of a curve
    work: float  #: seconds from there to the end

    def count(self, who: str, path: str, calls: tuple[str, ...]) -> int:
        """How many calls of a process of ``who`` a fault would count."""
        of = "driver" if who == "driver" else "worker:0"
        found = (line.split(" ", 2) for line in self.calls)
        return sum(
            me == of and (not calls or call in calls) and (not path or fnmatch(name, path))
            for me, call, name in found
        )


def undisturbed(place: Place) -> Undisturbed:
    """Run a study in peace, and note every call that changes a file."""
    store = place.folder / "undisturbed"
    began = time.monotonic()
    driver = place.start(store, fault=Fault(kind="log", who="all"))
    while not list(store.glob("trunks/*/curve.jsonl")) and driver.running():
        time.sleep(0.02)
    startup = time.monotonic() - began
    session = driver.wait()
    assert session.code == 0, f"the undisturbed study failed: {session.said or session.remarks}"
    calls = (driver.marks / "log").read_text().splitlines()
    return Undisturbed(store, tuple(calls), startup, time.monotonic() - began - startup)


@dataclass
class Trial:
    """One study that something befalls."""

    place: Place
    good: Undisturbed
    store: Path
    dice: random.Random
    workers: int = 1
    sessions: list[Session] = field(default_factory=list)
    done: list[str] = field(default_factory=list)  #: what befell it, in words
    problems: list[str] = field(default_factory=list)
    curves: bool = True  #: whether curves should come out the same
    missed: bool = False  #: the call or file that was to be hit did not come
    drivers: list[Driver] = field(default_factory=list)

    def start(self, fault: Fault | None = None, *, workers: int | None = None) -> Driver:
        self.drivers.append(self.place.start(self.store, fault=fault, workers=workers or self.workers))
        return self.drivers[-1]

    def end(self, driver: Driver) -> Session:
        self.sessions.append(driver.wait())
        if self.sessions[-1].traceback:
            self.problems.append("a traceback reached the user")
        return self.sessions[-1]

    def moment(
        self,
        driver: Driver,
        *,
        after: str = "trunks/*/curve.jsonl",
        startup: float = 0.2,
        share: float = 1.0,
    ) -> None:
        """Wait until a moment drawn from the length of the undisturbed study, or until the driver ends.

        With the probability ``startup`` it lies before the first line of a curve, else behind the first file
        ``after`` by up to ``share`` of the work: starting takes longer than working.
        """
        early = self.dice.random() < startup
        delay = self.dice.random() * (self.good.startup if early else share * self.good.work)
        while not early and driver.running() and not list(self.store.glob(after)):
            driver.workers()
            time.sleep(0.01)
        end = time.monotonic() + delay
        while driver.running() and time.monotonic() < end:
            driver.workers()
            time.sleep(0.01)

    def interrupted(self, *, after: str = "trunks/*/curve.jsonl") -> None:
        """One session, stopped on request or killed with all its workers, some time after a file is there."""
        driver = self.start()
        self.moment(driver, after=after, startup=0.0, share=0.5)
        if self.dice.random() < 0.5:
            driver.signal(signal.SIGINT)
        else:
            driver.power_cut()
        self.end(driver)
        self.gone(driver)

    def fault(
        self, kind: Kind, *, who: str = "workers", path: str = "", calls: tuple[str, ...] = ()
    ) -> Fault:
        """A fault at a call drawn from those of the undisturbed study."""
        count = self.good.count(who, path, calls)
        assert count, f"no call of {who} on {path or 'any path'} is known"
        at, seed = self.dice.randint(1, count), self.dice.randrange(1 << 30)
        return Fault(kind=kind, at=at, who=who, path=path, calls=calls, seed=seed)

    def hit(self, fault: Fault, *, workers: int | None = None) -> Session:
        """One session with a fault; says which call it hit."""
        driver = self.start(fault, workers=workers)
        while driver.running():
            driver.workers()
            time.sleep(0.05)
        session = self.end(driver)
        self.done.append(f"{fault.kind} at {session.fired or 'no call'}")
        self.missed = not session.fired
        (driver.marks / "released").touch()
        self.gone(driver)
        return session

    def gone(self, driver: Driver) -> None:
        """Workers end when their driver has."""
        if left := driver.outlived():
            self.problems.append(f"workers {left} outlived their driver")

    def finish(self) -> None:
        """The same command until it exits with 0, and the comparison."""
        for _ in range(_MOST_SESSIONS):
            if self.end(self.start()).code == 0:
                break
        else:
            self.problems.append(f"not done after {_MOST_SESSIONS} sessions: {self.sessions[-1].said}")
        for driver in self.drivers:
            self.gone(driver)
        self.problems += compare.differences(self.store, self.good.store, self.place, curves=self.curves)

    @property
    def said(self) -> str:
        """The first complaint of a session."""
        return next((session.said for session in self.sessions if session.said), "")


# Killed


def kill_worker(trial: Trial) -> None:
    """A worker is killed at a random moment."""
    trial.workers = 2
    driver = trial.start()
    trial.moment(driver)
    if pids := driver.workers():
        victim = trial.dice.choice(pids)
        with _already_gone():
            os.kill(victim, signal.SIGKILL)
        trial.done.append(f"SIGKILL to one of {len(pids)} workers")
    trial.end(driver)


def kill_driver(trial: Trial) -> None:
    """The driver is killed; its workers have to end by themselves, half the time beside the next driver."""
    driver = trial.start()
    trial.moment(driver)
    driver.workers()
    driver.signal(signal.SIGKILL)
    trial.end(driver)
    trial.done.append("SIGKILL to the driver")
    if trial.dice.random() < 0.5:
        trial.gone(driver)
    else:
        trial.done.append("the next one started at once")


def power_cut(trial: Trial) -> None:
    """Driver and workers are killed together; what the kernel has taken in is kept."""
    driver = trial.start()
    trial.moment(driver)
    driver.power_cut()
    trial.end(driver)
    trial.done.append("SIGKILL to all")


def kill_inside(trial: Trial, *, path: str, who: str = "workers") -> None:
    """A process is killed at a random call on some files: before it, after it, or with half of it written."""
    kind: Kind = trial.dice.choice(("kill", "torn"))
    calls = ("write",) if kind == "torn" else ()
    trial.hit(trial.fault(kind, path=path, who=who, calls=calls))


# The disk


def full_disk(trial: Trial) -> None:
    """From a random call on there is no space left for anybody, until the session has ended."""
    calls = ("create", "write", "mkdir", "truncate", "sync")
    session = trial.hit(
        trial.fault("full", who="all" if trial.dice.random() < 0.5 else "workers", calls=calls)
    )
    told = "disk is full" in session.said + session.remarks or "No space" in session.said + session.remarks
    if session.fired and session.code and not told:
        trial.problems.append(f"a full disk was not named: {session.said or session.remarks}")


def full_once(trial: Trial) -> None:
    """One call finds no space; the next ones do."""
    calls = ("create", "write", "mkdir", "truncate", "sync")
    trial.hit(trial.fault("full-once", calls=calls))


def io_error(trial: Trial) -> None:
    """One call fails with EIO."""
    calls = ("create", "open", "write", "sync", "truncate", "close", "rename", "mkdir")
    trial.hit(trial.fault("io", who=trial.dice.choice(("driver", "workers", "workers")), calls=calls))


def full_tmpfs(trial: Trial) -> None:
    """A file system of its own that is too small, and then large enough."""
    size = sum(path.stat().st_size for path in compare.files(trial.good.store).values())
    size += 2 * size  # rolling checkpoints, and whole pages
    with _tmpfs(trial.store, size):
        filler = trial.store / "filler"
        free = shutil.disk_usage(trial.store).free
        left = trial.dice.randrange(free // 2)
        # The store has to be there before: a folder that holds anything else is refused.
        shutil.copy(trial.place.study, trial.store / "study.yaml")
        filler.write_bytes(bytes(max(0, free - left - 8192)))
        session = trial.end(trial.start())
        trial.done.append(f"tmpfs with {left >> 10} KiB free")
        if session.code and "disk is full" not in session.said + session.remarks:
            trial.problems.append(f"a full disk was not named: {session.said or session.remarks}")
        filler.unlink()
        trial.finish()


# Damage between two sessions


def damage(trial: Trial, *, path: str, result: bool = False) -> None:
    """A file is cut short, or one bit of it turned, while nothing runs.

    Args:
        trial: The study.
        path: Which file, a pattern.
        result: It is a result: it has to come out right, and a damaged record be kept under another name.
            Other files may stay damaged where all that needs them is done.
    """
    trial.interrupted(after=path)
    found = sorted(trial.store.glob(path))
    if not found:
        trial.done.append(f"no {path} at that moment")
        trial.missed = True
        trial.finish()
        return
    victim = trial.dice.choice(found)
    data = victim.read_bytes()
    flipped = bool(data) and trial.dice.random() < 0.5
    if flipped:
        bit = trial.dice.randrange(8 * len(data))
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(bad)
        trial.done.append(f"bit {bit} of {victim.relative_to(trial.store)} turned")
    else:
        bad = bytearray(data[: trial.dice.randrange(max(1, len(data)))])
        victim.write_bytes(bad)
        trial.done.append(f"{victim.relative_to(trial.store)} cut to {len(bad)} of {len(data)} bytes")
    trial.curves = victim.suffix != ".jsonl"
    trial.finish()
    unnoticed = f"{victim.relative_to(trial.store)} differs"
    if unnoticed in trial.problems and not result and victim.read_bytes() == bytes(bad):
        trial.problems.remove(unnoticed)
        trial.done.append("stays so, for nothing reads it any more")
    there = [victim, *(trial.store / name for name in compare.set_aside(trial.store))]
    if victim.name == "record.json" and bytes(bad) not in [path.read_bytes() for path in there]:
        trial.problems.append("the damaged record was not kept")


# Otherwise


def two_drivers(trial: Trial) -> None:
    """The same command twice at once."""
    drivers = [trial.start()]
    if trial.dice.random() < 0.5:
        trial.moment(drivers[0])
    drivers.append(trial.start())
    for driver in drivers:
        session = trial.end(driver)
        trial.done.append(f"one of two drivers ended with {session.code}")


def clock_back(trial: Trial) -> None:
    """The wall clock goes back by an hour, for files too."""
    at = trial.dice.randint(1, 10)
    trial.hit(Fault(kind="clock", at=at, who="all" if trial.dice.random() < 0.5 else "workers"))


def copied(trial: Trial) -> None:
    """The store goes on somewhere else: a copy, or moved."""
    trial.interrupted()
    there = trial.store.with_name(f"{trial.store.name}-elsewhere")
    if trial.dice.random() < 0.5:
        trial.store.rename(there)
        trial.done.append("moved")
    else:
        shutil.copytree(trial.store, there, symlinks=True)
        before = _contents(trial.store)
        trial.done.append("copied")
    left, trial.store = trial.store, there
    trial.finish()
    if left.exists() and _contents(left) != before:
        trial.problems.append("the store that was copied has changed")


def read_only(trial: Trial) -> None:
    """Status and export answer where nothing may be written; run says so in a line."""
    trial.interrupted(after="runs/*/record.json")
    before, expected = _contents(trial.store), compare.table(trial.store, trial.place)
    with unwritable(trial.store) as words:
        trial.done.append("read-only")
        status = trial.place.ask("status", trial.store, "--json", before=words)
        run = trial.place.ask("run", trial.store, before=words)
        exported = compare.table(trial.store, trial.place, before=words)
    if status.returncode:
        trial.problems.append(f"status of a read-only store: {status.stderr.strip()}")
    elif len(json.loads(status.stdout)["jobs"]) != 7:
        trial.problems.append("status of a read-only store does not show all jobs")
    allowed = (0, 1, 2) if len(expected) == 6 else (1, 2)  # where all is done, nothing need be written
    if run.returncode not in allowed or "Traceback" in run.stderr:
        trial.problems.append(f"run of a read-only store: {run.returncode}: {run.stderr.strip()[-300:]}")
    else:
        lines = [line for line in run.stderr.splitlines() if "rror" in line] or run.stderr.splitlines()
        trial.done.append(f"run said: {lines[0] if lines else 'nothing'}")
    if exported != expected:
        trial.problems.append(f"export of a read-only store: {exported}")
    if _contents(trial.store) != before:
        trial.problems.append("a read-only store has changed")


def corpus_changed(trial: Trial) -> None:
    """Another text under the study is refused; with the old one it goes on."""
    trial.interrupted()
    text = trial.place.text.read_bytes()
    at = trial.dice.randrange(len(text))
    trial.place.text.write_bytes(text[:at] + b"more" + text[at:])
    try:
        session = trial.end(trial.start())
    finally:
        trial.place.text.write_bytes(text)
    trial.done.append("four bytes more in the corpus")
    if session.code == 0 or "has changed since this study began" not in session.remarks:
        trial.problems.append(f"a changed corpus was not refused: {session.code}, {session.remarks}")


#: Every kind of fault, in the order of the table.
KINDS: dict[str, Callable[[Trial], None]] = {
    "kill-worker": kill_worker,
    "kill-driver": kill_driver,
    "kill-all": power_cut,
    "kill-in-checkpoint": partial(kill_inside, path="*step-*"),
    "kill-in-record": partial(kill_inside, path="*record.json*"),
    "kill-in-curve": partial(kill_inside, path="*curve.jsonl"),
    "kill-in-any-call": partial(kill_inside, path=""),
    "kill-driver-in-call": partial(kill_inside, path="", who="driver"),
    "full-disk": full_disk,
    "full-once": full_once,
    "full-tmpfs": full_tmpfs,
    "io-error": io_error,
    "damage-checkpoint": partial(damage, path="*/*/checkpoint/step-*/*"),
    "damage-branch": partial(damage, path="trunks/*/branches/step-*/*"),
    "damage-weights": partial(damage, path="runs/*/final/model.safetensors"),
    "damage-losses": partial(damage, path="runs/*/eval_losses.npy", result=True),
    "damage-record": partial(damage, path="runs/*/record.json", result=True),
    "damage-curve": partial(damage, path="*/*/curve.jsonl"),
    "damage-config": partial(damage, path="*/*/config.json"),
    "two-drivers": two_drivers,
    "clock-back": clock_back,
    "copied": copied,
    "read-only": read_only,
    "corpus-changed": corpus_changed,
    "diverging": kill_worker,  # of a study that diverges
}
#: They finish the study themselves.
_FINISHED = {"full-tmpfs", "copied", *(name for name in KINDS if name.startswith("damage-"))}
#: The learning rate at which every run diverges.
DIVERGING = 1e3


def try_kind(name: str, place: Place, good: Undisturbed, store: Path, dice: random.Random) -> Trial:
    """Disturb a study in one way, let it be finished, and compare it.

    Args:
        name: One of ``KINDS``.
        place: Of the study; for ``diverging``, of one that diverges.
        good: The same study, undisturbed.
        store: Where it is to lie; nothing is there yet.
        dice: What is not fixed by the kind.

    Raises:
        SkippedError: This machine cannot make such a fault.
    """
    trial = Trial(place, good, store, dice)
    try:
        KINDS[name](trial)
        if name not in _FINISHED:
            trial.finish()
    except TimeoutError as error:
        trial.problems.append(str(error))
    return trial


def _contents(store: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in compare.files(store).items()}


@contextmanager
def _already_gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


@contextmanager
def _tmpfs(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        raise SkippedError("a tmpfs cannot be mounted here: that takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def unwritable(folder: Path) -> Iterator[tuple[str, ...]]:
    """What to put before a command that should find a folder read-only."""
    if os.geteuid() == 0:  # whom no mode keeps out
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        words = ("unshare", "--mount", "sh", "-c", script, str(folder))
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            yield words
            return
        words = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
        try:
            run = [*words, sys.executable, "-c", f"import os; os.listdir({str(folder)!r})"]
            can = subprocess.run(run, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            can = False
        if not can:
            raise SkippedError("root may write everywhere, and cannot be anybody else here")
        yield words
        return
    modes = [(path, path.stat().st_mode) for path in (folder, *folder.rglob("*"))]
    for path, mode in modes:
        path.chmod(mode & ~0o222)
    try:
        yield ()
    finally:
        for path, mode in modes:
            path.chmod(mode)
