"""The `dozlab` command: the root group, its errors and its help. Each group of verbs is a module beside this one."""

from __future__ import annotations

import logging
import signal
import sys

import click

from dozlab import __version__
from dozlab.lib.errors import DozlabError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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


def _register() -> None:
    from dozlab.cli import component_commands, image_commands, machine_commands, session_commands, share_commands

    for module in (session_commands, machine_commands, share_commands, image_commands, component_commands):
        for command in module.COMMANDS:
            cli.add_command(command)


_register()


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
