"""examples/slurm.sh with stand-ins for Slurm's commands: what it starts, and where."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweep.test_end_to_end import place, undisturbed  # noqa: F401 - fixtures

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sh"
#: Runs what follows its options once for each task.
SRUN = r"""#!/bin/bash
echo "srun ${*//$'\n'/ }" >> "$CALLS"
tasks=1 code=0
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && tasks=${1#*=}; shift; done
for ((rank = 0; rank < tasks; rank++)); do SLURM_PROCID=$rank SLURM_NODEID=$rank "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || { last=$?; ((last > code)) && code=$last; }; done
exit "$code"
"""
SAY = '#!/bin/bash\necho "{name} $*" >> "$CALLS"\n{rest}\n'
HOSTS = '[[ $1 == show ]] && printf "node1\\nnode2\\n"; exit 0'


@pytest.fixture
def slurm(tmp_path):
    """Runs the script in an allocation; ``calls`` are the commands that it gave."""
    calls, commands = tmp_path / "calls", tmp_path / "bin"
    commands.mkdir()

    def install(name, text):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)

    def run(*arguments, cwd=tmp_path, **env):
        calls.write_text("")
        known = {"PATH": f"{commands}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_JOB_ID": "77"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        command = ["bash", str(SCRIPT), *map(str, arguments)]
        run.result = subprocess.run(
            command, cwd=cwd, env=kept | known | env, capture_output=True, text=True, timeout=200, check=False
        )
        return run.result.returncode, calls.read_text().splitlines()

    install("srun", SRUN)
    install("scontrol", SAY.format(name="scontrol", rest=HOSTS))
    install("accelerate", SAY.format(name="accelerate", rest=""))
    run.install = install
    return run


def says(slurm, rest=""):
    slurm.install("qscale", SAY.format(name="qscale", rest=rest))


def real(slurm):
    slurm.install("qscale", f'#!/bin/bash\nexec "{sys.executable}" -m qscale "$@"\n')


def test_the_script_is_valid_bash():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_without_arguments_it_says_how(slurm):
    assert slurm()[0] == 2
    assert "usage: sbatch" in slurm.result.stderr


def test_one_node_runs_the_study(slurm, place, undisturbed):  # noqa: F811
    real(slurm)
    code, calls = slurm("study.yaml", "by-slurm", "--json", cwd=place, SLURM_CPUS_PER_TASK="2")
    assert code == 0, slurm.result.stderr
    assert len(calls) == 1 and calls[0].startswith(
        "srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=2"
    )
    assert json.loads(slurm.result.stdout.splitlines()[-1])["done"] == 12
    same(place / "by-slurm", undisturbed)


def test_two_nodes_share_a_study(slurm, place, undisturbed):  # noqa: F811
    real(slurm)
    env = {"SLURM_JOB_NUM_NODES": "2", "SLURM_MEM_PER_NODE": "8000"}
    code, calls = slurm("study.yaml", "by-two", "--workers", "1", "--json", cwd=place, **env)
    assert code == 0, slurm.result.stderr
    assert "--ntasks=2" in calls[0] and calls[0].endswith("--workers 1 --json --memory 8000M")
    events = [json.loads(line) for line in slurm.result.stdout.splitlines()]
    assert [event["done"] for event in events if event["event"] == "end"] == [12, 12]
    finished = [event["id"] for event in events if event["event"] == "finished"]
    assert len(finished) == len(set(finished)) == 14, "no job is done twice"
    same(place / "by-two", undisturbed)


def same(folder, other):
    losses = sorted((folder / "runs").glob("*/eval_losses.npy"))
    assert len(losses) == 12
    for path in losses:
        assert path.read_bytes() == (other / "runs" / path.parent.name / path.name).read_bytes()


def test_gpus_are_used_where_there_are_some(slurm):
    says(slurm)
    code, calls = slurm("a study.yaml", "b", SLURM_GPUS_ON_NODE="4")
    assert code == 0 and calls[1] == "qscale sweep run a study.yaml --out b --device cuda"


@pytest.mark.parametrize(("ends", "requeued"), [(0, False), (1, False), (130, True)])
def test_what_was_stopped_is_queued_again(slurm, ends, requeued):
    says(slurm, f"exit {ends}")
    code, calls = slurm("study.yaml", "folder")
    assert code == ends
    assert ("scontrol requeue 77" in calls) is requeued


def test_a_large_model_is_divided_among_the_gpus_of_all_nodes(slurm):
    env = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node[1-2]"}
    code, calls = slurm("train", "--size", "paper-595m", "--tokens", "10B", "--out", "big model", **env)
    assert code == 0
    launched = sorted(call for call in calls if call.startswith("accelerate"))
    assert len(launched) == 2
    for rank, call in enumerate(launched):
        assert f"--machine_rank {rank} " in call
        assert (
            "--main_process_ip node1" in call and "--num_machines 2" in call and "--num_processes 16" in call
        )
        assert call.endswith("-m qscale train --size paper-595m --tokens 10B --out big model")
