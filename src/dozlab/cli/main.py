"""The `dozlab` command: the root group, its errors and its help. Each group of verbs is a module beside this one."""

from __future__ import annotations

import importlib
import logging
import signal
import sys

import click

from dozlab import __version__
from dozlab.lib.errors import DozlabError

GROUPS = {
    "session_commands": ("up", "down", "ls", "status", "logs", "ssh", "exec", "open", "setup", "doctor"),
    "machine_commands": ("pause", "resume", "checkpoint", "reset"),
    "share_commands": ("share",),
    "image_commands": ("image",),
    "component_commands": ("run",),
}
"""Module beside this one -> the commands it has."""


class _Commands(click.Group):
    """Imports the module of the command that is asked for and of no other: `dozlab up` is a matter of milliseconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(name for names in GROUPS.values() for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for module, names in GROUPS.items():
            if cmd_name in names:
                commands: list[click.Command] = importlib.import_module(f"dozlab.cli.{module}").COMMANDS
                return next(each for each in commands if each.name == cmd_name)
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dozlab")
def cli() -> None:
    """Self-hosted lab machines: a real Linux machine per learner, in the browser.

    \b
    dozlab up lab             a machine, its terminal and VS Code
    dozlab ls                 what runs
    dozlab ssh lab            a shell in the guest
    dozlab logs lab -c firecracker-vm
    dozlab down lab           stop it and remove it
    dozlab doctor             what this machine lacks, and the commands that fix it

    Completion: eval "$(_DOZLAB_COMPLETE=bash_source dozlab)" (or zsh_source, fish_source).
    """


def main() -> None:
    """Run the command. Exit codes: 0 done, 1 failed, 2 bad usage or values, 3 no such session."""
    # What the rooms below log as they work is the progress a person sees.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dozlab").setLevel(logging.INFO)
    # A polite kill cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = cli.main(standalone_mode=False)
    except DozlabError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
