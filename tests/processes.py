"""Two processes that train together over gloo, as ``accelerate launch`` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: What the launch with FSDP puts into the environment.
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def job(run, folder, *, trunk=None, **how):
    """A run into ``folder/run``; its trunk in ``folder/trunk``, unless it starts from another folder."""
    return {
        "run": run.to_json(),
        "folder": str(folder),
        "trunk": None if trunk is None else str(trunk),
        "how": how,
    }


def train_together(jobs, text, *, sharded=False):
    """Do the jobs, one after another, in two new processes; return the records."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "QSCALE_CACHE": str(text.parent / "cache")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, __file__, json.dumps(jobs), f"file:{text}"],
        env=environment | (FSDP if sharded else {}),
        timeout=900,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((Path(job["folder"]) / "record.json").read_text()) for job in jobs]


def _main() -> None:
    import torch

    from qscale.data import corpus as corpora
    from qscale.training import loop
    from qscale.training.config import RunConfig
    from qscale.training.how import How
    from qscale.training.ranks import ranks_of

    torch.set_num_threads(1)
    ranks, corpus = ranks_of("cpu"), corpora.load(sys.argv[2])
    assert ranks.world == 2
    for job in json.loads(sys.argv[1]):
        run, folder = RunConfig.from_json(job["run"]), Path(job["folder"])
        how = How(device=ranks.device("cpu"), ranks=ranks, **job["how"])
        start = Path(job["trunk"] or folder / "trunk")
        if job["trunk"] is None:
            assert loop.run_trunk(run, [9, run.branch_step], start, corpus, how)
        record = loop.run_branch(run, folder / "run", start, corpus, how)
        if ranks.is_main:
            (folder / "record.json").write_text(record.dumps())


if __name__ == "__main__":
    _main()
