"""The same study on a cluster of two nodes, of which one is lost on the way."""

import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from sweep import test_end_to_end
from sweep.studies import board_at

from qscale.errors import ConfigError
from qscale.sweep.ray_cluster import RayExecutor

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

STORE = {"object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE}
        )
        found.second = found.add_node(num_cpus=1, **STORE)
        yield found
        found.shutdown()


place, undisturbed = test_end_to_end.place, test_end_to_end.undisturbed  # fixtures


def drive(folder, cluster, on_event=lambda _: None):
    command = [sys.executable, "-m", "qscale", "sweep", "run", "study.yaml", "--out", "on-ray", "--json"]
    command += ["--executor", "ray", "--address", cluster.address, "--threads", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as driver:
        timer = threading.Timer(300, driver.kill)
        timer.start()
        try:
            events = []
            for line in driver.stdout:
                events.append(json.loads(line))
                on_event(events)
            remarks = driver.stderr.read()
        finally:
            driver.kill()
            timer.cancel()
    return SimpleNamespace(code=driver.returncode, events=events, remarks=remarks)


def test_a_study_survives_the_loss_of_a_node_and_has_the_same_bytes(place, cluster, undisturbed):
    def lose_a_node(events):
        running = {event["id"] for event in events if event["event"] == "step"}
        if len(running) == 2 and cluster.second is not None:
            cluster.remove_node(cluster.second, allow_graceful=False)
            cluster.second = None

    session = drive(place, cluster, lose_a_node)
    assert session.code == 0, (session.events[-3:], session.remarks)
    lost = [event for event in session.events if event["event"] == "retrying"]
    assert [event["error"] for event in lost] == ["its node was lost"]
    assert session.events[-1]["done"] == 12
    losses = {path.parent.name: path for path in (place / "on-ray" / "runs").glob("*/eval_losses.npy")}
    assert len(losses) == 12
    for run_id, path in losses.items():
        assert path.read_bytes() == (undisturbed / "runs" / run_id / "eval_losses.npy").read_bytes(), run_id
    assert list((place / "on-ray" / "logs").glob("stop-*")) == []
    again = drive(place, cluster)
    assert again.code == 0 and "12 of 12 runs already done" in again.events[0]["text"]


def test_a_job_that_no_machine_can_take_is_refused_at_once(tmp_path, cluster):
    board = board_at(tmp_path / "study")
    executor = RayExecutor(board, lambda _: None, address=cluster.address, threads=64)
    with pytest.raises(ConfigError, match="no machine of the cluster has 64 CPUs"):
        executor.run(SimpleNamespace(count=0))


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    executor = RayExecutor(board_at(tmp_path / "study"), lambda _: None, address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"Ray cannot be reached at 127\.0\.0\.1:1"):
        executor.run(SimpleNamespace(count=0))
