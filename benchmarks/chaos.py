"""Studies that are killed, torn, filled up and damaged at random, and whether they come out the same.

Each trial takes a small study, does one thing to it, gives the same command again until the study is
done, and compares every file with those of an undisturbed one. Trials of one seed are the same trials;
what they hit also depends on how fast the machine is. One trial after another, two workers at most:

    python benchmarks/chaos.py --seed 0 --trials 100
    python benchmarks/chaos.py --faults full-disk,io-error --trials 8
    python benchmarks/chaos.py --seed 0 --first 17 --trials 1 --keep     # one of them again
    python benchmarks/chaos.py --study benchmarks/sixty.yaml --kills 12  # kills alone, in a study of your own
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults import compare, shim  # noqa: E402 - below the line that makes it known
from faults.kinds import DIVERGING, KINDS, SkippedError, Undisturbed, try_kind, undisturbed  # noqa: E402
from faults.study import Place  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one trial ended."""

    number: int
    kind: str
    what: str
    sessions: int
    seconds: float
    said: str = ""
    problems: tuple[str, ...] = ()
    skipped: str = ""
    missed: bool = False
    set_aside: int = 0
    unfinished: int = 0

    @property
    def line(self) -> str:
        if self.skipped:
            return f"{self.number:>4}  {self.kind:<20} skipped: {self.skipped}"
        more = f"; and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        end = f"DIFFERS: {'; '.join(self.problems[:3])}{more}" if self.problems else "equal"
        said = f"; said: {_short(self.said)}" if self.said else ""
        return (
            f"{self.number:>4}  {self.kind:<20} {end}; {self.sessions} sessions, {self.seconds:.0f} s; "
            f"{self.what}{said}"
        )


class Chaos:
    """Trials in a folder, and the undisturbed studies that they are compared with: each made once."""

    def __init__(self, folder: Path, seed: int, kinds: Sequence[str], *, keep: bool = False) -> None:
        self.folder = folder
        self.seed = seed
        self.kinds = kinds
        self.keep = keep
        self._good: dict[str, tuple[Place, Undisturbed]] = {}

    def good(self, kind: str) -> tuple[Place, Undisturbed]:
        """The place of a kind's study, and the study undisturbed."""
        name, rate = ("diverging", DIVERGING) if kind == "diverging" else ("plain", 0.003)
        if name not in self._good:
            place = Place(self.folder / name, rate=rate)
            self._good[name] = place, undisturbed(place)
        return self._good[name]

    def trial(self, number: int) -> Result:
        """The trial of a number: of every kind once before any comes again."""
        dice = random.Random(f"{self.seed}:{number}")
        kind = self.kinds[number % len(self.kinds)]
        place, good = self.good(kind)
        store = place.folder / f"trial-{number}"
        began = time.monotonic()
        try:
            trial = try_kind(kind, place, good, store, dice)
        except SkippedError as why:
            return Result(number=number, kind=kind, what="", sessions=0, seconds=0.0, skipped=str(why))
        result = Result(
            number=number,
            kind=kind,
            what=", ".join(trial.done),
            sessions=len(trial.sessions),
            seconds=time.monotonic() - began,
            said=trial.said,
            problems=tuple(trial.problems),
            missed=trial.missed,
            set_aside=len(compare.set_aside(trial.store)),
            unfinished=len(compare.unfinished(trial.store)),
        )
        if not self.keep and not result.problems:
            for path in place.folder.glob(f"trial-{number}*"):
                shutil.rmtree(path, ignore_errors=True)
        return result


def kill_study(study: Path, folder: Path, kills: int, dice: random.Random) -> list[str]:
    """Run a study undisturbed and again with kills of workers and drivers; how the second one differs.

    Each kill comes at a random moment of the time that the study takes undisturbed, divided by the kills.
    """
    place = Place(folder)
    place.study.write_text(study.read_text())
    good, store = folder / "undisturbed", folder / "killed"
    began = time.monotonic()
    if place.run(good, workers=2).code:
        return ["the study fails undisturbed"]
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s", flush=True)
    sessions, driver = 1, place.start(store, workers=2)
    done: Counter[str] = Counter()
    while done.total() < kills:
        time.sleep(dice.uniform(0.0, 2 * whole / kills))
        if not driver.running():  # done, or given up after two kills of one job
            driver.wait()
            if len(list(store.glob("runs/*/record.json"))) == len(list(good.glob("runs/*/record.json"))):
                break
            sessions, driver = sessions + 1, place.start(store, workers=2)
        elif dice.random() < 0.4:
            done["driver"] += 1
            driver.signal(signal.SIGKILL)
            driver.wait()
            if left := driver.outlived():
                return [f"workers {left} outlived their driver"]
        elif workers := driver.workers():
            done["worker"] += 1
            with suppress(ProcessLookupError):
                os.kill(dice.choice(workers), signal.SIGKILL)
    driver.wait()
    while place.run(store, workers=2).code and sessions < 2 * kills:
        sessions += 1
    print(
        f"killed: {done['worker']} workers, {done['driver']} drivers, in {sessions + 1} sessions", flush=True
    )
    records = len(list(store.glob("runs/*/record.json")))
    print(f"{records} records; {len(compare.set_aside(store))} files set aside", flush=True)
    return compare.differences(store, good, place)


def table(results: Sequence[Result]) -> list[str]:
    """Faults by kind: how many ended equal, in how many sessions, and what was said most often."""
    lines = [
        "| fault | trials | hit | equal | sessions | set aside | left over | said |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(KINDS) | dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == kind]
        ran = [result for result in of_kind if not result.skipped]
        if not of_kind:
            continue
        if not ran:
            lines.append(f"| `{kind}` | 0 | -- | -- | -- | -- | -- | skipped: {of_kind[0].skipped} |")
            continue
        said = Counter(_general(result.said) for result in ran if result.said).most_common(1)
        hit, equal = (sum(not getattr(result, what) for result in ran) for what in ("missed", "problems"))
        sums = [
            sum(values)
            for values in zip(*((r.sessions, r.set_aside, r.unfinished) for r in ran), strict=True)
        ]
        lines.append(
            f"| `{kind}` | {len(ran)} | {hit} | {equal} | {sums[0]} | {sums[1]} | {sums[2]} | "
            f"{_short(said[0][0]) if said else 'nothing'} |"
        )
    return lines


def _short(text: str, most: int = 150) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= most else f"{text[:most]}..."


def _general(text: str) -> str:
    """A message without the places of this machine."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in text.split())


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where a study came out different."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument(
        "--faults", default=",".join(KINDS), help="kinds, with commas between them (default: all)"
    )
    parser.add_argument("--out", type=Path, help="write the table there too")
    parser.add_argument(
        "--keep", action="store_true", help="keep the stores; those that differ are kept always"
    )
    parser.add_argument("--study", type=Path, help="kill the workers and drivers of this study instead")
    parser.add_argument("--kills", type=int, default=12, help="of --study")
    options = parser.parse_args(arguments)
    kinds = options.faults.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"unknown faults {', '.join(unknown)}; known: {', '.join(KINDS)}")
    if shim.why_not:
        parser.error(f"faults cannot be made here: {shim.why_not}")
    folder = Path(tempfile.mkdtemp(prefix="qscale-chaos-"))
    if options.study:
        problems = kill_study(options.study, folder, options.kills, random.Random(options.seed))
        print("\n".join(problems) or "every file and the exported tables are equal")
        if problems:
            print(f"stores are kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return int(bool(problems))
    chaos = Chaos(folder, options.seed, kinds, keep=options.keep)
    results = []
    try:
        for number in range(options.first, options.first + options.trials):
            results.append(chaos.trial(number))
            print(results[-1].line, flush=True)
    except KeyboardInterrupt:
        print("stopped; the table is that of the trials so far", file=sys.stderr)
    bad = [result for result in results if result.problems]
    ran = [result for result in results if not result.skipped]
    lines = [*table(results), "", f"{len(ran) - len(bad)} of {len(ran)} trials equal, seed {options.seed}"]
    print("\n".join(["", *lines]))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if bad or options.keep:
        print(f"stores are kept in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
