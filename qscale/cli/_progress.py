"""What ``train`` and ``sweep run`` share: remarks, and the end of a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qscale.sweep.executors import Outcome
    from qscale.sweep.store import Store


def remarks(as_json: bool) -> Callable[[str], None]:
    """Where one-line remarks go: an event on stdout, or a line on stderr."""

    def say(line: str) -> None:
        if as_json:
            click.echo(json.dumps({"event": "note", "text": line}))
        else:
            click.echo(f"note      {line}", err=True)

    return say


def end(store: Store, outcome: Outcome, *, as_json: bool, resume: str) -> int:
    """Say how the session ended and what to do next; returns the exit code."""
    if as_json:
        click.echo(json.dumps({"event": "end", **asdict(outcome), "exit_code": outcome.exit_code}))
        return outcome.exit_code
    click.echo(f"{outcome.done} of {outcome.runs} runs done in {store.path}")
    if outcome.stopped and outcome.done < outcome.runs:
        click.echo(f"stopped; nothing is lost, go on with: {resume}", err=True)
    elif outcome.exit_code:
        faults = [
            f"{count} {what}"
            for count, what in (
                (outcome.failed, "failed jobs"),
                (outcome.blocked, "runs that need them"),
                (outcome.died, "workers that could not go on"),
            )
            if count
        ]
        what = ", ".join(faults) or "some runs are not done"
        status = f"qscale sweep status {store.path}"
        click.echo(f"error: {what}; see '{status}', and try again with: {resume}", err=True)
    return outcome.exit_code
