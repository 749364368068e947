"""A real study in worker processes: interrupted, killed, resumed, and the same to the byte."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from sweep.studies import write_text

from qscale.data import corpus as corpora
from qscale.sweep.begin import begin
from qscale.sweep.store import Store, quiet
from qscale.sweep.table import observations
from qscale.sweep.worker import work
from qscale.training.how import How

#: The trunks last long enough that a signal on the first progress event finds them unfinished.
STUDY = """\
corpus: file:{path}
sizes: [tiny-20k]
tokens: [16k, 32k]
recipes: [w4a4:g32]
modes: [cooldown, ptq]
seeds: [0, 1]
training: {{batch_sequences: 2, context: 32, warmup_steps: 2, cooldown_fraction: 0.1, eval_windows: 8}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study and its corpus; the corpus cache is its own."""
    folder = tmp_path_factory.mktemp("end-to-end")
    write_text(folder / "text.txt")
    (folder / "study.yaml").write_text(STUDY.format(path=folder / "text.txt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSCALE_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def undisturbed(place):
    """The same study in this process, from beginning to end."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        store = Store.create(place / "undisturbed", (place / "study.yaml").read_text())
        board, corpus = begin(store, quiet)
        work(board, corpus, How(emit=quiet))
    finally:
        torch.set_num_threads(threads)
    return place / "undisturbed"


def drive(place, on_event=lambda *_: None, retries=0):
    """``qscale sweep run`` as a process with two workers; returns its exit code, events and remarks."""
    command = [sys.executable, "-m", "qscale", "sweep", "run", "study.yaml", "--out", "study"]
    command += ["--workers", "2", "--json", "--retries", str(retries)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=place, text=True, **pipes) as driver:
        events = []
        for line in driver.stdout:
            events.append(json.loads(line))
            on_event(driver, events[-1])
        remarks = driver.stderr.read()
    return SimpleNamespace(code=driver.returncode, events=events, remarks=remarks)


class Once:
    """Calls an action with the driver and the worker's process id, at the first event of a name."""

    def __init__(self, name, action):
        self.name = name
        self.action = action
        self.pids = {}
        self.event = None

    def __call__(self, driver, event):
        if event["event"] == "worker":
            self.pids[event["worker"]] = event["pid"]
        if event["event"] == self.name and self.event is None:
            self.event = event
            self.action(driver, self.pids[event["worker"]])


@pytest.fixture(scope="module")
def history(place):
    """One study: interrupted, then a worker of it killed, then left in peace, then run once more."""
    interrupt = Once("step", lambda driver, _: driver.send_signal(signal.SIGINT))
    kill = Once("started", lambda _, pid: os.kill(pid, signal.SIGKILL))
    return SimpleNamespace(
        interrupted=drive(place, interrupt),
        killed=drive(place, kill),
        survived=drive(place, Once("started", lambda _, pid: os.kill(pid, signal.SIGKILL)), retries=1),
        finished=drive(place),
        again=drive(place),
        victim=kill.event,
    )


def names(session, event):
    return [e for e in session.events if e["event"] == event]


def test_ctrl_c_once_stops_with_checkpoints_and_exit_code_130(history, place):
    session = history.interrupted
    assert session.code == 130, session
    assert names(session, "stopping") and names(session, "stopped") and not names(session, "died")
    assert names(session, "end")[0]["stopped"]
    assert "Traceback" not in session.remarks


def test_a_killed_worker_is_reported_with_its_job_and_the_others_go_on(history):
    session = history.killed
    assert session.code == 1, session
    (died,) = names(session, "died")
    assert died["id"] == history.victim["id"]
    assert "SIGKILL" in died["error"]
    (end,) = names(session, "end")
    assert (end["failed"], end["died"]) == (1, 0)


def test_a_killed_worker_is_replaced_and_its_job_tried_again(history):
    session = history.survived
    assert session.code == 0, session
    (again,) = names(session, "retrying")
    assert "SIGKILL" in again["error"]
    assert names(session, "end")[0]["done"] == 12
    assert max(event["worker"] for event in names(session, "worker")) == 1, "never more than two"


def test_running_again_finishes_the_study(history):
    assert history.finished.code == 0, history.finished
    assert names(history.finished, "end")[0]["done"] == 12


def test_running_a_finished_study_starts_nothing(history):
    assert history.again.code == 0
    assert [event["event"] for event in history.again.events] == ["note", "end"]
    assert history.again.events[0]["text"] == "12 of 12 runs already done"
    assert names(history.survived, "starting")[0]["workers"] >= 1


def test_interrupted_and_undisturbed_studies_have_the_same_bytes(history, undisturbed, place):
    losses = {path.parent.name: path for path in (place / "study" / "runs").glob("*/eval_losses.npy")}
    assert len(losses) == 12
    for run_id, path in losses.items():
        assert path.read_bytes() == (undisturbed / "runs" / run_id / "eval_losses.npy").read_bytes(), run_id


def test_interrupted_and_undisturbed_studies_observe_the_same(history, undisturbed, place):
    timed = ("tokens_per_second", "wall_seconds")
    mine, theirs = (
        [{key: row[key] for key in row if key not in timed} for row in observations(path)]
        for path in (place / "study", undisturbed)
    )
    assert mine == theirs
    assert len(mine) == 8 and all(row["delta_se"] > 0 for row in mine)


def test_a_corpus_that_changed_is_refused(undisturbed, place):
    text = (place / "text.txt").read_text()
    (place / "text.txt").write_text(text + "more\n")
    try:
        assert (
            corpora.load(f"file:{place / 'text.txt'}").sha256 not in (undisturbed / "corpus.json").read_text()
        )
        session = subprocess.run(
            [sys.executable, "-m", "qscale", "sweep", "run", str(undisturbed)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (place / "text.txt").write_text(text)
    assert session.returncode == 1
    assert "has changed since this study began" in session.stderr
