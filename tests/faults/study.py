"""A study that takes seconds, as processes: started, disturbed from outside, and waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from faults.shim import Fault
from sweep.studies import write_text

HERE = Path(__file__).resolve().parent
LONGEST = 240.0  # seconds of one session, on a busy machine; then it hangs

#: A trunk that two lengths leave, their baselines, two recipes, and the same two on from a finished run.
STUDY = """\
corpus: file:{text}
sizes: [{{hidden_size: 32, intermediate_size: 96, num_layers: 1, num_heads: 1, num_kv_heads: 1}}]
tokens: [16384]
recipes: [w4a4:g16, w4a16:g32]
modes: [cooldown, finetune]
finetune_fractions: [0.25]
training: {{batch_sequences: 2, context: 32, warmup_steps: 2, eval_windows: 8, learning_rate: {rate}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one ``qscale sweep run`` did."""

    code: int
    events: list[dict]
    remarks: str  #: what it said on stderr
    fired: str  #: the call that a fault hit; empty where none was asked for, or none was hit

    @property
    def said(self) -> str:
        """The first complaint in its words; empty where there is none."""
        for event in self.events:
            if event["event"] in ("died", "failed", "exit", "retrying") and event.get("error"):
                return str(event["error"])
        for event in self.events:
            if event["event"] == "note" and "damaged" in event["text"]:
                return str(event["text"])
        lines = [line for line in self.remarks.splitlines() if "error" in line.lower()]
        return lines[0] if lines and self.code else ""

    @property
    def traceback(self) -> bool:
        """Whether a user would have seen one."""
        return "Traceback (most recent call last)" in self.remarks


@dataclass
class Driver:
    """A running ``qscale sweep run``."""

    process: subprocess.Popen
    output: Path  #: of what follows: .events, .remarks, and the folder of marks
    _workers: set[int] = field(default_factory=set)

    @property
    def marks(self) -> Path:
        return self.output.with_suffix(".marks")

    def running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """The worker processes that it has started so far and that are alive."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _parent(int(entry.name)) == self.process.pid:
                self._workers.add(int(entry.name))
        return sorted(pid for pid in self._workers if _is_worker(pid))

    def signal(self, number: signal.Signals) -> None:
        if self.running():
            self.process.send_signal(number)

    def power_cut(self) -> None:
        """End everything at once; the workers may only be a moment late."""
        pids = self.workers()
        self.signal(signal.SIGKILL)
        for pid in {*pids, *self.workers()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> Session:
        """Its end.

        Raises:
            TimeoutError: It does not end; it has been ended.
        """
        try:
            code = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.power_cut()
            self.process.wait()
            raise TimeoutError(f"qscale sweep run has not ended after {LONGEST:.0f} s") from None
        events = []
        for line in self.output.with_suffix(".events").read_text(errors="replace").splitlines():
            with suppress(ValueError):  # torn by a kill
                events.append(json.loads(line))
        fired = self.marks / "fired"
        return Session(
            code=code,
            events=events,
            remarks=self.output.with_suffix(".remarks").read_text(errors="replace"),
            fired=fired.read_text().strip() if fired.exists() else "",
        )

    def outlived(self, seconds: float = 60.0) -> list[int]:
        """Workers that live on after their driver; they are ended."""
        end = time.monotonic() + seconds
        while (left := [pid for pid in self._workers if _is_worker(pid)]) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


class Place:
    """A folder with a text, a study of it, and whatever the sessions leave; its corpus cache is its own."""

    def __init__(self, folder: Path, *, rate: float = 0.003) -> None:
        self.folder = folder.resolve()
        self.text = self.folder / "text.txt"
        self.study = self.folder / "study.yaml"
        self.sessions = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.text, kilobytes=100)
        self.study.write_text(STUDY.format(text=self.text, rate=rate))

    def start(self, store: Path, *, fault: Fault | None = None, workers: int = 1) -> Driver:
        """``qscale sweep run`` of the study into ``store``, as it would be typed each time."""
        self.sessions += 1
        driver_output = self.folder / "sessions" / f"{self.sessions}"
        driver_output.parent.mkdir(exist_ok=True)
        marks = driver_output.with_suffix(".marks")
        marks.mkdir()
        environment = self.environment | (fault.environment(store, marks) if fault else {})
        command = ["run", self.study, "--out", store, "--workers", str(workers), "--json"]
        with (
            driver_output.with_suffix(".events").open("wb") as events,
            driver_output.with_suffix(".remarks").open("wb") as remarks,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "qscale", "sweep", *map(str, command)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=events,
                stderr=remarks,
            )
        return Driver(process, driver_output)

    def run(self, store: Path, *, fault: Fault | None = None, workers: int = 1) -> Session:
        """As :meth:`start`, to its end."""
        return self.start(store, fault=fault, workers=workers).wait()

    def ask(self, *words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        """Another command of ``qscale sweep``; ``before`` it, what changes who runs it."""
        return subprocess.run(
            [*before, sys.executable, "-m", "qscale", "sweep", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(HERE / "site"), os.environ.get("PYTHONPATH")]))
        own = {"QSCALE_CACHE": str(self.folder / "cache"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own}


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _is_worker(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"qscale.sweep.worker" in line  # of a zombie it is empty
