"""The command line: a group whose commands load when they are used, and errors in one line."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from qscale.errors import QScaleError

#: Module of each command below ``qscale.cli`` and its line in ``qscale --help``, kept here so that help
#: loads no command. Each module names its click command ``command``.
COMMANDS = {
    "doctor": "What works on this machine, and why the rest does not.",
    "bench": "Time the kernels against memory bandwidth and installed peers.",
    "train": "Train one ladder: its trunk, baseline and quantized branches.",
    "ptq": "Quantize a trained model in one pass, and say what that costs.",
    "sweep": "Run, watch and export a grid of runs.",
    "fit": "Fit a law form to measured deltas.",
    "laws": "List and show the laws of the literature and your own.",
    "predict": "Predict delta or loss from a law.",
    "plan": "Say what to ship or train under a memory, loss or compute budget.",
    "report": "Draw the figures of a study.",
}
INTERRUPTED = 130  # as a shell says it: 128 and SIGINT


class _Group(click.Group):
    """Loads a command's module when the command is asked for; a wrong name gets the nearest right one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"qscale.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            nearest = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            ctx.fail(f"No such command {args[0]!r}.{hint} Known: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except QScaleError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import qscale

        click.echo(f"qscale {qscale.__version__}")
        ctx.exit()


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: qscale sweep run study.yaml --out study",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
def main() -> None:
    """How much loss quantization costs at model size N, after D training tokens, with a scale per G elements.

    Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
    """
