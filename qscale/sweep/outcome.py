"""How a study stands when its executor is done. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from qscale.sweep.board import Board


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Counts of a study's runs, and of what went wrong."""

    runs: int
    done: int
    failed: int  #: runs and trunks that failed in this or another process
    blocked: int  #: runs that need something that failed
    died: int  #: workers that could not go on
    diverged: int  #: of those done; they are left out of fits
    stopped: bool

    @property
    def exit_code(self) -> int:
        """0 all done; 130 stopped on request; 1 anything else."""
        if self.stopped and self.done < self.runs:
            return 130
        return 0 if self.done == self.runs else 1


def outcome(board: Board, *, stopped: bool, died: int = 0) -> Outcome:
    """Count the jobs by their states now."""
    states = board.look()
    runs = [states[run_id] for run_id in board.runs]
    return Outcome(
        runs=len(runs),
        done=runs.count("done"),
        failed=list(states.values()).count("failed"),
        blocked=runs.count("blocked"),
        died=died,
        diverged=len(board.diverged),
        stopped=stopped,
    )


def retry_failures(board: Board) -> None:
    """Forget earlier failures, so that this run tries those jobs again."""
    for job in board.jobs:
        if board.store.failure(job) is not None:
            board.store.clear_failure(job)
