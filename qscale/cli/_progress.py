"""What ``train`` and ``sweep run`` share: remarks, and the end of a session."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qscale.sweep.outcome import Outcome
    from qscale.sweep.store import Store


def remarks(as_json: bool) -> Callable[[str], None]:
    """Where one-line remarks go: an event on stdout, or a line on stderr."""

    def say(line: str) -> None:
        if as_json:
            click.echo(json.dumps({"time": round(time.time(), 3), "event": "note", "text": line}))
        else:
            click.echo(f"note      {line}", err=True)

    return say


def resume(store: Store, **options: object) -> str:
    """The command that goes on with a study, with those options of this one that were given."""
    context = click.get_current_context()
    words = ["qscale", "sweep", "run", str(store.path)]
    for name, value in options.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def end(store: Store, outcome: Outcome, *, as_json: bool, resume: str) -> int:
    """Say how the session ended and what to do next; returns the exit code."""
    if as_json:
        event = {"event": "end", **asdict(outcome), "exit_code": outcome.exit_code}
        click.echo(json.dumps({"time": round(time.time(), 3), **event}))
        return outcome.exit_code
    diverged = f", {outcome.diverged} diverged (left out of fits)" if outcome.diverged else ""
    from qscale.sweep.words import plural

    click.echo(f"{outcome.done} of {outcome.runs} runs done in {store.path}{diverged}")
    if outcome.stopped and outcome.done < outcome.runs:
        click.echo(f"stopped; nothing is lost, go on with: {resume}", err=True)
    elif outcome.exit_code:
        faults = [
            plural(count, noun) + rest
            for count, noun, rest in (
                (outcome.failed, "failed job", ""),
                (outcome.blocked, "run", " that cannot go on without"),
                (outcome.died, "worker", " that could not go on"),
            )
            if count
        ]
        what = ", ".join(faults) or "some runs are not done"
        status = shlex.join(["qscale", "sweep", "status", str(store.path)])
        click.echo(f"error: {what}; see: {status}; try again with: {resume}", err=True)
    return outcome.exit_code
